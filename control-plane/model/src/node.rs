//! What a node says of itself, and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::Deserialize;

/// How a node is served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// By streams, incremental or not: resources refer to others by `ads`.
    #[default]
    Stream,
    /// By polls over REST-JSON: each reference names the cluster to poll.
    Rest,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Rest => "rest",
        })
    }
}

/// A node as it presents itself (`envoy.config.core.v3.Node`). Only what templates can be chosen by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `<group>/<instance>`
    pub id: String,
    /// The group.
    pub cluster: String,
    /// Leaves of its metadata, by dotted path.
    pub metadata: BTreeMap<String, String>,
    /// Of its locality.
    pub region: String,
    /// Of its locality.
    pub zone: String,
    /// Of its locality.
    pub sub_zone: String,
    /// `1.40.0`, when it says so.
    pub version: String,
    /// How it is served.
    pub transport: Transport,
}

/// Which templates a node gets beside those that all get. Nodes with equal selections get equal resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selection {
    /// How its nodes are served.
    pub transport: Transport,
    /// The templates that match.
    pub templates: BTreeSet<Arc<str>>,
    /// `node.cluster`, when templates look at it: then nodes of other clusters get other resources.
    pub cluster: Option<Arc<str>>,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.transport)?;
        self.templates.iter().try_for_each(|template| write!(f, " + {template}"))?;
        self.cluster.iter().try_for_each(|cluster| write!(f, " for {cluster}"))
    }
}
