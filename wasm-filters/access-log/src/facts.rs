//! What the filter read about one request: raw, unredacted, never to be written as it stands.

use crate::{
    Flags,
    wire::{flag, text, whole},
};

/// Finds one value of a metadata map, as the host serialized it.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<Vec<u8>>;

/// One request, as Envoy saw it. What Envoy did not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// When it began, since the epoch.
    pub time_ns: u64,
    /// From the first byte in to the last byte out.
    pub duration_ns: Option<u64>,
    /// `GET`.
    pub method: Option<String>,
    /// `:authority`.
    pub host: Option<String>,
    /// With its query.
    pub path: Option<String>,
    /// `HTTP/1.1`.
    pub protocol: Option<String>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// Address and port of the client, past the trusted hops.
    pub client: Option<String>,
    /// The body's, as declared, else as received.
    pub request_bytes: Option<u64>,
    /// 0 when the client left before an answer.
    pub status: u16,
    /// The body's, as sent.
    pub response_bytes: Option<u64>,
    /// What Envoy thinks of the answer.
    pub flags: Flags,
    /// Who made the answer, and why: `via_upstream`, `route_not_found`, `request_rate_limited`.
    pub details: Option<String>,
    /// Address and port of the upstream.
    pub upstream: Option<String>,
    /// From the first byte to the upstream to the last byte from it.
    pub upstream_duration_ns: Option<u64>,
    /// Request headers, in lower case; at least those of [`crate::Settings::header_names`] that were there.
    pub headers: Vec<(String, String)>,
    /// What authentication found.
    pub authn: Option<Authn>,
    /// What authorization decided.
    pub authz: Option<Authz>,
    /// What the rate limiter said.
    pub rate_limit: Option<RateLimit>,
}

/// The dynamic metadata `envoy.filters.http.ext_authz` → `authn`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authn {
    /// Whether the sidecar answered at all.
    pub decided: bool,
    /// `jwt`, `api_key`, `anonymous` …
    pub method: Option<String>,
    /// Who vouches for the subject.
    pub iss: Option<String>,
    /// Who sent the request.
    pub sub: Option<String>,
    /// The policy that was applied.
    pub policy: Option<String>,
    /// The policy's revision.
    pub rev: Option<u64>,
}

impl Authn {
    /// From the map that the sidecar set.
    pub fn read(get: Lookup<'_>) -> Self {
        Self {
            decided: is_set(get, "decided"),
            method: get("method").map(text),
            iss: get("iss").map(text),
            sub: get("sub").map(text),
            policy: get("policy").map(text),
            rev: number(get, "rev"),
        }
    }
}

/// The dynamic metadata `envoy.filters.http.ext_authz` → `authz`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authz {
    /// Whether the sidecar answered at all.
    pub decided: bool,
    /// `allow` or `deny`.
    pub effect: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// `enforce` or `shadow`.
    pub mode: Option<String>,
    /// The policy that was applied.
    pub policy: Option<String>,
    /// The policy's revision.
    pub rev: Option<u64>,
}

impl Authz {
    /// From the map that the sidecar set.
    pub fn read(get: Lookup<'_>) -> Self {
        Self {
            decided: is_set(get, "decided"),
            effect: get("effect").map(text),
            rule: get("rule").map(text),
            mode: get("mode").map(text),
            policy: get("policy").map(text),
            rev: number(get, "rev"),
        }
    }
}

/// The dynamic metadata `envoy.filters.http.ratelimit`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// `ok` or `over_limit`.
    pub outcome: Option<String>,
    /// Of the limit nearest to its end.
    pub limit: Option<u64>,
    /// What was left of it.
    pub remaining: Option<u64>,
}

impl RateLimit {
    /// From the map that the sidecar set.
    pub fn read(get: Lookup<'_>) -> Self {
        Self {
            outcome: get("outcome").map(text),
            limit: number(get, "limit"),
            remaining: number(get, "remaining"),
        }
    }
}

fn number(get: Lookup<'_>, name: &str) -> Option<u64> {
    get(name).and_then(|bytes| whole(&bytes))
}

fn is_set(get: Lookup<'_>, name: &str) -> bool {
    get(name).and_then(|bytes| flag(&bytes)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, wire::tests::pairs};

    fn read<T>(entries: &[(&str, &[u8])], read: impl Fn(Lookup<'_>) -> T) -> T {
        let bytes = pairs(entries);
        let map = Map::read(&bytes).unwrap();
        read(&|name| map.get(name).map(<[u8]>::to_vec))
    }

    #[test]
    fn identity_is_read_from_the_sidecars_metadata() {
        let rev = 417f64.to_le_bytes();
        let entries: &[(&str, &[u8])] =
            &[("decided", &[1]), ("method", b"jwt"), ("sub", b"ann"), ("iss", b"https://id"), ("rev", &rev)];
        let expected = Authn {
            decided: true,
            method: Some("jwt".into()),
            iss: Some("https://id".into()),
            sub: Some("ann".into()),
            policy: None,
            rev: Some(417),
        };
        assert_eq!(read(entries, Authn::read), expected);
    }

    #[test]
    fn a_decision_is_read_from_the_sidecars_metadata() {
        let entries: &[(&str, &[u8])] =
            &[("decided", &[1]), ("effect", b"deny"), ("rule", b"default"), ("mode", b"shadow")];
        let authz = read(entries, Authz::read);
        assert_eq!(
            (authz.effect.as_deref(), authz.mode.as_deref(), authz.rev),
            (Some("deny"), Some("shadow"), None)
        );
    }

    #[test]
    fn a_rate_limit_is_read_from_the_sidecars_metadata() {
        let (limit, remaining) = (100f64.to_le_bytes(), 0f64.to_le_bytes());
        let entries: &[(&str, &[u8])] =
            &[("outcome", b"over_limit"), ("limit", &limit), ("remaining", &remaining)];
        let expected = RateLimit { outcome: Some("over_limit".into()), limit: Some(100), remaining: Some(0) };
        assert_eq!(read(entries, RateLimit::read), expected);
    }
}
