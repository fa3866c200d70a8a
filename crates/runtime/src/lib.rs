//! What every process of ours does alike: telemetry, readiness, signals and drain, the admin endpoint, Unix
//! sockets, mutual TLS, files, the clock, jitter. Nothing here is global but the log, and nothing knows what the process is for.

pub mod admin;
pub mod clock;
pub mod files;
pub mod jitter;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod unix;

pub use admin::Admin;
pub use clock::{Clock, SystemClock};
pub use readiness::{Latch, Readiness};
pub use shutdown::{Shutdown, shutdown};
