//! One request, one decision. Pure.

use std::collections::HashSet;

use api::{
    authn::PolicyId,
    authz::{Effect, Mode},
};
use envoy_types::pb::google::protobuf::Struct;
use policy::{Decided, Request};
use sidecar::ext_authz::{Decision, Facts, Fields as _, Record};
use xds::Table;

use crate::{cedar, metrics::DecisionResult, state::InForce};

/// The key of this sidecar in the dynamic metadata, and that of authentication.
const KEY: &str = "authz";
const AUTHN: &str = "authn";

/// Decides.
pub(crate) fn decide(facts: &Facts<'_>, policies: &Table<InForce>) -> (Decision, DecisionResult) {
    let Some((id, policy)) =
        facts.policy().and_then(|id| policies.get(&id.to_string()).map(|policy| (id, policy)))
    else {
        let description = "the route names a policy that is not here".into();
        return (Decision::Fault { description }, DecisionResult::UnknownPolicy);
    };
    let Some(identity) = facts.metadata(AUTHN).filter(|authn| is_about(authn, &id)) else {
        let description = "authentication has not decided about this request".into();
        return (Decision::Fault { description }, DecisionResult::NotAuthenticated);
    };
    let scopes: HashSet<&str> = identity.texts("scopes").into_iter().collect();
    let authenticated = identity.text("sub").is_some_and(|subject| !subject.is_empty());
    let open = identity.is_true("open");
    let request =
        Request { method: facts.method(), path: facts.path(), open, authenticated, scopes: &scopes };
    let decided = policy.rules.decide(request);
    match &policy.cedar {
        Some(engine) if decided.said.asks_cedar() => {
            let verdict = cedar::ask(engine, facts, identity);
            cedar::answer(&verdict, decided, |decided| answer(&id, decided))
        }
        _ => answer(&id, &decided),
    }
}

/// Whether authentication decided, and by a policy of this very instance: a route can have one of its own.
fn is_about(authn: &Struct, id: &PolicyId) -> bool {
    // A revision is far below 2^53.
    #[allow(clippy::cast_precision_loss, clippy::float_cmp)]
    let same_rev = authn.number("rev").is_some_and(|rev| rev == id.rev as f64);
    let instance = authn.text("policy").and_then(|policy| policy.split('/').next());
    authn.is_true("decided") && instance == Some(id.instance()) && same_rev
}

fn answer(id: &PolicyId, decided: &Decided<'_>) -> (Decision, DecisionResult) {
    let effect = match decided.effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    };
    let mode = match decided.mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    };
    let record = Record::new(KEY, id).text("effect", effect).text("rule", decided.rule).text("mode", mode);
    if let Some(why) = decided.ambiguous_path {
        let description = format!("the path is ambiguous: {why}");
        return (
            Decision::Deny { record, status: 400, description, challenge: None },
            DecisionResult::BadRequest,
        );
    }
    match (decided.effect, decided.mode) {
        (Effect::Allow, _) => {
            (Decision::Allow { record, headers: Vec::new(), remove: Vec::new() }, DecisionResult::Allowed)
        }
        (Effect::Deny, Mode::Shadow) => (
            Decision::Allow { record, headers: Vec::new(), remove: Vec::new() },
            DecisionResult::ShadowDenied,
        ),
        (Effect::Deny, Mode::Enforce) => {
            let challenge = insufficient_scope(&decided.missing_scopes);
            let description = "the policy of this service does not allow it".into();
            (Decision::Deny { record, status: 403, description, challenge }, DecisionResult::Denied)
        }
    }
}

/// RFC 6750 section 3.1.
fn insufficient_scope(missing: &[&str]) -> Option<String> {
    // A scope is one or more of %x21 / %x23-5B / %x5D-7E (RFC 6749 section 3.3): nothing to escape.
    let plain = missing.iter().all(|scope| !scope.contains(['"', '\\']));
    (!missing.is_empty() && plain).then(|| {
        format!("Bearer realm=\"gatehouse\", error=\"insufficient_scope\", scope=\"{}\"", missing.join(" "))
    })
}

#[cfg(test)]
mod tests {
    use api::pb;
    use envoy_types::pb::{
        envoy::{
            config::core::v3::Metadata,
            service::auth::v3::{
                AttributeContext, CheckRequest,
                attribute_context::{HttpRequest, Request as WireRequest},
                check_response::HttpResponse,
            },
        },
        google::protobuf::{Value, value::Kind},
    };
    use sidecar::ext_authz::METADATA_NAMESPACE;

    use super::*;

    fn policies(mode: pb::authz::Mode) -> Table<InForce> {
        let rule = pb::authz::Rule {
            id: "rule-0".into(),
            methods: vec!["GET".into()],
            paths: vec!["/".into()],
            scopes: vec!["read:hello".into()],
        };
        let wire = pb::authz::Policy {
            name: "i-1@3".into(),
            policy: "i-1".into(),
            rev: 3,
            default_effect: 0,
            allow: vec![rule],
            mode: mode.into(),
            anonymous: vec!["/healthz".into()],
            cedar: None,
        };
        let mut table = Table::default();
        table.insert("i-1@3".into(), InForce::new(wire.try_into().unwrap()).unwrap());
        table
    }

    /// What authentication leaves behind, written by the code that it uses.
    fn authn(rev: u64, subject: Option<&str>, scopes: &[&str]) -> Struct {
        told(rev, subject, scopes, "i-1", true)
    }

    fn told(rev: u64, subject: Option<&str>, scopes: &[&str], policy: &str, is_open: bool) -> Struct {
        let mut record = Record::new(AUTHN, &PolicyId { policy: policy.into(), rev });
        if is_open {
            record = record.truth("open");
        }
        if let Some(subject) = subject {
            record = record.text("sub", subject).texts("scopes", scopes.iter().copied());
        }
        let response = Decision::Allow { record, headers: Vec::new(), remove: Vec::new() }.answer("");
        response.dynamic_metadata.unwrap()
    }

    fn check(
        mode: pb::authz::Mode,
        method: &str,
        path: &str,
        authn: Option<Struct>,
    ) -> (u16, DecisionResult) {
        let http = HttpRequest { method: method.into(), path: path.into(), ..Default::default() };
        let metadata = authn.map(|authn| Metadata {
            filter_metadata: [(METADATA_NAMESPACE.to_owned(), authn)].into(),
            ..Default::default()
        });
        let request = CheckRequest {
            attributes: Some(AttributeContext {
                request: Some(WireRequest { http: Some(http), ..Default::default() }),
                context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
                metadata_context: metadata,
                ..Default::default()
            }),
        };
        let (decision, result) = decide(&Facts::read(&request).unwrap(), &policies(mode));
        let status = match decision.answer("").http_response.unwrap() {
            HttpResponse::OkResponse(_) => 200,
            HttpResponse::DeniedResponse(denied) => u16::try_from(denied.status.unwrap().code).unwrap(),
            HttpResponse::ErrorResponse(_) => 503,
        };
        (status, result)
    }

    const ENFORCE: pb::authz::Mode = pb::authz::Mode::Enforce;

    #[test]
    fn a_rule_that_matches_allows() {
        let alice = authn(3, Some("alice"), &["read:hello"]);
        assert_eq!(check(ENFORCE, "GET", "/x", Some(alice.clone())), (200, DecisionResult::Allowed));
        assert_eq!(check(ENFORCE, "POST", "/x", Some(alice)), (403, DecisionResult::Denied));
    }

    #[test]
    fn a_missing_scope_is_named_in_the_challenge() {
        assert_eq!(
            check(ENFORCE, "GET", "/x", Some(authn(3, Some("bob"), &[]))),
            (403, DecisionResult::Denied)
        );
        let challenge = insufficient_scope(&["read:hello"]).unwrap();
        assert_eq!(
            challenge,
            "Bearer realm=\"gatehouse\", error=\"insufficient_scope\", scope=\"read:hello\""
        );
        assert_eq!(insufficient_scope(&["a\"b"]), None);
    }

    #[test]
    fn without_a_decision_of_authentication_nothing_passes() {
        assert_eq!(check(ENFORCE, "GET", "/healthz", None), (503, DecisionResult::NotAuthenticated));
        let other_revision = authn(2, Some("alice"), &["read:hello"]);
        assert_eq!(
            check(ENFORCE, "GET", "/x", Some(other_revision)),
            (503, DecisionResult::NotAuthenticated)
        );
        let mut undecided = authn(3, Some("alice"), &["read:hello"]);
        if let Some(Kind::StructValue(own)) =
            undecided.fields.get_mut(AUTHN).and_then(|value| value.kind.as_mut())
        {
            own.fields.insert("decided".into(), Value { kind: Some(Kind::StringValue("true".into())) });
        }
        assert_eq!(check(ENFORCE, "GET", "/x", Some(undecided)), (503, DecisionResult::NotAuthenticated));
    }

    #[test]
    fn an_anonymous_request_passes_on_anonymous_paths_only() {
        assert_eq!(
            check(ENFORCE, "GET", "/healthz", Some(authn(3, None, &[]))),
            (200, DecisionResult::Allowed)
        );
        assert_eq!(check(ENFORCE, "GET", "/x", Some(authn(3, None, &[]))), (403, DecisionResult::Denied));
    }

    #[test]
    fn which_paths_are_open_is_what_authentication_says_of_the_route() {
        let of_a_route = told(3, Some("bob"), &[], "i-1/1", false);
        assert_eq!(check(ENFORCE, "GET", "/healthz", Some(of_a_route)), (403, DecisionResult::Denied));
        let open = told(3, None, &[], "i-1/1", true);
        assert_eq!(check(ENFORCE, "GET", "/healthz", Some(open)), (200, DecisionResult::Allowed));
        let anothers = told(3, None, &[], "i-11", true);
        assert_eq!(
            check(ENFORCE, "GET", "/healthz", Some(anothers)),
            (503, DecisionResult::NotAuthenticated)
        );
    }

    #[test]
    fn shadow_mode_records_and_lets_pass_but_never_an_ambiguous_path() {
        let shadow = pb::authz::Mode::Shadow;
        let bob = authn(3, Some("bob"), &[]);
        assert_eq!(check(shadow, "GET", "/x", Some(bob.clone())), (200, DecisionResult::ShadowDenied));
        assert_eq!(check(shadow, "GET", "/;x/admin", Some(bob)), (400, DecisionResult::BadRequest));
    }
}
