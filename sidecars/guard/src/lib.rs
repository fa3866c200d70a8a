//! Authentication and authorization in one call, and rate limiting beside them in the same process. Only puts the three
//! libraries together: it decides nothing itself.

use api::ResourceType;

mod follower;
mod service;

pub use follower::Follower;
pub use service::GuardService;

/// What this sidecar follows: all that the three follow, in the order of pushes.
pub fn kinds() -> Vec<ResourceType> {
    [authn::KINDS.as_slice(), &authz::KINDS, &ratelimit::KINDS].concat()
}
