//! What the sidecars share: the process around a gRPC service, its traces, and, for the two that Envoy
//! asks by `ext_authz`, how a request is read and an answer written.

pub mod ext_authz;
mod listen;
mod process;
pub mod traces;

pub use listen::{Io, Transport};
pub use process::{DRAIN_DEADLINE, Process, Settings};
