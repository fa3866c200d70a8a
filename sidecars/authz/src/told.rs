//! What logs and spans are told of a decision beside what every decision has. Of who asked they are told what authentication
//! has recorded, and no credential is in that.

use opentelemetry::KeyValue;
use serde::Serialize;
use sidecar::{
    decision_log::cut,
    ext_authz::{Decision, Facts, Fields as _},
};

/// What stands in a line. The names are part of the format: `docs/sidecar-operations.md`.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    http_method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    effect: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guardrail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guardrail_mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
}

impl<'a> Line<'a> {
    pub(crate) fn of(facts: &Facts<'a>, decision: &'a Decision) -> Self {
        let identity = facts.metadata("authn");
        let who = |key| identity.and_then(|identity| identity.text(key)).map(cut);
        let told = |key| recorded(decision, key);
        Self {
            http_method: cut(facts.method()),
            effect: told("effect"),
            rule: told("rule"),
            mode: told("mode"),
            guardrail: told("guardrail"),
            guardrail_mode: told("guardrail_mode"),
            iss: who("iss"),
            sub: who("sub"),
            tenant: who("tenant"),
        }
    }
}

/// What stands in a span.
pub(crate) fn attributes(decision: &Decision) -> Vec<KeyValue> {
    let names = [
        ("gatehouse.effect", "effect"),
        ("gatehouse.rule", "rule"),
        ("gatehouse.mode", "mode"),
        ("gatehouse.guardrail", "guardrail"),
        ("gatehouse.guardrail_mode", "guardrail_mode"),
    ];
    let told = names.into_iter().filter_map(|(name, key)| Some((name, recorded(decision, key)?)));
    told.map(|(name, text)| KeyValue::new(name, text.to_owned())).collect()
}

fn recorded<'a>(decision: &'a Decision, key: &str) -> Option<&'a str> {
    decision.record().and_then(|record| record.get(key)).map(cut)
}
