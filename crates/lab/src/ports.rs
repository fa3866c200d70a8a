//! Where everything listens. `up` uses the ports of the design; tests take free ones.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::LabError;

/// TCP ports on loopback.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Ports {
    pub http: u16,
    pub https: u16,
    pub envoy_admin: u16,
    pub control_plane: u16,
    pub xds: u16,
    pub authn: u16,
    pub authz: u16,
    pub ratelimit: u16,
    pub guard: u16,
    pub upstream: u16,
}

/// Linux takes the ports of outgoing connections from 32768 on (`ip_local_port_range`); the ports of `up` and of what
/// people usually run lie below.
const BELOW_EPHEMERAL: Range<u16> = 23_000..28_900;
/// Processes that run at the same time begin far from one another.
const STRIDE: usize = 997;
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Default for Ports {
    fn default() -> Self {
        Self {
            http: 10_000,
            https: 10_443,
            envoy_admin: 9901,
            control_plane: 8080,
            xds: 18_000,
            authn: 9101,
            authz: 9102,
            ratelimit: 9103,
            guard: 9105,
            upstream: 9001,
        }
    }
}

impl Ports {
    fn all(&self) -> [(&'static str, u16); 10] {
        [
            ("Envoy's http listener", self.http),
            ("Envoy's https listener", self.https),
            ("Envoy's admin interface", self.envoy_admin),
            ("the control plane", self.control_plane),
            ("the control plane's xDS", self.xds),
            ("authn's admin endpoint", self.authn),
            ("authz's admin endpoint", self.authz),
            ("ratelimit's admin endpoint", self.ratelimit),
            ("guard's admin endpoint", self.guard),
            ("the sample upstream", self.upstream),
        ]
    }

    /// Ports that nobody uses now, and that the kernel gives to no outgoing connection: one of its own choice could
    /// be taken again before it is used. Two calls of one process never get the same.
    pub fn free() -> Result<Self, LabError> {
        let next = || -> Result<u16, LabError> {
            for _ in 0..BELOW_EPHEMERAL.len() {
                let at =
                    NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as usize * STRIDE);
                let port =
                    BELOW_EPHEMERAL.start + u16::try_from(at % BELOW_EPHEMERAL.len()).unwrap_or_default();
                if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                    return Ok(port);
                }
            }
            Err(LabError::io("looking for a free port")(std::io::ErrorKind::AddrInUse.into()))
        };
        Ok(Self {
            http: next()?,
            https: next()?,
            envoy_admin: next()?,
            control_plane: next()?,
            xds: next()?,
            authn: next()?,
            authz: next()?,
            ratelimit: next()?,
            guard: next()?,
            upstream: next()?,
        })
    }

    /// Refuses to start where something else listens, before anything is started.
    pub fn check(&self) -> Result<(), LabError> {
        let mut seen = BTreeSet::new();
        for (what, port) in self.all() {
            if !seen.insert(port) || TcpListener::bind(("127.0.0.1", port)).is_err() {
                return Err(LabError::PortTaken { what, port });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_what_it_is_for() {
        let ports = Ports::free().unwrap();
        ports.check().unwrap();
        let _taken = TcpListener::bind(("127.0.0.1", ports.xds)).unwrap();
        let refusal = ports.check().unwrap_err().to_string();
        assert!(
            refusal.starts_with(&format!("the control plane's xDS: port {} is taken", ports.xds)),
            "{refusal}"
        );
    }
}
