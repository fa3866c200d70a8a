//! How what exists differs from what is wanted.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// What a look around found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Service instances that were looked at.
    pub instances: usize,
    /// At most [`MOST_FINDINGS`].
    pub findings: Vec<Finding>,
}

/// So many are enough to know that something is wrong.
pub const MOST_FINDINGS: usize = 500;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whose it is, or was.
    pub instance: String,
    /// Of what kind.
    pub kind: Kind,
    /// For people.
    pub what: String,
    /// What became of it.
    pub state: State,
}

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In the DNS.
    Name,
    /// One that is not served, or ends soon.
    Certificate,
    /// In front of the edge.
    Distribution,
    /// It could not be looked at.
    Unknown,
}

/// What became of a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is as it was found.
    Found,
    /// It is as it should be.
    Mended,
    /// It could not be mended, for this reason.
    Failed(String),
}
