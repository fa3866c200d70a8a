//! One request, one decision. Pure: facts, what is in force, and the time.

use std::sync::Arc;

use api::{
    authn::{Jwt, Method, Policy},
    path::RequestPath,
};
use jwt::{LEEWAY_SECS, Refusal};
use sidecar::ext_authz::{Decision, Facts, Record};

use crate::{
    api_key,
    cache::Tokens,
    credentials::{Presented, bearer, header},
    identity::{Identity, KEY},
    metrics::DecisionResult,
    state::Snapshot,
};

/// Why nobody can be told to send a request, beside that it presents nothing.
enum Stop {
    /// 401: the client's credential is none.
    Invalid(String),
    /// 400: the request has two meanings.
    BadRequest(String),
    /// 503: the keys of a trusted issuer are not here.
    NoKeys,
}

/// Decides. `now` in seconds since the epoch.
pub(crate) fn decide(
    facts: &Facts<'_>,
    state: &Snapshot,
    tokens: &Tokens,
    now: f64,
) -> (Decision, DecisionResult) {
    let policy = facts.policy().and_then(|id| state.policies.get(&id.to_string()));
    let Some(policy) = policy else {
        let description = "the route names a policy that is not here".into();
        return (Decision::Fault { description }, DecisionResult::UnknownPolicy);
    };
    let path = match RequestPath::parse(facts.path()) {
        Ok(path) => path,
        Err(why) => return bad_request(policy, format!("the path is ambiguous: {why}")),
    };
    match (Question { facts, policy, state, tokens, now }).identify() {
        Ok(Some(identity)) => {
            let remove = key_headers(policy).map(str::to_owned).collect();
            (identity.allowed(&policy.id, remove), DecisionResult::Authenticated)
        }
        Ok(None) if policy.anonymous.iter().any(|pattern| pattern.matches(&path)) => {
            (anonymous(policy), DecisionResult::Anonymous)
        }
        Ok(None) => (no_credential(policy), DecisionResult::NoCredential),
        Err(Stop::Invalid(why)) => invalid(policy, &why),
        Err(Stop::BadRequest(why)) => bad_request(policy, why),
        Err(Stop::NoKeys) => {
            let description = "the keys of the token's issuer are not here".into();
            (Decision::Fault { description }, DecisionResult::NoKeys)
        }
    }
}

/// Who sends a request, by one policy.
struct Question<'a> {
    facts: &'a Facts<'a>,
    policy: &'a Policy,
    state: &'a Snapshot,
    tokens: &'a Tokens,
    now: f64,
}

/// Who it is, and by which of the policy's methods.
type Found = (usize, Arc<Identity>);

impl Question<'_> {
    /// Whatever a request presents must be good; where that is more than one credential, the method that the policy names
    /// first says who sends it. What no method of the policy reads is the upstream's own affair.
    fn identify(&self) -> Result<Option<Arc<Identity>>, Stop> {
        let mut first = self.by_token()?;
        for (at, method) in self.policy.any.iter().enumerate() {
            let Method::ApiKey(known) = method else { continue };
            let Some(key) = one(header(self.facts, &known.header))? else { continue };
            let identity = api_key::verify(key, known);
            let identity = identity.ok_or_else(|| Stop::Invalid("the API key is not valid".into()))?;
            if first.as_ref().is_none_or(|(before, _)| at < *before) {
                first = Some((at, Arc::new(identity)));
            }
        }
        Ok(first.map(|(_, identity)| identity))
    }

    fn by_token(&self) -> Result<Option<Found>, Stop> {
        if !takes_tokens(self.policy) {
            return Ok(None);
        }
        let Some(token) = one(bearer(self.facts))? else { return Ok(None) };
        let id = self.tokens.id(&self.policy.id, token);
        if let Some(found) = self.tokens.identity(&id, |issuer| self.state.keys.get(issuer), self.now) {
            return Ok(Some(found));
        }
        if let Some(why) = self.tokens.refusal(&id, self.now) {
            return Err(Stop::Invalid(why.to_string()));
        }
        let methods = self.policy.any.iter().enumerate().filter_map(|(at, method)| match method {
            Method::Jwt(jwt) => Some((at, jwt)),
            Method::ApiKey(_) => None,
        });
        let (places, trusted): (Vec<usize>, Vec<&Jwt>) = methods.unzip();
        let keys_of = |issuer: &str| self.state.keys.get(issuer).map(|keys| &**keys);
        match jwt::verify(token, &trusted, keys_of, self.now) {
            Ok(verified) => {
                let (at, expires) = (places[verified.method], verified.expires + LEEWAY_SECS);
                let keys = self.state.keys.get(&verified.issuer).cloned();
                let identity = Arc::new(Identity::from(verified));
                if let Some(keys) = keys {
                    self.tokens.keep(id, (at, identity.clone()), &keys, expires, self.now);
                }
                Ok(Some((at, identity)))
            }
            Err(Refusal::Invalid(why)) => {
                self.tokens.keep_bad(id, why, self.now);
                Err(Stop::Invalid(why.to_string()))
            }
            Err(Refusal::NoKeys) => Err(Stop::NoKeys),
        }
    }
}

fn one(presented: Presented<'_>) -> Result<Option<&str>, Stop> {
    match presented {
        Presented::Nothing => Ok(None),
        Presented::One(credential) => Ok(Some(credential)),
        Presented::Unreadable => {
            Err(Stop::Invalid("the credential is of a kind that is not accepted here".into()))
        }
        Presented::Several => Err(Stop::BadRequest("more than one credential of a kind".into())),
    }
}

fn takes_tokens(policy: &Policy) -> bool {
    policy.any.iter().any(|method| matches!(method, Method::Jwt(_)))
}

/// Those that carry credentials which only we are to see.
fn key_headers(policy: &Policy) -> impl Iterator<Item = &str> {
    policy.any.iter().filter_map(|method| match method {
        Method::ApiKey(keys) => Some(keys.header.as_str()),
        Method::Jwt(_) => None,
    })
}

fn anonymous(policy: &Policy) -> Decision {
    let record = Record::new(KEY, &policy.id).text("method", "anonymous");
    let headers = vec![("x-gatehouse-method", "anonymous".into())];
    Decision::Allow { record, headers, remove: Vec::new() }
}

/// What a client may prove itself with (RFC 9110 section 11.6.1), and what was wrong with what it sent. Without a
/// credential the challenge names no error (RFC 6750 section 3.1).
fn challenge(policy: &Policy, error: Option<&str>) -> String {
    let mut challenges = Vec::new();
    if takes_tokens(policy) || policy.any.is_empty() {
        let error = error
            .map(|why| format!(", error=\"invalid_token\", error_description=\"{why}\""))
            .unwrap_or_default();
        challenges.push(format!("Bearer realm=\"gatehouse\"{error}"));
    }
    challenges
        .extend(key_headers(policy).map(|name| format!("ApiKey realm=\"gatehouse\", header=\"{name}\"")));
    challenges.join(", ")
}

fn no_credential(policy: &Policy) -> Decision {
    Decision::Deny {
        record: Record::new(KEY, &policy.id).text("method", "none"),
        status: 401,
        description: "a credential is needed".into(),
        challenge: Some(challenge(policy, None)),
    }
}

fn invalid(policy: &Policy, why: &str) -> (Decision, DecisionResult) {
    let decision = Decision::Deny {
        record: Record::new(KEY, &policy.id).text("method", "none"),
        status: 401,
        description: why.to_owned(),
        challenge: Some(challenge(policy, Some(why))),
    };
    (decision, DecisionResult::InvalidCredential)
}

fn bad_request(policy: &Policy, description: String) -> (Decision, DecisionResult) {
    let record = Record::new(KEY, &policy.id).text("method", "none");
    (Decision::Deny { record, status: 400, description, challenge: None }, DecisionResult::BadRequest)
}

#[cfg(test)]
mod tests {
    use api::pb;
    use envoy_types::pb::envoy::{
        config::core::v3::{HeaderMap, HeaderValue},
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Request},
        },
    };

    use super::*;
    use jwt::testing::{ISSUER, NOW, good, keys};

    fn state() -> Snapshot {
        let mut state = Snapshot::default();
        let key = pb::authn::method::Method::ApiKey(crate::api_key::tests::wire());
        let key = pb::authn::Method { method: Some(key) };
        for name in ["i-1", "open", "keys", "both"] {
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
                any: match name {
                    "open" => vec![],
                    "keys" => vec![key.clone()],
                    "both" => vec![key.clone(), method],
                    _ => vec![method],
                },
                anonymous: vec!["/healthz".into()],
            };
            state.policies.insert(wire.name.clone(), Policy::try_from(wire).unwrap());
        }
        state.keys.insert(ISSUER.into(), Arc::new(keys()));
        state
    }

    fn check(policy: &str, path: &str, authorization: &[&str]) -> (u16, DecisionResult) {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
        let (decision, result) = decided(policy, path, &headers);
        (status(&decision), result)
    }

    fn status(decision: &Decision) -> u16 {
        match decision {
            Decision::Allow { .. } => 200,
            Decision::Deny { status, .. } => *status,
            Decision::Fault { .. } => 503,
        }
    }

    fn decided(policy: &str, path: &str, headers: &[(&str, &str)]) -> (Decision, DecisionResult) {
        let header = |(name, value): &(&str, &str)| HeaderValue {
            key: (*name).into(),
            raw_value: value.as_bytes().to_vec(),
            ..Default::default()
        };
        let http = HttpRequest {
            path: path.into(),
            header_map: Some(HeaderMap { headers: headers.iter().map(header).collect() }),
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
        let tokens = Tokens::new([7; 32]);
        let state = state();
        let facts = Facts::read(&request).unwrap();
        let first = decide(&facts, &state, &tokens, NOW);
        assert_eq!(decide(&facts, &state, &tokens, NOW), first, "with a cache and without");
        first
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
    fn an_api_key_tells_who_has_it_and_goes_no_further() {
        let (decision, result) = decided("keys@3", "/x", &[("x-api-key", "gatehouse_0a_secret")]);
        assert_eq!(result, DecisionResult::Authenticated);
        let Decision::Allow { headers, remove, .. } = decision else { panic!("{decision:?}") };
        assert!(headers.contains(&("x-gatehouse-subject", "billing".into())), "{headers:?}");
        assert_eq!(remove, ["x-api-key"]);
        let key = |value: &str| {
            let (decision, result) = decided("keys@3", "/healthz", &[("X-Api-Key", value)]);
            (status(&decision), result)
        };
        assert_eq!(key("gatehouse_0a_wrong"), (401, DecisionResult::InvalidCredential));
        assert_eq!(key("gatehouse_0a_secret,gatehouse_0a_secret"), (400, DecisionResult::BadRequest));
        let twice = [("x-api-key", "gatehouse_0a_secret"); 2];
        assert_eq!(decided("keys@3", "/x", &twice).1, DecisionResult::BadRequest);
        assert_eq!(check("keys@3", "/x", &["Basic eDp5"]), (401, DecisionResult::NoCredential));
    }

    #[test]
    fn of_two_good_credentials_the_policys_first_counts_and_a_bad_one_spoils_both() {
        let token = format!("Bearer {}", good());
        let both = |key: &str| decided("both@3", "/x", &[("authorization", &token), ("x-api-key", key)]);
        let Decision::Allow { headers, .. } = both("gatehouse_0a_secret").0 else { panic!("refused") };
        assert!(headers.contains(&("x-gatehouse-method", "api_key".into())), "{headers:?}");
        assert_eq!(both("gatehouse_0a_wrong").1, DecisionResult::InvalidCredential);
        let bad = [("authorization", "Bearer x"), ("x-api-key", "gatehouse_0a_secret")];
        assert_eq!(decided("both@3", "/x", &bad).1, DecisionResult::InvalidCredential);
    }

    #[test]
    fn a_client_is_told_all_that_it_may_prove_itself_with() {
        let Decision::Deny { challenge, .. } = decided("both@3", "/x", &[]).0 else { panic!("allowed") };
        let told = "Bearer realm=\"gatehouse\", ApiKey realm=\"gatehouse\", header=\"x-api-key\"";
        assert_eq!(challenge.as_deref(), Some(told));
    }
}
