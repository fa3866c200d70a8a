//! Asks the second engine about a request that the rules leave open, and joins both words.

use api::{authz::Effect, path::RequestPath};
use envoy_types::pb::google::protobuf::Struct;
use policy::{
    Decided,
    cedar::{Compiled, Identity, Request, Stands, Verdict, combine},
};
use sidecar::ext_authz::{Decision, Facts, Fields as _};

use crate::metrics::DecisionResult;

/// What the policies in Cedar say. The identity is what authentication left in the metadata.
pub(crate) fn ask<'a>(engine: &'a Compiled, facts: &Facts<'_>, identity: &Struct) -> Verdict<'a> {
    let failed = |cause: &str| Verdict::Failed { policy: "request", cause: cause.to_owned() };
    let Ok(path) = RequestPath::parse(facts.path()) else { return failed("the path is ambiguous") };
    let Some(subject) = identity.text("sub").filter(|subject| !subject.is_empty()) else {
        return failed("nobody is asked about");
    };
    let (scopes, groups) = (identity.texts("scopes"), identity.texts("groups"));
    let identity = Identity {
        subject,
        issuer: identity.text("iss"),
        tenant: identity.text("tenant"),
        method: identity.text("method").unwrap_or_default(),
        scopes: &scopes,
        groups: &groups,
    };
    let (method, host) = (facts.method(), facts.host());
    engine.decide(&Request { method, host, path, address: facts.address(), time: facts.time(), identity })
}

/// The answer of both, as it is given for one; an error is counted by itself.
pub(crate) fn answer(
    verdict: &Verdict<'_>,
    decided: Decided<'_>,
    answer: impl FnOnce(&Decided<'_>) -> (Decision, DecisionResult),
) -> (Decision, DecisionResult) {
    let told = verdict.told();
    let joined = match combine(decided.said, verdict) {
        Stands::Rules(effect) => Decided { effect, ..decided },
        // A scope would not have made the difference.
        Stands::Cedar(effect) => Decided { effect, rule: &told, missing_scopes: Vec::new(), ..decided },
    };
    let (decision, result) = answer(&joined);
    if let Verdict::Failed { policy, cause } = verdict {
        tracing::debug!(policy, cause, "a policy in Cedar is in error");
        if joined.effect == Effect::Deny && result == DecisionResult::Denied {
            return (decision, DecisionResult::CedarError);
        }
    }
    (decision, result)
}

#[cfg(test)]
mod tests {
    use api::{authn::PolicyId, pb};
    use envoy_types::pb::{
        envoy::{
            config::core::v3::{Address, Metadata, SocketAddress, address::Address as Kind},
            service::auth::v3::{
                AttributeContext, CheckRequest,
                attribute_context::{HttpRequest, Peer, Request as WireRequest},
            },
        },
        google::protobuf::Timestamp,
    };
    use sidecar::ext_authz::{METADATA_NAMESPACE, Record};
    use xds::Table;

    use super::*;
    use crate::{decide::decide, state::InForce};

    /// GETs are allowed by a rule; Cedar has its own mind about documents.
    fn policies(mode: pb::authz::Mode) -> Table<InForce> {
        let rule = pb::authz::Rule { id: "rule-0".into(), methods: vec!["GET".into()], ..Default::default() };
        let resource =
            pb::authz::cedar::Resource { path: "/docs/{d}".into(), entity: "Doc".into(), id: "{d}".into() };
        let policies = "
            @id(\"posts\") permit (principal in Group::\"dev\", action == Action::\"POST\", resource);
            @id(\"away\") forbid (principal, action, resource == Doc::\"secret\");
            @id(\"near\") forbid (principal, action, resource == Path::\"/near\")
                when { !context.address.isInRange(ip(\"10.0.0.0/8\")) || context.time < datetime(\"2026-01-01\") };
            @id(\"open\") forbid (principal, action, resource == Doc::\"missing\") when { resource.is_closed };";
        let wire = pb::authz::Policy {
            name: "i-1@3".into(),
            policy: "i-1".into(),
            rev: 3,
            allow: vec![rule],
            mode: mode.into(),
            anonymous: vec!["/healthz".into()],
            cedar: Some(pb::authz::Cedar {
                schema: "entity Doc = { is_closed: Bool };".into(),
                policies: policies.into(),
                resources: vec![resource],
                entities: String::new(),
            }),
            ..Default::default()
        };
        let mut table = Table::default();
        table.insert("i-1@3".into(), InForce::new(wire.try_into().unwrap()).unwrap());
        table
    }

    fn request(method: &str, path: &str, subject: Option<&str>, address: &str) -> CheckRequest {
        let mut record = Record::new("authn", &PolicyId { policy: "i-1".into(), rev: 3 }).truth("open");
        if let Some(subject) = subject {
            record = record.text("sub", subject).text("method", "jwt").texts("groups", ["dev"]);
        }
        let authn = Decision::Allow { record, headers: Vec::new(), remove: Vec::new() }.answer("");
        let http = HttpRequest { method: method.into(), path: path.into(), ..Default::default() };
        let socket = SocketAddress { address: address.into(), ..Default::default() };
        let address = Some(Address { address: Some(Kind::SocketAddress(socket)) });
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(Peer { address, ..Default::default() }),
                request: Some(WireRequest {
                    time: Some(Timestamp { seconds: 1_800_000_000, nanos: 5 }),
                    http: Some(http),
                }),
                context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
                metadata_context: Some(Metadata {
                    filter_metadata: [(METADATA_NAMESPACE.to_owned(), authn.dynamic_metadata.unwrap())]
                        .into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }
    }

    #[track_caller]
    fn check(request: &CheckRequest, mode: pb::authz::Mode, expected: (DecisionResult, &str)) {
        let (decision, result) = decide(&Facts::read(request).unwrap(), &policies(mode));
        let (Decision::Allow { record, .. } | Decision::Deny { record, .. }) = &decision else {
            panic!("{decision:?}");
        };
        assert_eq!((result, record.get("rule").unwrap()), expected);
    }

    #[test]
    fn either_engine_allows_and_a_deny_of_either_stands() {
        use DecisionResult::{Allowed, CedarError, Denied, ShadowDenied};
        let enforce = pb::authz::Mode::Enforce;
        let alice = |method: &str, path: &str| request(method, path, Some("alice"), "10.1.2.3");
        check(&alice("GET", "/x"), enforce, (Allowed, "rule-0"));
        check(&alice("POST", "/x"), enforce, (Allowed, "cedar:posts"));
        check(&alice("PUT", "/x"), enforce, (Denied, "default"));
        check(&alice("GET", "/docs/secret"), enforce, (Denied, "cedar:away"));
        check(&alice("POST", "/docs/secret"), enforce, (Denied, "cedar:away"));
        check(&alice("GET", "/docs/missing"), enforce, (CedarError, "cedar-error:open"));
        check(&alice("GET", "/near"), enforce, (Allowed, "rule-0"));
        check(&request("GET", "/near", Some("alice"), "192.0.2.1"), enforce, (Denied, "cedar:near"));
        check(&request("GET", "/x", Some("alice"), "pipe"), enforce, (CedarError, "cedar-error:request"));
        check(&alice("GET", "/docs/missing"), pb::authz::Mode::Shadow, (ShadowDenied, "cedar-error:open"));
    }

    #[test]
    fn nobody_is_not_asked_about() {
        let enforce = pb::authz::Mode::Enforce;
        let nobody = |path: &str| request("GET", path, None, "10.1.2.3");
        check(&nobody("/healthz"), enforce, (DecisionResult::Allowed, "anonymous"));
        check(&nobody("/x"), enforce, (DecisionResult::Denied, "unauthenticated"));
    }
}
