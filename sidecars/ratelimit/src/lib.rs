//! The rate-limit sidecar: has this request's kind still room? Limits come as the standard
//! `ratelimit.config.ratelimit.v3.RateLimitConfig`, or as files of the reference server, envoyproxy/ratelimit.

mod service;

mod diff;
pub mod http;

mod answer;
mod decide;

mod config;

mod fleet;

mod counter;
mod table;

#[cfg(any(test, feature = "testing"))]
pub mod simulator;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

mod files;
mod metrics;
mod sotw;
mod state;
mod stats;

pub use answer::Extras;
pub use config::Defaults;
pub use diff::Diff;
pub use files::Folder;
pub use fleet::{Fleet, FleetSettings, RedisSettings};
pub use metrics::Metrics;
pub use service::{Options, RateLimitSidecar};
pub use sotw::Sotw;
pub use state::{Follower, State};

/// What this sidecar follows.
pub const KINDS: [api::ResourceType; 1] = [api::ResourceType::RateLimitConfig];

/// Reads files as the sidecar does, by name and text, and says how many limits are in them.
///
/// # Errors
/// The first mistake, with its file, and the line or the field.
pub fn check(files: &[(String, String)], merge: bool, defaults: &Defaults) -> Result<usize, String> {
    let domains = config::read(files, merge, defaults)?;
    Ok(domains.iter().map(|domain| domain.limits().count()).sum())
}
