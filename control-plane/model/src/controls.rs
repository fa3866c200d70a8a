//! What operators decided, for all replicas.

use serde::{Deserialize, Serialize};

/// The standing decisions for one group of nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    /// Nothing new is pushed while this is set.
    pub pause: Option<Pause>,
    /// The last change that was held and may go live all the same.
    pub confirmed: Option<String>,
}

/// Who stopped the pushes, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// As the operator signed in.
    pub by: String,
    /// As the operator said.
    pub reason: String,
    /// RFC 3339
    pub since: String,
}
