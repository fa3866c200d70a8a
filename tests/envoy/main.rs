//! What the control plane refuses, and what Envoy and the sidecars refuse.

// A test that cannot go on says so and ends.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc)]

mod context;
mod fleet;
mod gate;
mod grpc;
mod identity;
mod nack;
mod order;
mod predecessor;
mod status;
mod stuck;
mod transports;
mod validator;
