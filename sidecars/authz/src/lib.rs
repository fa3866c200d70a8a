//! The authorization sidecar: may this identity do this? The identity is what authentication left in the
//! metadata, and is never read from a header.

mod cedar;
mod decide;
mod metrics;
mod service;
mod state;

pub use metrics::Metrics;
pub use service::AuthzService;
pub use state::{Follower, State};

/// What this sidecar follows.
pub const KINDS: [api::ResourceType; 1] = [api::ResourceType::AuthzPolicy];
