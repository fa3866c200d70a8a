//! Which requests of a service pass, as its developers say it: `authz`, its one conversion into what the sidecar gets, and
//! what is wrong with it, by the engine that decides requests.

mod table;

use std::collections::{BTreeMap, BTreeSet};

use api::{
    authz::{HostPattern, Policy, Rule},
    pb,
};
use policy::{Engine, covered};
use serde::{Deserialize, Serialize};

pub use table::{AuthzRequest, AuthzTest, InvalidRequest, TestResult};

use crate::{ServiceFile, auth::AuthMethod, cedar::Cedar};

/// Which requests pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authz {
    /// What happens when no rule matches.
    #[serde(default)]
    pub default: AuthzDefault,
    /// In no order: a deny that matches wins, then any allow.
    #[serde(default)]
    pub rules: Vec<AuthzRule>,
    /// Whether a deny is carried out.
    #[serde(default)]
    pub mode: AuthzMode,
    /// Decides beside the rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cedar: Option<Cedar>,
    /// Requests, and what must become of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<AuthzTest>,
}

/// What happens when no rule matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AuthzDefault {
    Allow,
    #[default]
    Deny,
}

/// Whether a deny is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthzMode {
    /// Yes.
    #[default]
    Enforce,
    /// No: it is recorded, and the request passes.
    Shadow,
}

impl AuthzMode {
    pub(crate) fn wire(self) -> pb::authz::Mode {
        match self {
            Self::Enforce => pb::authz::Mode::Enforce,
            Self::Shadow => pb::authz::Mode::Shadow,
        }
    }
}

/// A rule: what it matches, and what happens then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum AuthzRule {
    Allow(AuthzMatch),
    Deny(AuthzMatch),
}

/// What a rule matches: all that is given, and of each list one; of scopes, claims and comparisons all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthzMatch {
    /// Upper case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Of the service; `*.example.test` is every name below that one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// `/prefix` or `=/exact`, with captures `{name}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// All of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// One of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Of each, one value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Vec<String>>,
    /// Methods of authentication.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub auth: Vec<String>,
    /// `10.0.0.0/8`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// When it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<AuthzTime>,
    /// What stands in the path, compared with the identity.
    #[serde(rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<AuthzComparison>,
}

/// When a rule counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthzTime {
    /// `mon`, `tue`, …; every day where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
    /// `08:00`: from this minute on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// `18:00`: until before this minute.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub to: String,
    /// Whose days and hours: a name of the IANA time zone database.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub after: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub before: String,
}

/// `{id} == sub`, `{team} in groups`, `{area} in scopes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuthzComparison {
    text: String,
    wire: pb::authz::Comparison,
}

impl TryFrom<String> for AuthzComparison {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        use pb::authz::comparison::{Held, With};

        let read = || {
            let (capture, rest) = text.strip_prefix('{')?.split_once("} ")?;
            let with = match rest.split_once(' ')? {
                ("==", claim) if !claim.contains(' ') => With::Claim(claim.to_owned()),
                ("in", "groups") => With::Held(Held::Groups.into()),
                ("in", "scopes") => With::Held(Held::Scopes.into()),
                _ => return None,
            };
            Some(pb::authz::Comparison { capture: capture.to_owned(), with: Some(with) })
        };
        match read() {
            Some(wire) => Ok(Self { text, wire }),
            None => Err(format!(
                "{{capture}} == claim, {{capture}} in groups or {{capture}} in scopes, got {text:?}"
            )),
        }
    }
}

impl From<AuthzComparison> for String {
    fn from(comparison: AuthzComparison) -> Self {
        comparison.text
    }
}

impl AuthzRule {
    fn parts(&self) -> (&'static str, pb::authz::Effect, &AuthzMatch) {
        match self {
            Self::Allow(what) => ("allow", pb::authz::Effect::Allow, what),
            Self::Deny(what) => ("deny", pb::authz::Effect::Deny, what),
        }
    }

    /// Its place in the service file.
    fn field(&self, at: usize) -> String {
        format!("authz.rules[{at}].{}", self.parts().0)
    }

    /// What the sidecar gets, under this name.
    pub(crate) fn wire(&self, id: String) -> pb::authz::Rule {
        let (_, effect, what) = self.parts();
        let what = what.clone();
        let claims = what.claims.into_iter().map(|(name, values)| pb::authz::Claim { name, values });
        let time = what.time.map(|AuthzTime { days, from, to, zone, after, before }| pb::authz::Time {
            days,
            from,
            to,
            zone,
            after,
            before,
        });
        pb::authz::Rule {
            id,
            effect: effect.into(),
            methods: what.methods,
            hosts: what.hosts,
            paths: what.paths,
            scopes: what.scopes,
            groups: what.groups,
            claims: claims.collect(),
            auth: what.auth,
            networks: what.networks,
            time,
            r#where: what.comparisons.into_iter().map(|comparison| comparison.wire).collect(),
        }
    }
}

/// What decisions call a rule: its number in the service file.
fn id(at: usize) -> String {
    format!("rule-{at}")
}

impl ServiceFile {
    /// What the sidecar gets. The only conversion: the template renders it, and what is checked and explained is it too.
    pub fn authz_policy(&self, policy: &str, rev: u64) -> pb::authz::Policy {
        let Authz { default, rules, mode, cedar, .. } = &self.authz;
        let default = match default {
            AuthzDefault::Allow => pb::authz::Effect::Allow,
            AuthzDefault::Deny => pb::authz::Effect::Deny,
        };
        let routes = self.routes.iter().filter_map(|route| route.auth.as_ref());
        let anonymous: BTreeSet<_> =
            routes.flat_map(|own| &own.anonymous).chain(&self.auth.anonymous).cloned().collect();
        pb::authz::Policy {
            name: format!("{policy}@{rev}"),
            policy: policy.to_owned(),
            rev,
            default_effect: default.into(),
            rules: rules.iter().enumerate().map(|(at, rule)| rule.wire(id(at))).collect(),
            mode: mode.wire().into(),
            anonymous: anonymous.into_iter().collect(),
            claims: self.declared_claims(),
            cedar: cedar.as_ref().map(Cedar::wire),
        }
    }

    /// Its policy, ready to decide offline; of entities, Cedar knows those for tests.
    ///
    /// # Errors
    /// What is wrong with them, each with its field.
    pub fn authz_engine(&self) -> Result<Engine, Vec<String>> {
        let claims = self.declared_claims();
        let broken: Vec<_> = self
            .authz
            .rules
            .iter()
            .enumerate()
            .flat_map(|(at, rule)| self.broken_rule(at, rule, &claims))
            .collect();
        if !broken.is_empty() {
            return Err(broken);
        }
        let mut wire = self.authz_policy("offline", 1);
        if let (Some(wire), Some(cedar)) = (&mut wire.cedar, &self.authz.cedar) {
            wire.entities = cedar.entities_for_tests();
        }
        let checked = Policy::try_from(wire);
        let checked = checked.map_err(|why| vec![why.within("authz").to_string()])?;
        let idle: Vec<_> =
            covered(&checked.rules).iter().map(|covered| self.idle(covered.rule, covered.by)).collect();
        if !idle.is_empty() {
            return Err(idle);
        }
        Engine::new(checked).map_err(|invalid| vec![invalid.within("authz.cedar").to_string()])
    }

    /// Rows of `authz.tests` that do not become what they must.
    pub(crate) fn failed_tests(&self, engine: &Engine) -> Vec<String> {
        let results = self.authz_results(engine);
        results.iter().enumerate().filter_map(|(at, result)| result.failure(at)).collect()
    }

    fn idle(&self, rule: usize, by: usize) -> String {
        let rules = &self.authz.rules;
        format!(
            "{}: {} can never decide anything, since {} ({}) decides whatever it matches",
            rules[rule].field(rule),
            id(rule),
            id(by),
            rules[by].field(by),
        )
    }

    fn broken_rule(&self, at: usize, rule: &AuthzRule, claims: &[String]) -> Vec<String> {
        let (field, what) = (rule.field(at), rule.parts().2);
        let refused = Rule::read(rule.wire(id(at)), claims).err();
        let mut broken: Vec<_> =
            refused.map(|why| format!("{field}.{}", place(what, &why.to_string()))).into_iter().collect();
        let own: Vec<_> =
            self.hosts.iter().filter_map(|host| HostPattern::parse(&host.to_string()).ok()).collect();
        for (nth, host) in what.hosts.iter().enumerate() {
            let Ok(pattern) = HostPattern::parse(host) else { continue };
            if !own.iter().any(|own| own.covers(&pattern) || pattern.covers(own)) {
                broken.push(format!("{field}.hosts[{nth}]: one of the service's hosts, got {host:?}"));
            }
        }
        broken
    }

    /// What authentication carries for its rules, of all methods.
    fn declared_claims(&self) -> Vec<String> {
        let methods = self.auth_methods();
        let names = methods.iter().flat_map(|(_, method)| match method {
            AuthMethod::Jwt { token, .. } | AuthMethod::Session { token, .. } => token.claims.as_slice(),
            AuthMethod::Introspection { claims, .. } => claims,
            _ => &[],
        });
        names.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The field of a wire rule, as the service file has it: claims have names there, and comparisons are one text.
fn place(what: &AuthzMatch, told: &str) -> String {
    let (field, rest) = told.split_once(": ").unwrap_or((told, ""));
    let numbered = |list: &str| -> Option<(usize, String)> {
        let (number, inner) = field.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
        Some((number.parse().ok()?, inner.to_owned()))
    };
    let field = if let Some((number, inner)) = numbered("claims") {
        let name = what.claims.keys().nth(number).map_or("", String::as_str);
        format!("claims.{name}{}", inner.trim_start_matches(".values").trim_start_matches(".name"))
    } else if let Some((number, _)) = numbered("where") {
        format!("where[{number}]")
    } else {
        field.to_owned()
    };
    format!("{field}: {rest}")
}

#[cfg(test)]
mod tests;
