//! How a service's developers say who may come: `auth` of a service and of a route, and the policies that come of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::InstanceId;

/// How a request may prove who sends it. With neither `any` nor `all`, nobody passes who needs a credential.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// OR.
    #[serde(default)]
    pub any: Vec<AuthMethod>,
    /// AND, in the place of `any`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<AuthGroup>,
    /// Paths that need no credential.
    #[serde(default)]
    pub anonymous: Vec<String>,
    /// How the upstream is told who sends a request.
    #[serde(default, skip_serializing_if = "IdentityForm::is_headers")]
    pub identity: IdentityForm,
}

/// How the upstream is told who sends a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityForm {
    /// By headers that begin with `x-gatehouse-`.
    #[default]
    Headers,
    /// By a signed token in the header `x-gatehouse-identity`.
    Token,
}

impl IdentityForm {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    fn is_headers(&self) -> bool {
        *self == Self::Headers
    }
}

/// What one route asks for beside its service, or in its place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteAuth {
    /// OR.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub any: Vec<AuthMethod>,
    /// AND, in the place of `any`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub all: Vec<AuthGroup>,
    /// Paths that need no credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anonymous: Vec<String>,
    /// Whether the service's own requirements do not count here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
}

/// One of those that must all be satisfied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AuthGroup {
    /// OR.
    Any {
        /// At least one.
        any: Vec<AuthMethod>,
    },
    /// Just this.
    One(AuthMethod),
}

impl AuthGroup {
    /// Its methods.
    pub fn methods(&self) -> &[AuthMethod] {
        match self {
            Self::Any { any } => any,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

/// One kind of credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// A JWT in `Authorization: Bearer`, or `DPoP`.
    Jwt {
        /// What it must say.
        #[serde(flatten)]
        token: TokenRule,
        /// How the one that it was issued to shows itself: `dpop` or `mtls`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sender_constrained: Option<String>,
    },
    /// A key that a binding of the service gave out.
    ApiKey {
        /// Where requests carry it.
        #[serde(default = "key_header")]
        header: String,
    },
    /// A token that a service has signed for itself.
    Asap {
        /// Who has the services' keys: an https URL.
        key_server: String,
        /// One of them is in the claim `aud`.
        audiences: Vec<String>,
        /// The services that may come.
        issuers: Vec<String>,
    },
    /// A name and a password.
    Basic {
        /// At least one.
        users: Vec<AuthUser>,
    },
    /// A token that only who gave it out can read.
    Introspection {
        /// Its issuer, an https URL, which operators have said how to ask.
        provider: String,
        /// Where there are any, one of them is in the answer's `aud`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        audiences: Vec<String>,
        /// How long an answer is believed.
        #[serde(default = "half_a_minute")]
        cache_secs: u32,
        /// Fields of the answer that rules of `authz` go by.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        claims: Vec<String>,
    },
    /// The client's certificate.
    Mtls {
        /// SPIFFE ids.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spiffe: Vec<String>,
        /// DNS names.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        dns: Vec<String>,
    },
    /// A JWT in a cookie.
    Session {
        /// Its name.
        cookie: String,
        /// What it must say.
        #[serde(flatten)]
        token: TokenRule,
    },
}

/// What a JWT must say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRule {
    /// An https URL, equal to the claim `iss`.
    pub issuer: String,
    /// One of them is in the claim `aud`.
    pub audiences: Vec<String>,
    /// JWS algorithms of one family, none of them symmetric.
    pub algorithms: Vec<String>,
    /// The claim with the tenant, where it is not `tenant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_claim: Option<String>,
    /// The claim with the groups, where it is not `groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_claim: Option<String>,
    /// Claims that rules of `authz` go by, beside those that every identity has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
}

/// Somebody with a password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthUser {
    /// Without a colon.
    pub name: String,
    /// Argon2id, in the PHC string format.
    pub hash: String,
    /// What the user may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

fn key_header() -> String {
    "x-api-key".into()
}

fn half_a_minute() -> u32 {
    30
}

/// What the sidecar is told for the routes that name it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthPolicy {
    /// The instance's id; for a route with an `auth` of its own `<instance id>/<route>`.
    pub policy: String,
    /// AND; OR in each group.
    pub groups: Vec<Vec<AuthMethod>>,
    /// Paths that need no credential.
    pub anonymous: Vec<String>,
}

impl Auth {
    /// Its requirements.
    pub fn groups(&self) -> Vec<Vec<AuthMethod>> {
        groups(&self.any, &self.all)
    }

    /// The policy of all routes without an `auth` of their own.
    pub fn policy(&self, id: &InstanceId) -> AuthPolicy {
        AuthPolicy { policy: id.to_string(), groups: self.groups(), anonymous: self.anonymous.clone() }
    }

    /// The policy of a route that adds to this, or replaces it.
    pub fn policy_of_route(&self, id: &InstanceId, route: &str, own: &RouteAuth) -> AuthPolicy {
        let mut all = if own.replace { Vec::new() } else { self.groups() };
        all.extend(groups(&own.any, &own.all));
        AuthPolicy { policy: format!("{id}/{route}"), groups: all, anonymous: own.anonymous.clone() }
    }

    /// What is wrong with it, and with a route's own, beside what the schema says.
    pub(crate) fn broken_rules(&self) -> Vec<String> {
        let mut broken = rules("auth", &self.any, &self.all);
        broken.extend(places("auth", &self.groups()));
        broken
    }
}

impl RouteAuth {
    /// A route is never easier than its service, unless it says that it means to be.
    pub(crate) fn broken_rules(&self, field: &str, service: &Auth) -> Vec<String> {
        let mut broken = rules(field, &self.any, &self.all);
        let own = groups(&self.any, &self.all);
        if own.is_empty() && !self.replace {
            broken.push(format!("{field}: any or all: what the route asks for beside its service"));
        }
        for (at, path) in self.anonymous.iter().enumerate() {
            if !self.replace && !service.anonymous.contains(path) {
                broken.push(format!(
                    "{field}.anonymous[{at}]: the service asks for a credential there; `replace: true` drops that, got {path:?}"
                ));
            }
        }
        if !self.replace && service.groups().is_empty() && !own.is_empty() {
            broken.push(format!(
                "{field}: the service lets nobody in who needs a credential; `replace: true` drops that"
            ));
        }
        let mut all = if self.replace { Vec::new() } else { service.groups() };
        all.extend(own);
        broken.extend(places(field, &all));
        broken
    }
}

fn groups(any: &[AuthMethod], all: &[AuthGroup]) -> Vec<Vec<AuthMethod>> {
    let any = (!any.is_empty()).then(|| any.to_vec());
    any.into_iter().chain(all.iter().map(|group| group.methods().to_vec())).collect()
}

/// All methods with their places in the file.
pub(crate) fn methods<'a>(
    field: &str,
    any: &'a [AuthMethod],
    all: &'a [AuthGroup],
) -> Vec<(String, &'a AuthMethod)> {
    let mut found: Vec<_> =
        any.iter().enumerate().map(|(at, method)| (format!("{field}.any[{at}]"), method)).collect();
    for (at, group) in all.iter().enumerate() {
        match group {
            AuthGroup::One(method) => found.push((format!("{field}.all[{at}]"), method)),
            AuthGroup::Any { any } => found.extend(
                any.iter().enumerate().map(|(nth, method)| (format!("{field}.all[{at}].any[{nth}]"), method)),
            ),
        }
    }
    found
}

/// Headers that may end in `key` and carry none of ours, by their beginnings.
const OTHER_KEYS: [&str; 5] =
    ["sec-websocket-key", "idempotency-key", "x-gatehouse-", "x-original-", "x-envoy-"];
/// In one policy; each costs time on a refused request.
const MAX_METHODS: usize = 32;

fn rules(field: &str, any: &[AuthMethod], all: &[AuthGroup]) -> Vec<String> {
    let mut broken = Vec::new();
    if !any.is_empty() && !all.is_empty() {
        broken.push(format!("{field}: any or all, not both; `all` may hold `any`"));
    }
    for (place, method) in methods(field, any, all) {
        match method {
            AuthMethod::ApiKey { header } if OTHER_KEYS.iter().any(|other| header.starts_with(other)) => {
                broken.push(format!("{place}.api_key.header: {header} has another meaning"));
            }
            AuthMethod::Jwt { token, .. } => broken.extend(one_family(&format!("{place}.jwt"), token)),
            AuthMethod::Session { token, .. } => {
                broken.extend(one_family(&format!("{place}.session"), token));
            }
            AuthMethod::Mtls { spiffe, dns } if spiffe.is_empty() && dns.is_empty() => {
                broken.push(format!("{place}.mtls: spiffe or dns: whose certificates are accepted"));
            }
            _ => {}
        }
    }
    broken
}

/// A key that could be read in two ways is an attack waiting to happen.
fn one_family(place: &str, token: &TokenRule) -> Option<String> {
    let family = |name: &String| match name.as_bytes().first() {
        Some(b'R' | b'P') => "RSA",
        _ if name.starts_with("ES") => "ECDSA",
        _ => "EdDSA",
    };
    let families: BTreeSet<_> = token.algorithms.iter().map(family).collect();
    (families.len() > 1).then(|| {
        let got = token.algorithms.join(", ");
        format!("{place}.algorithms: of one family (RSA, ECDSA or EdDSA); another method can trust the same issuer, got {got}")
    })
}

/// Where two methods would read the same secret, neither could tell whose it is.
fn places(field: &str, groups: &[Vec<AuthMethod>]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for method in groups.iter().flatten() {
        let place = match method {
            AuthMethod::ApiKey { header } => format!("api_key in {header}"),
            AuthMethod::Basic { .. } => "basic".to_owned(),
            AuthMethod::Introspection { .. } => "introspection".to_owned(),
            _ => continue,
        };
        if !seen.insert(place.clone()) {
            broken.push(format!("{field}: once at most, with what is inherited: {place}"));
        }
    }
    let all: usize = groups.iter().map(Vec::len).sum();
    if all > MAX_METHODS {
        broken.push(format!("{field}: at most {MAX_METHODS} methods, with what is inherited, got {all}"));
    }
    broken
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn auth(value: Value) -> Auth {
        serde_json::from_value(value).unwrap()
    }

    fn route(value: Value) -> RouteAuth {
        serde_json::from_value(value).unwrap()
    }

    fn jwt() -> Value {
        json!({"jwt": {"issuer": "https://i", "audiences": ["a"], "algorithms": ["ES256"]}})
    }

    #[track_caller]
    fn check(service: Value, own: Value, expected: &[&str]) {
        let broken = route(own).broken_rules("routes[0].auth", &auth(service));
        assert_eq!(broken, expected);
    }

    #[test]
    fn what_is_read_is_written_back() {
        let value = json!({"any": [], "all": [jwt(), {"any": [{"api_key": {"header": "x-key"}}, {"mtls": {"dns": ["a"]}}]}], "anonymous": []});
        assert_eq!(serde_json::to_value(auth(value.clone())).unwrap(), value);
        assert_eq!(auth(value).groups().iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_route_adds_to_its_service_or_says_that_it_replaces_it() {
        let id: InstanceId = "i-1".parse().unwrap();
        let service = auth(json!({"any": [jwt()], "anonymous": ["/healthz", "/"]}));
        let added = service.policy_of_route(&id, "1", &route(json!({"any": [{"api_key": {}}]})));
        assert_eq!((added.policy.as_str(), added.groups.len()), ("i-1/1", 2));
        assert!(added.anonymous.is_empty(), "what is anonymous elsewhere is not what this route asks for");
        let own = route(json!({"any": [{"api_key": {}}], "anonymous": ["/x"], "replace": true}));
        let replaced = service.policy_of_route(&id, "1", &own);
        assert_eq!((replaced.groups.len(), replaced.anonymous), (1, vec!["/x".to_owned()]));
    }

    #[test]
    fn a_route_that_would_be_easier_than_its_service_has_to_say_so() {
        let service = json!({"any": [jwt()], "anonymous": ["/healthz"]});
        check(service.clone(), json!({"any": [{"api_key": {}}], "anonymous": ["/healthz"]}), &[]);
        check(service.clone(), json!({"anonymous": ["/x"], "replace": true}), &[]);
        check(
            service.clone(),
            json!({"any": [{"api_key": {}}], "anonymous": ["/x"]}),
            &[
                "routes[0].auth.anonymous[0]: the service asks for a credential there; `replace: true` drops that, got \"/x\"",
            ],
        );
        check(
            service,
            json!({}),
            &["routes[0].auth: any or all: what the route asks for beside its service"],
        );
        check(
            json!({}),
            json!({"any": [jwt()]}),
            &[
                "routes[0].auth: the service lets nobody in who needs a credential; `replace: true` drops that",
            ],
        );
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused_with_what_is_inherited() {
        let key = json!({"api_key": {}});
        check(
            json!({"any": [key]}),
            json!({"any": [key]}),
            &["routes[0].auth: once at most, with what is inherited: api_key in x-api-key"],
        );
        check(json!({"any": [key]}), json!({"any": [key], "replace": true}), &[]);
        let both = auth(json!({"any": [jwt()], "all": [jwt()]})).broken_rules();
        assert_eq!(both, ["auth: any or all, not both; `all` may hold `any`"]);
        let mut mixed = jwt();
        mixed["jwt"]["algorithms"] = json!(["ES256", "RS256"]);
        let told = auth(json!({"all": [{"any": [mixed]}]})).broken_rules();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("auth.all[0].any[0].jwt.algorithms: of one family"), "{told:?}");
        let anybody = auth(json!({"any": [{"mtls": {}}]})).broken_rules();
        assert_eq!(anybody, ["auth.any[0].mtls: spiffe or dns: whose certificates are accepted"]);
    }
}
