//! The main job, end to end: from a broker request to traffic through a real Envoy.

// A test that cannot go on says so and ends.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc)]

mod access_log;
mod ages;
mod asked;
mod attacks;
mod authorization;
mod bindings;
mod cedar;
mod client;
mod cloud;
mod combined;
mod decision_log;
mod decisions;
mod guardrails;
mod handover;
mod http_authz;
mod issuers;
mod jobs;
mod methods;
mod onboarding;
mod openapi;
mod outage;
mod rate_limits;
mod render;
mod revocation;
mod storm;
mod tenants;
mod transports;
mod up;
