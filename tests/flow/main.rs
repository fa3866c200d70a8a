//! The main job, end to end: from a broker request to traffic through a real Envoy.

mod access_log;
mod client;
mod decisions;
mod onboarding;
mod outage;
mod up;
