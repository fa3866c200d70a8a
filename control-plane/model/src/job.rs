//! What the broker hands to a worker.

use serde::{Deserialize, Serialize};

use crate::InstanceId;

/// Work on one operation of one instance. What has to be done stands in the instance itself, step by step,
/// so a job may come twice, late, or after its work is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The operation's id.
    pub id: String,
    /// Upon which instance.
    pub instance: InstanceId,
}
