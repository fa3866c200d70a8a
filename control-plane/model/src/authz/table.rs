//! `authz.tests`: requests, and what must become of them. Run offline by the client, and by the broker before it takes a
//! change.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use api::{
    authz::{Effect, METHODS_OF_AUTHENTICATION, Moment},
    path::{PathPattern, RequestPath},
};
use policy::{Engine, Identity, Request};
use serde::{Deserialize, Serialize};

use super::AuthzDefault;
use crate::ServiceFile;

/// A row: a request, and what must become of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthzTest {
    /// What is asked.
    pub request: AuthzRequest,
    /// What must become of it.
    pub expect: AuthzDefault,
    /// Which rule must say so: `rule-0`, `anonymous`, `unauthenticated`, `default` or `path`; any where it is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// A request, as people write it down. Without a subject nobody sends it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthzRequest {
    /// Of HTTP; `GET` where it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The service's first one where it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// With its query.
    pub path: String,
    /// `sub`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// `iss`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// `tenant`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// By which method the subject was proven.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// What it may do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// What it belongs to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Those that the service's `auth` declares.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Vec<String>>,
    /// Where the client is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// When it comes: RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub at: String,
}

/// A request that no sidecar would be asked about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(String);

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    /// The method and the path, and who asks.
    pub request: String,
    /// What must become of it.
    pub expected: String,
    /// What becomes of it; or why it cannot be asked.
    pub decided: Result<String, InvalidRequest>,
    /// Whether they are the same.
    pub is_good: bool,
}

impl TestResult {
    /// For whoever wrote the row; `None` where it is good.
    pub(super) fn failure(&self, at: usize) -> Option<String> {
        let Self { request, expected, decided, is_good } = self;
        match decided {
            _ if *is_good => None,
            Ok(decided) => Some(format!("authz.tests[{at}]: {request}: expected {expected}, got {decided}")),
            Err(why) => Some(format!("authz.tests[{at}].request.{why}")),
        }
    }
}

/// `GET /users/alice of alice`
impl fmt::Display for AuthzRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = if self.subject.is_empty() { "nobody" } else { &self.subject };
        write!(f, "{} {} of {subject}", self.method(), self.path)
    }
}

impl AuthzRequest {
    fn method(&self) -> &str {
        if self.method.is_empty() { "GET" } else { &self.method }
    }

    /// Asks as the sidecar would.
    ///
    /// # Errors
    /// The rules ask for something that the request leaves open, or it says something of nobody.
    pub fn ask<T>(
        &self,
        service: &ServiceFile,
        engine: &Engine,
        ask: impl FnOnce(&Request<'_>) -> T,
    ) -> Result<T, InvalidRequest> {
        let refused = |why: &str| Err(InvalidRequest(why.to_owned()));
        let is_nobody = self.subject.is_empty();
        let says = [&self.issuer, &self.tenant, &self.auth].iter().any(|text| !text.is_empty());
        if is_nobody
            && (says || !(self.scopes.is_empty() && self.groups.is_empty() && self.claims.is_empty()))
        {
            return refused(
                "subject: whose scopes, groups, claims, tenant, issuer or auth these are, got nothing",
            );
        }
        if !self.auth.is_empty() && !METHODS_OF_AUTHENTICATION.contains(&self.auth.as_str()) {
            let known = METHODS_OF_AUTHENTICATION.join(", ");
            return refused(&format!("auth: one of {known}, got {:?}", self.auth));
        }
        let declared = service.declared_claims();
        if let Some(unknown) = self.claims.keys().find(|name| !declared.contains(name)) {
            return refused(&format!(
                "claims.{unknown}: a claim that the service's auth carries (`claims: [name]` at its method)"
            ));
        }
        if engine.needs_address() && self.address.is_empty() {
            return refused("address: where the client is, since the policy asks for it, got nothing");
        }
        if engine.needs_time() && self.at.is_empty() {
            return refused("at: when the request comes, since the policy asks for it, got nothing");
        }
        let address = match self.address.as_str() {
            "" => None,
            text => match text.parse::<IpAddr>() {
                Ok(address) => Some(address),
                Err(_) => return refused(&format!("address: an IP address, got {text:?}")),
            },
        };
        let time = if self.at.is_empty() { Ok(Moment(0)) } else { Moment::parse(&self.at) };
        let time = time.map_err(|why| InvalidRequest(why.within("at").to_string()))?;
        // Of a host `*.example.test` any name would do.
        let own =
            service.hosts.first().map(|host| host.to_string().replacen('*', "any", 1)).unwrap_or_default();
        let scopes: Vec<_> = self.scopes.iter().map(String::as_str).collect();
        let groups: Vec<_> = self.groups.iter().map(String::as_str).collect();
        let claims = self.claims.iter();
        let claims: Vec<_> = claims
            .map(|(name, values)| (name.as_str(), values.iter().map(String::as_str).collect()))
            .collect();
        let identity = Identity {
            subject: &self.subject,
            issuer: &self.issuer,
            tenant: &self.tenant,
            method: &self.auth,
            scopes: &scopes,
            groups: &groups,
            claims: &claims,
        };
        Ok(ask(&Request {
            method: self.method(),
            host: if self.host.is_empty() { &own } else { &self.host },
            path: &self.path,
            address,
            time,
            open: service.is_open(&self.path),
            identity: (!is_nobody).then_some(identity),
        }))
    }
}

impl ServiceFile {
    /// What becomes of each row.
    pub fn authz_results(&self, engine: &Engine) -> Vec<TestResult> {
        self.authz.tests.iter().map(|test| test.run(self, engine)).collect()
    }

    /// Whether a path needs no credential on the route that it takes: the most specific one, as Envoy has it.
    fn is_open(&self, path: &str) -> bool {
        let Ok(path) = RequestPath::parse(path) else { return false };
        let matches = |text: &String| PathPattern::parse(text).is_ok_and(|pattern| pattern.matches(&path));
        let routes = self.routes.iter().filter(|route| matches(&route.path));
        let specific = |path: &str| (path.starts_with('='), path.trim_end_matches('/').len());
        let Some(route) = routes.max_by_key(|route| specific(&route.path)) else { return false };
        let own = route.auth.as_ref().map(|own| &own.anonymous);
        own.unwrap_or(&self.auth.anonymous).iter().any(matches)
    }
}

impl AuthzTest {
    fn run(&self, service: &ServiceFile, engine: &Engine) -> TestResult {
        let Self { request, expect, rule } = self;
        let effect = match expect {
            AuthzDefault::Allow => Effect::Allow,
            AuthzDefault::Deny => Effect::Deny,
        };
        let decided = request.ask(service, engine, |asked| {
            let decided = engine.decide(asked);
            let is_rule = rule.as_deref().is_none_or(|rule| rule == decided.rule);
            (told(decided.effect, Some(&decided.rule)), decided.effect == effect && is_rule)
        });
        TestResult {
            request: request.to_string(),
            expected: told(effect, rule.as_deref()),
            is_good: decided.as_ref().is_ok_and(|(_, is_good)| *is_good),
            decided: decided.map(|(decided, _)| decided),
        }
    }
}

/// `allow by rule-0`
fn told(effect: Effect, rule: Option<&str>) -> String {
    let effect = match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    };
    rule.map_or_else(|| effect.to_owned(), |rule| format!("{effect} by {rule}"))
}
