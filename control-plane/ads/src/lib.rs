//! Serves snapshots to nodes over every transport of xDS, and knows what each node has acknowledged.
//!
//! Never serves half a snapshot, never a route before its policies, and never again what a client refused.

mod hub;
mod node;
mod served;

mod gate;
mod session;

mod asker;
mod csds;
mod frame;
mod grpc;
mod identity;
mod lrs;
mod pollers;
mod rest;
mod router;
mod service;
mod undelivered;
mod wildcards;

mod metrics;
mod view;

pub use asker::node_facts;
pub use hub::{Group, Hub, Limits};
pub use identity::{Identity, InvalidIdentity, Peer};
pub use lrs::Load;
pub use metrics::Metrics;
pub use served::Selector;
pub use service::Discovery;
pub use undelivered::Undelivered;
pub use view::{Difference, NodeView, RoleView, TypeView};
