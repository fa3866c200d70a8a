//! Sessions: a JWT in a cookie, which browsers send along unasked.

use api::authn::Session;
use sidecar::ext_authz::Facts;

use crate::{
    credentials::{Presented, header},
    identity::Kind,
    jwt::verify,
    method::{
        Asked, Credential, Method, Outcome, Place, Proven, Stop, confirm_certificate, refuse_bound_to_key,
    },
    state::Snapshot,
};

impl Method for Session {
    fn place(&self) -> Place<'_> {
        Place::Cookie(&self.cookie)
    }

    fn verify(&self, credential: &Credential<'_>, state: &Snapshot, now: f64) -> Outcome {
        verify(Kind::Session, &self.jwt, credential, state, now)
    }

    /// A browser adds the cookie to requests that other sites make. Those that change something do not go on.
    fn confirm(&self, found: &Proven, asked: &Asked<'_>) -> Result<(), Stop> {
        refuse_bound_to_key(found)?;
        confirm_certificate(found, asked)?;
        if is_meant(asked.facts) { Ok(()) } else { Err(Stop::CrossSite) }
    }

    fn challenge(&self, error: Option<&str>) -> String {
        let error = error.map(|why| format!(", error_description=\"{why}\"")).unwrap_or_default();
        format!("Cookie realm=\"gatehouse\", cookie=\"{}\"{error}", self.cookie)
    }
}

/// Whether the service's own pages have made the request, or nothing that runs in a browser. Browsers say so in headers
/// that no page can set: `Sec-Fetch-Site` (W3C Fetch Metadata), older ones `Origin` (RFC 6454 section 7).
fn is_meant(facts: &Facts<'_>) -> bool {
    let is_harmless = ["GET", "HEAD", "OPTIONS"].contains(&facts.method());
    // A WebSocket begins as a GET.
    if is_harmless && facts.header("upgrade").is_empty() {
        return true;
    }
    match header(facts, "sec-fetch-site") {
        Presented::Nothing => {}
        Presented::One(site) => return ["same-origin", "none"].contains(&site),
        _ => return false,
    }
    match header(facts, "origin") {
        Presented::Nothing => true,
        Presented::One(origin) => {
            let host = origin.split_once("://").map(|(_, authority)| authority);
            let host = host.map(|authority| authority.split_once(':').map_or(authority, |(host, _)| host));
            host.is_some_and(|host| host.eq_ignore_ascii_case(facts.host()))
        }
        _ => false,
    }
}
