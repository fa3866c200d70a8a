//! One request, one decision. Pure.

#[cfg(test)]
mod tests;

use api::{
    authn::PolicyId,
    authz::{Effect, Mode, Moment},
};
use envoy_types::pb::google::protobuf::Struct;
use policy::{Decided, Identity, Request};
use sidecar::ext_authz::{Decision, Facts, Fields as _, Record};

use crate::{metrics::DecisionResult, state::Snapshot};

/// The key of this sidecar in the dynamic metadata, and that of authentication.
const KEY: &str = "authz";
const AUTHN: &str = "authn";
/// What decisions call the rule where a guardrail has decided.
const GUARDRAIL: &str = "guardrail";

/// Decides: first what the platform team denies to everybody, then what the service's own policy says.
pub(crate) fn decide(facts: &Facts<'_>, state: &Snapshot) -> (Decision, DecisionResult) {
    let Some((id, engine)) =
        facts.policy().and_then(|id| state.policies.get(&id.to_string()).map(|engine| (id, engine)))
    else {
        let description = "the route names a policy that is not here".into();
        return (Decision::Fault { description }, DecisionResult::UnknownPolicy);
    };
    let Some(identity) = facts.metadata(AUTHN).filter(|authn| is_about(authn, &id)) else {
        let description = "authentication has not decided about this request".into();
        return (Decision::Fault { description }, DecisionResult::NotAuthenticated);
    };
    let (address, time) = (facts.address(), facts.time());
    let guardrails = &state.guardrails;
    let lacks_address = address.is_none() && (guardrails.needs_address() || engine.needs_address());
    let lacks_time = time.is_none() && (guardrails.needs_time() || engine.needs_time());
    if lacks_address || lacks_time {
        let description = "the listener does not tell where the client is, or when".into();
        return (Decision::Fault { description }, DecisionResult::UnknownFacts);
    }
    let text = |key| identity.text(key).unwrap_or_default();
    let (scopes, groups) = (identity.texts("scopes"), identity.texts("groups"));
    let claims = identity.lists("claims");
    let who = Identity {
        subject: text("sub"),
        issuer: text("iss"),
        tenant: text("tenant"),
        method: text("method"),
        scopes: &scopes,
        groups: &groups,
        claims: &claims,
    };
    let request = Request {
        method: facts.method(),
        host: facts.host(),
        path: facts.path(),
        address,
        time: Moment(time.unwrap_or_default()),
        open: identity.is_true("open"),
        identity: (!who.subject.is_empty()).then_some(who),
    };
    let guarded = guardrails.decide(&request);
    if let Some(guardrail) = guarded.denied {
        return denied_above(&id, guardrail);
    }
    answer(&id, &engine.decide(&request), guarded.shadow)
}

/// No mode of a service changes that.
fn denied_above(id: &PolicyId, guardrail: &str) -> (Decision, DecisionResult) {
    let record = Record::new(KEY, id).text("effect", "deny").text("rule", GUARDRAIL).text("mode", "enforce");
    let record = record.text(GUARDRAIL, guardrail);
    let description = "a rule of this edge does not allow it".into();
    (Decision::Deny { record, status: 403, description, challenge: None }, DecisionResult::GuardrailDenied)
}

/// Whether authentication decided, and by a policy of this very instance: a route can have one of its own.
fn is_about(authn: &Struct, id: &PolicyId) -> bool {
    // A revision is far below 2^53.
    #[allow(clippy::cast_precision_loss, clippy::float_cmp)]
    let same_rev = authn.number("rev").is_some_and(|rev| rev == id.rev as f64);
    let instance = authn.text("policy").and_then(|policy| policy.split('/').next());
    authn.is_true("decided") && instance == Some(id.instance()) && same_rev
}

/// `shadow` is the guardrail that would have denied the request.
fn answer(id: &PolicyId, decided: &Decided<'_>, shadow: Option<&str>) -> (Decision, DecisionResult) {
    let effect = match decided.effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    };
    let mode = match decided.mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    };
    let mut record =
        Record::new(KEY, id).text("effect", effect).text("rule", &decided.rule).text("mode", mode);
    if let Some(guardrail) = shadow {
        record = record.text(GUARDRAIL, guardrail).text("guardrail_mode", "shadow");
    }
    if let Some(why) = decided.ambiguous_path {
        let description = format!("the path is ambiguous: {why}");
        return (
            Decision::Deny { record, status: 400, description, challenge: None },
            DecisionResult::BadRequest,
        );
    }
    if let Some(error) = &decided.error {
        tracing::debug!(rule = &*decided.rule, error, "a policy in Cedar is in error");
    }
    match (decided.effect, decided.mode) {
        (Effect::Allow, _) if shadow.is_some() => (
            Decision::Allow { record, headers: Vec::new(), remove: Vec::new() },
            DecisionResult::ShadowDenied,
        ),
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
            let result =
                if decided.error.is_some() { DecisionResult::CedarError } else { DecisionResult::Denied };
            (Decision::Deny { record, status: 403, description, challenge }, result)
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
