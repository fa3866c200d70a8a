//! The authentication sidecar: who sends this request? Policies and keys come over xDS, never from a request.

use api::ResourceType;

mod decide;

mod ages;
mod bucket;
mod cache;
mod credentials;
mod identity;
mod learned;
mod method;
mod policy;
mod replays;
mod token;
mod work;

mod anonymous;
mod api_key;
mod asap;
mod basic;
mod bound;
mod introspection;
mod jwt;
mod mtls;
mod session;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub mod check;
mod flags;
mod gauges;
pub mod http;
mod metrics;
mod revocations;
mod service;
mod state;
mod told;

pub use ages::STALE_AFTER;
pub use cache::Tokens;
pub use flags::Flags;
pub use metrics::Metrics;
pub use revocations::{Revocations, TokenFacts};
pub use service::AuthnService;
pub use state::{Follower, State};

/// What this sidecar follows.
pub const KINDS: [ResourceType; 4] = [
    ResourceType::AuthnKeySet,
    ResourceType::AuthnRevocations,
    ResourceType::AuthnIdentityKey,
    ResourceType::AuthnPolicy,
];
