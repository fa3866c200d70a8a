//! Who a client may be: what its certificate says, against the node that it claims to be.

use std::{fmt, sync::Arc};

use api::Role;
use regex::Regex;
use serde::{Deserialize, Serialize};

/// The other side of a connection, as far as it has proven it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// On this machine: it may be any node.
    Local,
    /// The URIs and DNS names in its certificate (`subjectAltName`).
    Certified(Arc<[String]>),
}

/// A rule: a certificate with such a name may be these nodes.
#[derive(Clone, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    pattern: String,
    regex: Regex,
}

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("identities: a name with {{group}} and, if wanted, {{instance}}, {{role}} and *, got {0:?}")]
pub struct InvalidIdentity(String);

const PLACES: [&str; 3] = ["group", "instance", "role"];

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.pattern
    }
}

impl TryFrom<String> for Identity {
    type Error = InvalidIdentity;

    fn try_from(pattern: String) -> Result<Self, InvalidIdentity> {
        // A part of a URI ends at a slash, a part of a DNS name at a dot.
        let part = if pattern.contains("://") { "[^/]" } else { "[^.]" };
        let mut regex = regex::escape(&pattern).replace(r"\*", &format!("{part}*"));
        for place in PLACES {
            regex = regex.replacen(&format!(r"\{{{place}\}}"), &format!("(?P<{place}>{part}+)"), 1);
        }
        // A brace that is left is no place, or one for the second time. Without a group it would be anybody's.
        let is_sound = pattern.contains("{group}") && !regex.contains(r"\{") && !regex.contains(r"\}");
        match Regex::new(&format!("^{regex}$")) {
            Ok(regex) if is_sound => Ok(Self { pattern, regex }),
            _ => Err(InvalidIdentity(pattern)),
        }
    }
}

impl Identity {
    /// Whether a certificate with this name may be that node's process.
    fn admits(&self, name: &str, node_id: &str, role: Role) -> bool {
        let (group, instance) = node_id.split_once('/').unwrap_or((node_id, ""));
        let role = role.to_string();
        self.regex.captures(name).is_some_and(|found| {
            let fits =
                |place: &str, wanted: &str| found.name(place).is_none_or(|found| found.as_str() == wanted);
            fits("group", group) && fits("instance", instance) && fits("role", &role)
        })
    }
}

impl Peer {
    /// Whether this may be that node's process. The error says what it may be.
    pub(crate) fn may_be(&self, rules: &[Identity], node_id: &str, role: Role) -> Result<(), String> {
        let Self::Certified(names) = self else { return Ok(()) };
        if names.iter().any(|name| rules.iter().any(|rule| rule.admits(name, node_id, role))) {
            return Ok(());
        }
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let rules: Vec<_> = rules.iter().map(|rule| rule.pattern.as_str()).collect();
        Err(format!(
            "node.id: the certificate says {names}, which by the rule {} is not {role} of {node_id:?}",
            rules.join(" or ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_be(rule: &str, name: &str, node: &str, role: Role) -> bool {
        let rules = [Identity::try_from(rule.to_owned()).unwrap()];
        Peer::Certified([name.to_owned()].into()).may_be(&rules, node, role).is_ok()
    }

    #[test]
    fn a_certificate_is_the_node_that_it_names_and_no_other() {
        let rule = "spiffe://example.test/gatehouse/{group}/{instance}";
        let name = "spiffe://example.test/gatehouse/edge/i-1";
        assert!(may_be(rule, name, "edge/i-1", Role::Envoy));
        assert!(may_be(rule, name, "edge/i-1", Role::Authn));
        for node in ["edge/i-2", "edg/i-1", "edge/i-1/x", "other/i-1", "edge"] {
            assert!(!may_be(rule, name, node, Role::Envoy), "{node}");
        }
        for name in
            ["spiffe://example.test/gatehouse/edge/i-1/x", "xspiffe://example.test/gatehouse/edge/i-1", ""]
        {
            assert!(!may_be(rule, name, "edge/i-1", Role::Envoy), "{name}");
        }
        assert!(!may_be(rule, "spiffe://exampleXtest/gatehouse/edge/i-1", "edge/i-1", Role::Envoy));
    }

    #[test]
    fn a_rule_can_leave_the_instance_open_and_bind_the_role() {
        let rule = "*.{role}.{group}.nodes.test";
        assert!(may_be(rule, "i-9.authn.edge.nodes.test", "edge/i-1", Role::Authn));
        assert!(!may_be(rule, "i-9.authn.edge.nodes.test", "edge/i-1", Role::Envoy));
        assert!(!may_be(rule, "a.b.authn.edge.nodes.test", "edge/i-1", Role::Authn));
    }

    #[test]
    fn without_a_rule_or_a_name_nobody_is_anything() {
        let certified = Peer::Certified(Arc::from([]));
        let rules = [Identity::try_from("{instance}.{group}".to_owned()).unwrap()];
        let refusal = certified.may_be(&rules, "edge/i-1", Role::Envoy).unwrap_err();
        assert_eq!(
            refusal,
            "node.id: the certificate says nothing, which by the rule {instance}.{group} is not envoy of \"edge/i-1\""
        );
        assert!(
            Peer::Certified(["i-1.edge".to_owned()].into()).may_be(&[], "edge/i-1", Role::Envoy).is_err()
        );
        assert!(Peer::Local.may_be(&[], "edge/i-1", Role::Envoy).is_ok());
    }

    #[test]
    fn a_rule_that_names_no_group_or_has_a_typing_error_is_refused() {
        for rule in ["*", "spiffe://x/{instance}", "{group}/{instnce}", "{group}{group}", "{group", ""] {
            assert!(Identity::try_from(rule.to_owned()).is_err(), "{rule}");
        }
    }
}
