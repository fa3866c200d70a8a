//! What the platform team denies on all services, as operators write it: the list of a context source.

use std::collections::BTreeSet;

use api::{authz::Guardrail, pb};
use serde::Deserialize;
use serde_json::Value;

use crate::authz::{AuthzMatch, AuthzMode, AuthzRule};

/// The name of the context source; templates see what [`read`] makes of it.
pub const LIST: &str = "guardrails";
/// All of them are looked at for all requests.
const MOST: usize = 500;

/// One of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    deny: AuthzMatch,
    #[serde(default)]
    unless: Option<AuthzMatch>,
    #[serde(default)]
    mode: AuthzMode,
}

impl Written {
    fn wire(self) -> pb::authz::Guardrail {
        let Self { name, deny, unless, mode } = self;
        pb::authz::Guardrail {
            deny: Some(AuthzRule::Deny(deny).wire(name.clone())),
            unless: unless.map(|what| AuthzRule::Allow(what).wire(name.clone())),
            mode: mode.wire().into(),
            name,
        }
    }
}

/// Reads the list: what the sidecars get, in its order.
///
/// # Errors
/// The field, the rule, and what stands there.
pub fn read(value: &Value) -> Result<Vec<pb::authz::Guardrail>, String> {
    let Value::Array(list) = value else { return Err("a list of guardrails".into()) };
    if list.len() > MOST {
        return Err(format!("at most {MOST} guardrails, got {}", list.len()));
    }
    let (mut all, mut names) = (Vec::with_capacity(list.len()), BTreeSet::new());
    for (at, one) in list.iter().enumerate() {
        let field = |error: &dyn std::fmt::Display| format!("guardrails[{at}]: {error}");
        let written = Written::deserialize(one).map_err(|error| field(&error))?;
        let wire = written.wire();
        Guardrail::try_from(wire.clone()).map_err(|why| format!("guardrails[{at}].{why}"))?;
        if !names.insert(wire.name.clone()) {
            return Err(format!("guardrails[{at}].name: another one for each, got {:?} again", wire.name));
        }
        all.push(wire);
    }
    Ok(all)
}

/// The same as templates see it: each as the JSON form of `gatehouse.authz.v1.Guardrail`.
///
/// # Errors
/// As [`read`].
pub fn shown(value: &Value) -> Result<Value, String> {
    let all = read(value)?;
    Ok(all.iter().map(|one| api::json("gatehouse.authz.v1.Guardrail", one)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_becomes_what_the_sidecars_get() {
        let list = json!([
            {"name": "internal", "deny": {"paths": ["/internal"]}, "unless": {"networks": ["10.0.0.0/8"]}},
            {"name": "others", "deny": {"paths": ["/users/{id}"], "where": ["{id} == sub"]}, "mode": "shadow"},
        ]);
        let shown = shown(&list).unwrap();
        assert_eq!(
            shown[0],
            json!({
                "name": "internal",
                "deny": {"id": "internal", "effect": "EFFECT_DENY", "paths": ["/internal"]},
                "unless": {"id": "internal", "effect": "EFFECT_ALLOW", "networks": ["10.0.0.0/8"]},
                "mode": "MODE_ENFORCE",
            })
        );
        assert_eq!((&shown[1]["mode"], &shown[1]["name"]), (&json!("MODE_SHADOW"), &json!("others")));
        assert_eq!(super::shown(&json!([])), Ok(json!([])));
    }

    #[allow(clippy::needless_pass_by_value, reason = "values are written down where they are used")]
    #[track_caller]
    fn check(list: Value, expected: &str) {
        let error = read(&list).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let good = json!({"name": "a", "deny": {"methods": ["TRACE"]}});
        check(json!({"a": 1}), "a list of guardrails");
        check(json!([{"name": "a"}]), "guardrails[0]: missing field `deny`");
        check(json!([{"name": "a", "allow": {}}]), "unknown field `allow`");
        check(json!([{"name": "", "deny": {}}]), "guardrails[0].name: ");
        check(json!([good, good]), "guardrails[1].name: another one for each, got \"a\" again");
        check(
            json!([good, {"name": "b", "deny": {"methods": ["get"]}}]),
            "guardrails[1].deny.methods[0]: an HTTP method in upper case, got \"get\"",
        );
        check(
            json!([{"name": "a", "deny": {"claims": {"department": ["x"]}}}]),
            "guardrails[0].deny.claims[0]",
        );
        check(json!([{"name": "a", "deny": {}, "unless": {}}]), "guardrails[0].unless: ");
        let many: Value = (0..501).map(|at| json!({"name": at.to_string(), "deny": {}})).collect();
        check(many, "at most 500 guardrails, got 501");
    }
}
