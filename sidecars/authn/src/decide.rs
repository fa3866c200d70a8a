//! One request, one decision. Pure: facts, what is in force, and the time.

use api::{
    authn::{Jwt, Method, Policy},
    path::RequestPath,
};
use sidecar::ext_authz::{Decision, Facts, Record};

use crate::{
    credentials::{Presented, presented},
    jwt::{self, Identity, Refusal},
    metrics::DecisionResult,
    state::Snapshot,
};

/// The key of this sidecar in the dynamic metadata.
const KEY: &str = "authn";

/// Decides. `now` in seconds since the epoch.
pub(crate) fn decide(facts: &Facts<'_>, state: &Snapshot, now: f64) -> (Decision, DecisionResult) {
    let policy = facts.policy().and_then(|id| state.policies.get(&id.to_string()));
    let Some(policy) = policy else {
        let description = "the route names a policy that is not here".into();
        return (Decision::Fault { description }, DecisionResult::UnknownPolicy);
    };
    let path = match RequestPath::parse(facts.path()) {
        Ok(path) => path,
        Err(why) => return bad_request(policy, format!("the path is ambiguous: {why}")),
    };
    let methods: Vec<&Jwt> = policy.any.iter().map(|Method::Jwt(jwt)| jwt).collect();
    let token = match presented(facts) {
        // Without methods a credential is the upstream's own affair.
        _ if methods.is_empty() => None,
        Presented::Nothing => None,
        Presented::Bearer(token) => Some(token),
        Presented::Unreadable => {
            return invalid(policy, "the credential is of a kind that is not accepted here");
        }
        Presented::Several => return bad_request(policy, "more than one credential of a kind".into()),
    };
    let Some(token) = token else {
        if policy.anonymous.iter().any(|pattern| pattern.matches(&path)) {
            return (anonymous(policy), DecisionResult::Anonymous);
        }
        return (no_credential(policy), DecisionResult::NoCredential);
    };
    match jwt::verify(token, &methods, |issuer| state.keys.get(issuer).map(|keys| &**keys), now) {
        Ok(identity) => (authenticated(policy, &identity), DecisionResult::Authenticated),
        Err(Refusal::Invalid(why)) => invalid(policy, &why.to_string()),
        Err(Refusal::NoKeys) => {
            let description = "the keys of the token's issuer are not here".into();
            (Decision::Fault { description }, DecisionResult::NoKeys)
        }
    }
}

fn authenticated(policy: &Policy, identity: &Identity) -> Decision {
    let record = Record::new(KEY, &policy.id)
        .text("method", "jwt")
        .text("iss", &identity.issuer)
        .text("sub", &identity.subject)
        .texts("scopes", identity.scopes.iter().map(String::as_str))
        .number("exp", identity.expires);
    let headers = vec![
        ("x-gatehouse-method", "jwt".into()),
        ("x-gatehouse-issuer", header_value(&identity.issuer)),
        ("x-gatehouse-subject", header_value(&identity.subject)),
        ("x-gatehouse-scopes", header_value(&identity.scopes.join(" "))),
    ];
    Decision::Allow { record, headers }
}

fn anonymous(policy: &Policy) -> Decision {
    let record = Record::new(KEY, &policy.id).text("method", "anonymous");
    Decision::Allow { record, headers: vec![("x-gatehouse-method", "anonymous".into())] }
}

/// RFC 6750 section 3.1: without a credential the challenge names no error.
fn no_credential(policy: &Policy) -> Decision {
    Decision::Deny {
        record: Record::new(KEY, &policy.id).text("method", "none"),
        status: 401,
        description: "a credential is needed".into(),
        challenge: Some("Bearer realm=\"gatehouse\"".into()),
    }
}

fn invalid(policy: &Policy, why: &str) -> (Decision, DecisionResult) {
    let challenge =
        format!("Bearer realm=\"gatehouse\", error=\"invalid_token\", error_description=\"{why}\"");
    let decision = Decision::Deny {
        record: Record::new(KEY, &policy.id).text("method", "none"),
        status: 401,
        description: why.to_owned(),
        challenge: Some(challenge),
    };
    (decision, DecisionResult::InvalidCredential)
}

fn bad_request(policy: &Policy, description: String) -> (Decision, DecisionResult) {
    let record = Record::new(KEY, &policy.id).text("method", "none");
    (Decision::Deny { record, status: 400, description, challenge: None }, DecisionResult::BadRequest)
}

/// A claim can hold any Unicode; a header value holds visible ASCII, and spaces that are not at its ends (RFC 9110
/// section 5.5). The rest is percent-encoded.
fn header_value(text: &str) -> String {
    use std::fmt::Write as _;
    let mut value = String::with_capacity(text.len());
    let inner = text.len() - text.trim_start_matches(' ').len()..text.trim_end_matches(' ').len();
    for (at, byte) in text.bytes().enumerate() {
        let space = byte == b' ' && inner.contains(&at);
        if space || (byte.is_ascii_graphic() && byte != b'%') {
            value.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(value, "%{byte:02X}");
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::pb;
    use envoy_types::pb::envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Request},
        },
    };

    use super::*;
    use crate::jwt::tests::{ISSUER, NOW, good, keys};

    fn state() -> Snapshot {
        let mut state = Snapshot::default();
        for (name, any) in [("i-1", true), ("open", false)] {
            let jwt = pb::authn::Jwt {
                issuer: ISSUER.into(),
                audiences: vec!["hello".into()],
                algorithms: vec!["ES256".into()],
            };
            let method = pb::authn::Method { method: Some(pb::authn::method::Method::Jwt(jwt)) };
            let wire = pb::authn::Policy {
                name: format!("{name}@3"),
                policy: name.into(),
                rev: 3,
                any: if any { vec![method] } else { vec![] },
                anonymous: vec!["/healthz".into()],
            };
            state.policies.insert(wire.name.clone(), Policy::try_from(wire).unwrap());
        }
        state.keys.insert(ISSUER.into(), Arc::new(keys()));
        state
    }

    fn check(policy: &str, path: &str, authorization: &[&str]) -> (u16, DecisionResult) {
        let header = |value: &&str| HeaderValue {
            key: "authorization".into(),
            raw_value: value.as_bytes().to_vec(),
            ..Default::default()
        };
        let http = HttpRequest {
            path: path.into(),
            header_map: Some(HeaderMap { headers: authorization.iter().map(header).collect() }),
            ..Default::default()
        };
        let extensions = policy.split_once('@').map(|(policy, rev)| {
            [("policy".to_owned(), policy.to_owned()), ("rev".to_owned(), rev.to_owned())].into()
        });
        let request = CheckRequest {
            attributes: Some(AttributeContext {
                request: Some(Request { http: Some(http), ..Default::default() }),
                context_extensions: extensions.unwrap_or_default(),
                ..Default::default()
            }),
        };
        let (decision, result) = decide(&Facts::read(&request).unwrap(), &state(), NOW);
        let status = match decision {
            Decision::Allow { .. } => 200,
            Decision::Deny { status, .. } => status,
            Decision::Fault { .. } => 503,
        };
        (status, result)
    }

    #[test]
    fn a_good_token_passes() {
        assert_eq!(
            check("i-1@3", "/x", &[&format!("Bearer {}", good())]),
            (200, DecisionResult::Authenticated)
        );
        assert_eq!(
            check("i-1@3", "/x", &[&format!("bearer  {}", good())]),
            (200, DecisionResult::Authenticated)
        );
    }

    #[test]
    fn without_a_credential_only_anonymous_paths_pass() {
        assert_eq!(check("i-1@3", "/x", &[]), (401, DecisionResult::NoCredential));
        assert_eq!(check("i-1@3", "/healthz?x=1", &[]), (200, DecisionResult::Anonymous));
        assert_eq!(check("i-1@3", "/healthzz", &[]), (401, DecisionResult::NoCredential));
    }

    #[test]
    fn an_invalid_credential_is_refused_even_where_none_is_needed() {
        assert_eq!(check("i-1@3", "/healthz", &["Bearer x"]), (401, DecisionResult::InvalidCredential));
        assert_eq!(check("i-1@3", "/healthz", &["Basic eDp5"]), (401, DecisionResult::InvalidCredential));
        assert_eq!(check("i-1@3", "/x", &["\u{fffd}"]), (401, DecisionResult::InvalidCredential));
    }

    #[test]
    fn two_credentials_of_a_kind_are_a_bad_request() {
        let (good, bad) = (format!("Bearer {}", good()), "Bearer x".to_owned());
        assert_eq!(check("i-1@3", "/x", &[&good, &bad]), (400, DecisionResult::BadRequest));
        assert_eq!(check("i-1@3", "/x", &[&format!("{good},{bad}")]), (400, DecisionResult::BadRequest));
    }

    #[test]
    fn a_policy_or_revision_that_is_not_here_is_a_fault() {
        for policy in ["i-1@2", "i-2@3", "", "i-1@", "@3", "i-1@0"] {
            let token = format!("Bearer {}", good());
            assert_eq!(
                check(policy, "/healthz", &[&token]),
                (503, DecisionResult::UnknownPolicy),
                "{policy}"
            );
        }
    }

    #[test]
    fn a_path_with_two_meanings_is_a_bad_request() {
        assert_eq!(check("i-1@3", "/healthz/;x/../admin", &[]), (400, DecisionResult::BadRequest));
    }

    #[test]
    fn where_no_method_is_asked_for_a_credential_is_the_upstreams_affair() {
        assert_eq!(check("open@3", "/healthz", &["Basic eDp5"]), (200, DecisionResult::Anonymous));
        assert_eq!(check("open@3", "/x", &["Basic eDp5"]), (401, DecisionResult::NoCredential));
    }

    #[test]
    fn claims_become_header_values_that_cannot_break_out() {
        assert_eq!(header_value("a b%\r\nä"), "a b%25%0D%0A%C3%A4");
        assert_eq!(header_value(" root "), "%20root%20");
        assert_eq!(header_value(" "), "%20");
    }
}
