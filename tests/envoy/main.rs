//! What the control plane refuses, and what Envoy and the sidecars refuse.

mod gate;
mod nack;
mod order;
