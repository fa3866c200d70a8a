//! Who may order what: platforms, their tenants, the hosts that these may claim, and how much they may have.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Host, SecretHash,
    plan::{Limits, Plan},
};

/// Whose a service instance is: a tenant of a platform. Quotas are counted, and hosts belong, by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The platform's name, which has no slash.
    pub platform: String,
    /// As the platform names it.
    pub tenant: String,
}

impl Owner {
    /// As it is shown.
    pub fn parse(text: &str) -> Option<Self> {
        let (platform, tenant) = text.split_once('/')?;
        Some(Self { platform: platform.to_owned(), tenant: tenant.to_owned() })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.platform, self.tenant)
    }
}

/// All platforms, as operators describe them in a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PlatformsFile")]
pub struct Platforms {
    by_name: BTreeMap<String, Platform>,
    host_cool_down: Duration,
    plans: BTreeMap<Plan, Limits>,
}

/// One platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// Hashes of its secrets; two at a time while one is replaced.
    #[serde(default)]
    pub secrets: Vec<SecretHash>,
    /// Tokens that are as good as a secret.
    #[serde(default)]
    pub tokens: Option<TokenRule>,
    /// What of a request names the tenant.
    #[serde(default)]
    pub tenant: TenantBy,
    /// The hosts that its tenants may claim. Of all rules of all platforms, the one that says most of a host holds.
    pub hosts: Vec<HostRule>,
    /// Of each tenant.
    #[serde(default)]
    pub quota: Quota,
}

/// Which tokens of an issuer are of a platform (OpenID Connect).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRule {
    /// Equal to the claim `iss`; one whose keys the control plane has.
    pub issuer: String,
    /// In the claim `aud`.
    pub audience: String,
    /// All of these are as said. At least one: whoever else the issuer signs for could ask for the same audience.
    pub claims: BTreeMap<String, Value>,
}

/// What of a request names the tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum TenantBy {
    /// `organization_guid` of a provision.
    #[default]
    Organization,
    /// `space_guid` of a provision.
    Space,
    /// `originating_identity.<field>`: of the value of `X-Broker-API-Originating-Identity`.
    Identity(String),
    /// `token.<claim>`: of the token that the platform signed in with.
    Token(String),
}

/// Hosts, and who may claim them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRule {
    /// `a.example.test`, or `*.example.test` for all names below it.
    pub name: HostPattern,
    /// Without any, all tenants of the platform.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Only for the plan `internal`, which has no other names.
    #[serde(default)]
    pub private: bool,
    /// Whether wildcards may be claimed too. Only where one tenant may claim anything at all, since a wildcard has whatever
    /// nobody has yet.
    #[serde(default)]
    pub wildcards: bool,
}

/// `a.example.test`, `*.example.test`, or `*` for every name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPattern {
    /// Without `*.`; empty for `*`.
    name: String,
    below: bool,
}

/// How much a tenant may have. What is not said is not bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Service instances that are there, or coming, or going.
    pub instances: Option<u32>,
    /// Hosts that its instances hold together.
    pub hosts: Option<u32>,
}

/// A host that a tenant may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostRefused {
    /// It is for one plan only.
    #[error("{0} is a private name, which only the plan \"internal\" has")]
    Private(Host),
    /// It is not for this plan.
    #[error("{0} is not a private name, and the plan \"internal\" has no others")]
    Public(Host),
    /// No rule speaks of it.
    #[error("{0} is under no domain of this platform")]
    NoRule(Host),
    /// It is a wildcard, and no rule allows that.
    #[error("{0} is a wildcard, and the rule for {1:?} allows none")]
    Wildcard(Host, String),
    /// It is a wildcard, and would have names that a rule gives to others.
    #[error("{0} would have names that belong to others by the rule for {1:?}")]
    Covers(Host, String),
    /// The rule that says most of it is for others.
    #[error("{host} belongs to others by the rule for {rule:?}")]
    Others {
        /// The host.
        host: Host,
        /// The rule's name.
        rule: String,
    },
}

/// A platforms file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPlatforms(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlatformsFile {
    platforms: BTreeMap<String, Platform>,
    /// Hours for which a host that was freed is kept for who had it.
    #[serde(default = "cool_down_hours")]
    host_cool_down_hours: u32,
    /// How much each plan allows; what is not said is the default.
    #[serde(default)]
    plans: BTreeMap<Plan, Limits>,
}

/// The names that are private in development.
const PRIVATE: &str = "internal.test";

/// So that a host that was deleted by mistake, and is still in caches and bookmarks, does not become another's.
fn cool_down_hours() -> u32 {
    24
}

impl TryFrom<PlatformsFile> for Platforms {
    type Error = InvalidPlatforms;

    fn try_from(file: PlatformsFile) -> Result<Self, InvalidPlatforms> {
        let invalid = |text: String| Err(InvalidPlatforms(text));
        for (name, platform) in &file.platforms {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if name.is_empty() || name.len() > 64 || !plain {
                return invalid(format!(
                    "platforms: a name of 1 to 64 of the characters A-Z a-z 0-9 - . _, got {name:?}"
                ));
            }
            if platform.tokens.as_ref().is_some_and(|tokens| tokens.claims.is_empty()) {
                return invalid(format!(
                    "platforms.{name}.tokens.claims: at least one; without any, whoever the issuer signs for would be this platform"
                ));
            }
            if platform.tokens.is_none() && matches!(platform.tenant, TenantBy::Token(_)) {
                return invalid(format!(
                    "platforms.{name}.tenant: of a token, and the platform takes no `tokens`"
                ));
            }
            for (at, rule) in platform.hosts.iter().enumerate() {
                if rule.wildcards && rule.tenants.len() != 1 {
                    return invalid(format!(
                        "platforms.{name}.hosts[{at}].wildcards: needs exactly one of `tenants`, got {}",
                        rule.tenants.len()
                    ));
                }
            }
            if platform.hosts.is_empty() {
                return invalid(format!("platforms.{name}.hosts: at least one rule; \"*\" is every name"));
            }
        }
        let host_cool_down = Duration::from_secs(u64::from(file.host_cool_down_hours) * 3_600);
        Ok(Self { by_name: file.platforms, host_cool_down, plans: file.plans })
    }
}

fn all_rules(platforms: &BTreeMap<String, Platform>) -> impl Iterator<Item = (&String, &HostRule)> {
    platforms.iter().flat_map(|(name, platform)| platform.hosts.iter().map(move |rule| (name, rule)))
}

impl Platforms {
    /// Platforms that may do everything, by their names and hashes: for development, and for tests.
    pub fn unbounded(secrets: impl IntoIterator<Item = (String, SecretHash)>) -> Self {
        let rule = |name: &str, private| HostRule {
            name: HostPattern { name: name.to_owned(), below: true },
            tenants: Vec::new(),
            private,
            wildcards: true,
        };
        let all = [rule("", false), rule(PRIVATE, true)];
        let platform = |hash| Platform {
            secrets: vec![hash],
            tokens: None,
            tenant: TenantBy::default(),
            hosts: all.to_vec(),
            quota: Quota::default(),
        };
        Self {
            by_name: secrets.into_iter().map(|(name, hash)| (name, platform(hash))).collect(),
            host_cool_down: Duration::ZERO,
            plans: BTreeMap::new(),
        }
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Platform> {
        self.by_name.get(name)
    }

    /// One of them, with the name under which it is kept.
    pub fn find(&self, name: &str) -> Option<(&str, &Platform)> {
        self.by_name.get_key_value(name).map(|(name, platform)| (name.as_str(), platform))
    }

    /// Those that sign in with tokens.
    pub fn with_tokens(&self) -> impl Iterator<Item = (&str, &TokenRule)> {
        let all = self.by_name.iter();
        all.filter_map(|(name, platform)| Some((name.as_str(), platform.tokens.as_ref()?)))
    }

    /// How long a host that was freed is kept for who had it.
    pub fn host_cool_down(&self) -> Duration {
        self.host_cool_down
    }

    /// How much a tenant may have. Of a platform that is gone from the file, nothing more.
    pub fn quota(&self, owner: &Owner) -> Quota {
        let nothing = Quota { instances: Some(0), hosts: Some(0) };
        self.get(&owner.platform).map_or(nothing, |platform| platform.quota)
    }

    /// The same with other limits of a plan.
    #[must_use]
    pub fn with_limits(mut self, plan: Plan, limits: Limits) -> Self {
        self.plans.insert(plan, limits);
        self
    }

    /// How much a plan allows.
    pub fn limits(&self, plan: Plan) -> Limits {
        self.plans.get(&plan).copied().unwrap_or_default()
    }

    /// Whether a tenant may claim a host for a plan at all, whoever has it.
    ///
    /// # Errors
    /// It may not.
    pub fn may_claim(&self, owner: &Owner, host: &Host, plan: Plan) -> Result<(), HostRefused> {
        let matching: Vec<_> = all_rules(&self.by_name).filter(|(_, rule)| rule.name.matches(host)).collect();
        let Some(most) = matching.iter().map(|(_, rule)| rule.name.weight()).max() else {
            return Err(HostRefused::NoRule(host.clone()));
        };
        // Platforms may share a domain: of rules that say as much, one for the owner is enough.
        let mut holding = matching.iter().filter(|(_, rule)| rule.name.weight() == most);
        let is_for = |(platform, rule): &&(&String, &HostRule)| {
            **platform == owner.platform && (rule.tenants.is_empty() || rule.tenants.contains(&owner.tenant))
        };
        if let Some((_, rule)) = holding.find(is_for) {
            self.may_be_wild(owner, host, rule)?;
            return match (rule.private, plan) {
                (true, Plan::Internal) | (false, Plan::Standard | Plan::Edge) => Ok(()),
                (true, _) => Err(HostRefused::Private(host.clone())),
                (false, _) => Err(HostRefused::Public(host.clone())),
            };
        }
        let own = |(platform, _): &&(&String, &HostRule)| **platform == owner.platform;
        if !matching.iter().any(|rule| own(&rule)) {
            return Err(HostRefused::NoRule(host.clone()));
        }
        let rule = matching.iter().find(|(_, rule)| rule.name.weight() == most);
        let rule = rule.map(|(_, rule)| rule.name.to_string()).unwrap_or_default();
        Err(HostRefused::Others { host: host.clone(), rule })
    }
}

impl Platforms {
    /// A wildcard has whatever nobody has yet: so nobody else may have a right to any of it.
    fn may_be_wild(&self, owner: &Owner, host: &Host, by: &HostRule) -> Result<(), HostRefused> {
        let Some(name) = host.below() else { return Ok(()) };
        if !by.wildcards {
            return Err(HostRefused::Wildcard(host.clone(), by.name.to_string()));
        }
        // Those for names below it, and those for the names that it is among itself.
        let concerns = |rule: &HostRule| {
            let of = &rule.name;
            let rest = of.name.strip_suffix(name);
            let is_below = rest.is_some_and(|rest| rest.ends_with('.') || (rest.is_empty() && of.below));
            is_below || (of.matches(host) && of.weight() == by.name.weight())
        };
        let is_others = |platform: &String, rule: &HostRule| {
            *platform != owner.platform || (rule.tenants != [owner.tenant.clone()] && !by.tenants.is_empty())
        };
        match all_rules(&self.by_name).find(|(platform, rule)| concerns(rule) && is_others(platform, rule)) {
            Some((_, rule)) => Err(HostRefused::Covers(host.clone(), rule.name.to_string())),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for TenantBy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.split_once('.')) {
            ("organization_guid", _) => Ok(Self::Organization),
            ("space_guid", _) => Ok(Self::Space),
            (_, Some(("originating_identity", field))) if !field.is_empty() => {
                Ok(Self::Identity(field.to_owned()))
            }
            (_, Some(("token", claim))) if !claim.is_empty() => Ok(Self::Token(claim.to_owned())),
            _ => Err(format!(
                "organization_guid, space_guid, originating_identity.<field> or token.<claim>, got {text:?}"
            )),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self { name: String::new(), below: true });
        }
        let (name, below) = text.strip_prefix("*.").map_or((text.as_str(), false), |name| (name, true));
        // A whole zone may be a name of one label: `*.internal`.
        let checked = if name.contains('.') { name.to_owned() } else { format!("{name}.test") };
        Host::try_from(checked).map_err(|_| format!("a name, *.name or *, got {text:?}"))?;
        Ok(Self { name: name.to_owned(), below })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.below, self.name.as_str()) {
            (true, "") => f.write_str("*"),
            (true, name) => write!(f, "*.{name}"),
            (false, name) => f.write_str(name),
        }
    }
}

impl HostPattern {
    fn matches(&self, host: &Host) -> bool {
        if !self.below {
            return host.as_str() == self.name;
        }
        self.name.is_empty()
            || host.as_str().strip_suffix(&self.name).is_some_and(|below| below.ends_with('.'))
    }

    /// Of two that match, the heavier one says more.
    fn weight(&self) -> (usize, bool) {
        (self.name.len(), !self.below)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Platforms, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn two() -> Platforms {
        read(json!({
            "platforms": {
                "cf": {"secrets": [], "hosts": [
                    {"name": "*.example.test"}, {"name": "*.a.example.test", "tenants": ["team-a"]},
                    {"name": "one.a.example.test", "tenants": ["team-b"]},
                ], "quota": {"instances": 2}},
                "k8s": {"secrets": [], "hosts": [{"name": "*.k.example.test"}, {"name": "*"}],
                        "tenant": "originating_identity.username"},
            },
            "host_cool_down_hours": 1,
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(owner: (&str, &str), host: &str, expected: Result<(), &str>) {
        let owner = Owner { platform: owner.0.into(), tenant: owner.1.into() };
        let host_name = Host::try_from(host.to_owned()).unwrap();
        let told = two().may_claim(&owner, &host_name, Plan::Standard);
        assert_eq!(told.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{host}");
    }

    #[test]
    fn the_rule_that_says_most_of_a_host_holds() {
        check(("cf", "team-c"), "x.example.test", Ok(()));
        check(("cf", "team-a"), "x.a.example.test", Ok(()));
        check(
            ("cf", "team-c"),
            "x.a.example.test",
            Err("x.a.example.test belongs to others by the rule for \"*.a.example.test\""),
        );
        check(("cf", "team-b"), "one.a.example.test", Ok(()));
        check(
            ("cf", "team-a"),
            "one.a.example.test",
            Err("one.a.example.test belongs to others by the rule for \"one.a.example.test\""),
        );
        check(("cf", "team-c"), "example.test", Err("example.test is under no domain of this platform"));
        check(("cf", "team-c"), "myexample.test", Err("myexample.test is under no domain of this platform"));
        check(
            ("cf", "team-c"),
            "x.k.example.test",
            Err("x.k.example.test belongs to others by the rule for \"*.k.example.test\""),
        );
        check(("k8s", "x"), "x.k.example.test", Ok(()));
        check(
            ("k8s", "x"),
            "x.a.example.test",
            Err("x.a.example.test belongs to others by the rule for \"*.a.example.test\""),
        );
        check(("k8s", "x"), "anything.at.all", Ok(()));
        check(("gone", "x"), "anything.at.all", Err("anything.at.all is under no domain of this platform"));
    }

    #[test]
    fn a_wildcard_is_for_who_alone_may_have_its_names() {
        let platforms = read(json!({"platforms": {
            "cf": {"hosts": [
                {"name": "*.example.test"}, {"name": "*.a.example.test", "tenants": ["a"], "wildcards": true},
                {"name": "*.own.a.example.test", "tenants": ["a"]}, {"name": "b.c.a.example.test", "tenants": ["b"]},
            ]},
        }}))
        .unwrap();
        let told = |tenant: &str, host: &str| {
            let owner = Owner { platform: "cf".into(), tenant: tenant.into() };
            let told = platforms.may_claim(&owner, &Host::try_from(host.to_owned()).unwrap(), Plan::Standard);
            told.map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert_eq!(told("a", "*.x.a.example.test"), "");
        assert_eq!(
            told("a", "*.example.test"),
            "*.example.test is a wildcard, and the rule for \"*.example.test\" allows none"
        );
        assert_eq!(
            told("a", "*.c.a.example.test"),
            "*.c.a.example.test would have names that belong to others by the rule for \"b.c.a.example.test\""
        );
        assert!(told("a", "*.a.example.test").contains("b.c.a.example.test"));
        assert!(told("b", "*.x.a.example.test").contains("belongs to others"));
        let shared = read(json!({"platforms": {
            "cf": {"hosts": [{"name": "*.example.test", "tenants": ["a"], "wildcards": true}]},
            "k8s": {"hosts": [{"name": "*.example.test", "tenants": ["b"]}]},
        }}))
        .unwrap();
        let owner = Owner { platform: "cf".into(), tenant: "a".into() };
        for host in ["*.example.test", "*.x.example.test"] {
            let host = Host::try_from(host.to_owned()).unwrap();
            let refused = shared.may_claim(&owner, &host, Plan::Standard).unwrap_err();
            assert!(matches!(refused, HostRefused::Covers(..)), "{refused}");
        }
        let own = "*.own.a.example.test is a wildcard, and the rule for \"*.own.a.example.test\" allows none";
        assert_eq!(told("a", "*.own.a.example.test"), own);
        let several = json!({"platforms": {"cf": {"hosts": [{"name": "*", "wildcards": true}]}}});
        assert!(read(several).unwrap_err().contains("hosts[0].wildcards: needs exactly one"));
    }

    #[test]
    fn a_platform_that_is_gone_gets_nothing_more() {
        let owner = |platform: &str| Owner { platform: platform.into(), tenant: "t".into() };
        assert_eq!(two().quota(&owner("cf")), Quota { instances: Some(2), hosts: None });
        assert_eq!(two().quota(&owner("gone")), Quota { instances: Some(0), hosts: Some(0) });
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let platform = |change: Value| {
            let mut platform = json!({"secrets": [], "hosts": [{"name": "*"}]});
            platform.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            json!({"platforms": {"cf": platform}})
        };
        for (file, word) in [
            (json!({"platforms": {"a/b": {"secrets": [], "hosts": [{"name": "*"}]}}}), "\"a/b\""),
            (platform(json!({"hosts": []})), "platforms.cf.hosts: at least one"),
            (platform(json!({"hosts": [{"name": "a.*.test"}]})), "\"a.*.test\""),
            (platform(json!({"tenant": "team"})), "\"team\""),
            (platform(json!({"tenant": "token.repository"})), "platforms.cf.tenant: of a token"),
            (
                platform(json!({"tokens": {"issuer": "https://i", "audience": "a", "claims": {}}})),
                "platforms.cf.tokens.claims: at least one",
            ),
            (platform(json!({"quota": {"instnces": 1}})), "instnces"),
            (platform(json!({"color": 1})), "color"),
        ] {
            let told = read(file).unwrap_err();
            assert!(told.contains(word), "{told:?} does not say {word:?}");
        }
    }
}
