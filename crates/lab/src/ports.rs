//! Where everything listens. `up` uses the ports of the design; tests take free ones.

use std::{collections::BTreeSet, net::TcpListener};

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
    pub upstream: u16,
}

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
            upstream: 9001,
        }
    }
}

impl Ports {
    fn all(&self) -> [(&'static str, u16); 9] {
        [
            ("Envoy's http listener", self.http),
            ("Envoy's https listener", self.https),
            ("Envoy's admin interface", self.envoy_admin),
            ("the control plane", self.control_plane),
            ("the control plane's xDS", self.xds),
            ("authn's admin endpoint", self.authn),
            ("authz's admin endpoint", self.authz),
            ("ratelimit's admin endpoint", self.ratelimit),
            ("the sample upstream", self.upstream),
        ]
    }

    /// Ports that nobody uses now.
    pub fn free() -> Result<Self, LabError> {
        // All are held until the last one is found, so that none is found twice.
        let mut held = Vec::new();
        let mut next = || -> Result<u16, LabError> {
            let listener =
                TcpListener::bind("127.0.0.1:0").map_err(LabError::io("looking for a free port"))?;
            let port = listener.local_addr().map_err(LabError::io("looking for a free port"))?.port();
            held.push(listener);
            Ok(port)
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
