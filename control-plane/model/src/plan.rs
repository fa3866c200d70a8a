//! The plans of the catalog, and how much each allows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a service gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// Routes, names and a certificate.
    #[default]
    Standard,
    /// The same behind a CDN with a firewall.
    Edge,
    /// Routes and names within the company's networks only.
    Internal,
}

/// How much a service may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Names.
    pub hosts: usize,
    /// Routes.
    pub routes: usize,
    /// API keys that it may have given to its clients.
    pub bindings: usize,
    /// Requests that a node takes for it in a second; more are 429 before any sidecar is asked.
    pub requests_per_second: u32,
}

impl Default for Limits {
    /// The schema's own bounds, and what one node can do.
    fn default() -> Self {
        Self { hosts: 20, routes: 100, bindings: 100, requests_per_second: 20_000 }
    }
}

impl Plan {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Edge, Self::Internal];

    /// OSB's id of it, which never changes.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Standard => "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e11",
            Self::Edge => "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e12",
            Self::Internal => "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e13",
        }
    }

    /// The plan with this id.
    pub fn of_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.id() == id)
    }

    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Edge => "edge",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
