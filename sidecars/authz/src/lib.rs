//! The authorization sidecar: may this identity do this? The identity is what authentication left in the
//! metadata, and is never read from a header.

mod decide;
mod gauges;
mod metrics;
mod service;
mod state;
mod told;

pub use service::AuthzService;
pub use state::{Follower, State};

/// What this sidecar follows.
pub const KINDS: [api::ResourceType; 2] = [api::ResourceType::AuthzGuardrail, api::ResourceType::AuthzPolicy];
