//! What templates render: text that is not yet trusted.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::InstanceId;

/// The output of one template for the whole edge, or for one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The template's file name.
    pub template: String,
    /// What kind of resources it yields, as its header says: `clusters`, `virtual_hosts`, …
    pub kind: String,
    /// How long a client may use what it yields without hearing of it again.
    pub ttl: Option<Duration>,
    /// The rules of the protos that it may break, as its header says: newer protos are sometimes stricter than
    /// the proxies of a fleet.
    pub allow: Arc<BTreeSet<String>>,
    /// Whose, when the template is rendered once for each service.
    pub owner: Option<InstanceId>,
    /// YAML: a mapping with the list `resources`.
    pub text: String,
}
