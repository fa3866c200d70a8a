//! Serves snapshots to nodes by delta ADS, and knows what each node has acknowledged.
//!
//! Never serves half a snapshot, never a route before its policies, and never again what a client refused.

mod hub;
mod node;
mod service;
mod session;

mod metrics;

pub use hub::{Group, Hub, NodeView, RoleView};
pub use metrics::Metrics;
pub use service::AdsService;
