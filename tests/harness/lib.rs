//! What tests are made of: a [`Lab`] that runs the whole edge as real processes on free ports in a folder of its
//! own, and builders for what they ask of it. Waits for conditions, never for time.

// A test that cannot go on says so and ends.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc)]

mod balancer;
mod certificates;
mod client;
mod cloud;
pub mod figures;
pub mod fuzz;
pub mod issuer;
mod lab;
mod load;
mod provider;
mod raw;
mod service;
mod storm;

pub use balancer::Balancer;
pub use certificates::TestCa;
pub use client::{Answer, Token};
pub use cloud::{Cloud, Doors, ORIGIN_SECRETS};
pub use lab::{Lab, aws, envoy, eventually, program, project, tool};
pub use load::{Load, Seen, wrk};
pub use provider::Provider;
pub use raw::Raw;
pub use service::Service;
pub use storm::{Storm, Weathered};
