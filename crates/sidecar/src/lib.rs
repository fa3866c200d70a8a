//! What the sidecars share: the process around a gRPC service, and, for the two that Envoy asks by `ext_authz`, how a
//! request is read, an answer written, and a decision told to logs and traces.

pub mod ext_authz;

pub mod decision_log;
pub mod observers;
pub mod traces;

mod listen;
mod process;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use listen::{Io, Transport};
pub use process::{DRAIN_DEADLINE, Process, Settings};
