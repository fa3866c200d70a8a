//! The rate-limit sidecar: has this request's kind still room? Limits come as the standard
//! `ratelimit.config.ratelimit.v3.RateLimitConfig`, and each node counts on its own.

mod config;
mod counters;
mod metrics;
mod service;
mod state;

pub use metrics::Metrics;
pub use service::RateLimitSidecar;
pub use state::{Follower, State};

/// What this sidecar follows.
pub const KINDS: [api::ResourceType; 1] = [api::ResourceType::RateLimitConfig];
