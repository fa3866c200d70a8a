//! The authentication sidecar: who sends this request? Policies and keys come over xDS, never from a request.

use api::ResourceType;

mod decide;

mod cache;
mod credentials;
mod identity;

mod api_key;
mod metrics;
mod revocations;
mod service;
mod state;

pub use cache::Tokens;
pub use metrics::Metrics;
pub use revocations::{Revocations, TokenFacts};
pub use service::AuthnService;
pub use state::{Follower, State};

/// What this sidecar follows.
pub const KINDS: [ResourceType; 3] =
    [ResourceType::AuthnKeySet, ResourceType::AuthnRevocations, ResourceType::AuthnPolicy];
