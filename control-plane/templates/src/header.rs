//! The comment that a template opens with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use model::node::NodeFacts;
use serde::{Deserialize, Deserializer, de::Error as _};
use wildmatch::WildMatch;

/// What a template yields, and for whom.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The kind of its resources: `clusters`, `virtual_hosts`, …
    pub kind: String,
    /// How often it is rendered.
    #[serde(default)]
    pub for_each: ForEach,
    /// The field that tells the items of a list apart.
    #[serde(default = "name")]
    pub key: String,
    /// Which nodes get it; all, when there is nothing here.
    #[serde(default, rename = "match")]
    pub matches: Option<Match>,
    /// The template in whose place it stands on the nodes that match.
    #[serde(default)]
    pub replaces: Option<String>,
    /// How long a client may use what it yields without hearing of it again (`Resource.ttl`).
    #[serde(default, deserialize_with = "duration")]
    pub ttl: Option<Duration>,
    /// Rules of the protos that what it yields may break, as the gate names them.
    #[serde(default)]
    pub allow: Arc<BTreeSet<String>>,
}

/// How often a template is rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum ForEach {
    /// Once.
    #[default]
    Edge,
    /// Once for each service: a changed service renders nothing of the others.
    Service,
    /// Once for each item of a list in the context, by its path: `hosts` for `context.hosts`.
    Item(String),
}

impl TryFrom<String> for ForEach {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let list = text.strip_prefix("context.").filter(|path| !path.is_empty());
        match (text.as_str(), list) {
            ("edge", _) => Ok(Self::Edge),
            ("service", _) => Ok(Self::Service),
            (_, Some(path)) => Ok(Self::Item(path.to_owned())),
            _ => Err(format!("for_each: edge, service, or a list such as context.hosts, got {text:?}")),
        }
    }
}

fn name() -> String {
    "name".into()
}

/// Conditions on a node, all of which hold; each is a list of patterns with `*` and `?`, one of which fits.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// `node.id`
    pub id: Option<Patterns>,
    /// `node.cluster`
    pub cluster: Option<Patterns>,
    /// `node.metadata`, by dotted path.
    pub metadata: BTreeMap<String, Patterns>,
    /// `node.locality.region`
    pub region: Option<Patterns>,
    /// `node.locality.zone`
    pub zone: Option<Patterns>,
    /// `node.locality.sub_zone`
    pub sub_zone: Option<Patterns>,
    /// As in `1.40.0`; a node that does not say matches nothing but `*`.
    pub envoy_version: Option<Patterns>,
    /// `stream` or `rest`.
    pub transport: Option<Patterns>,
}

/// One of them has to fit.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Patterns(Vec<WildMatch>);

impl From<Vec<String>> for Patterns {
    fn from(patterns: Vec<String>) -> Self {
        Self(patterns.iter().map(|pattern| WildMatch::new(pattern)).collect())
    }
}

impl Patterns {
    fn fit(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(text))
    }
}

impl Match {
    /// Whether a node of this version could get the template.
    pub(crate) fn takes_version(&self, version: &str) -> bool {
        self.envoy_version.as_ref().is_none_or(|patterns| patterns.fit(version))
    }

    /// Whether the version is all that is asked for.
    pub(crate) fn is_by_version_alone(&self) -> bool {
        self.envoy_version.is_some()
            && *self == Self { envoy_version: self.envoy_version.clone(), ..Self::default() }
    }

    /// Whether a node gets the template.
    pub fn fits(&self, node: &NodeFacts) -> bool {
        let transport = node.transport.to_string();
        let conditions = [
            (&self.id, &node.id),
            (&self.cluster, &node.cluster),
            (&self.region, &node.region),
            (&self.zone, &node.zone),
            (&self.sub_zone, &node.sub_zone),
            (&self.envoy_version, &node.version),
            (&self.transport, &transport),
        ];
        conditions.iter().all(|(patterns, text)| patterns.as_ref().is_none_or(|patterns| patterns.fit(text)))
            && self
                .metadata
                .iter()
                .all(|(path, patterns)| node.metadata.get(path).is_some_and(|value| patterns.fit(value)))
    }
}

/// Shorter, and a fleet would be told of little else.
const MIN_TTL: Duration = Duration::from_secs(3);

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let secs = text.strip_suffix('s').and_then(|secs| secs.parse().ok()).map(Duration::from_secs);
    let secs = secs.filter(|secs| *secs >= MIN_TTL);
    secs.map(Some).ok_or_else(|| D::Error::custom(format!("ttl: whole seconds from 3s on, got {text:?}")))
}

/// A header that does not say what the template yields.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidHeader {
    #[error("a template opens with a comment such as {{# kind: clusters #}}")]
    Missing,
    #[error(
        "the comment at the top is YAML with `kind` and, if wanted, `for_each`, `key`, `match`, `replaces`, `ttl`, `allow`"
    )]
    Yaml(#[source] serde_norway::Error),
}

/// The header, and the rest with as many empty lines in front as the header has, so that lines keep their numbers.
pub(crate) fn split(source: &str) -> Result<(Header, String), InvalidHeader> {
    let comment = source.trim_start().strip_prefix("{#").ok_or(InvalidHeader::Missing)?;
    let (yaml, body) = comment.split_once("#}").ok_or(InvalidHeader::Missing)?;
    let header = serde_norway::from_str(yaml.trim_matches('-')).map_err(InvalidHeader::Yaml)?;
    let lines = source[..source.len() - body.len()].matches('\n').count();
    Ok((header, "\n".repeat(lines) + body))
}

#[cfg(test)]
mod tests {
    use model::node::Transport;

    use super::*;

    #[test]
    fn a_header_says_kind_and_how_often_and_for_whom() {
        let source = "{#\nkind: clusters\nfor_each: service\nttl: 30s\nreplaces: a.yaml\n#}\nresources:\n";
        let (header, body) = split(source).unwrap();
        assert_eq!((header.kind.as_str(), header.for_each), ("clusters", ForEach::Service));
        assert_eq!((header.ttl, header.replaces.as_deref()), (Some(Duration::from_secs(30)), Some("a.yaml")));
        assert_eq!(body, "\n\n\n\n\n\nresources:\n");
    }

    #[test]
    fn a_template_without_a_sound_header_is_refused() {
        for source in [
            "resources: []",
            "{# kind: clusters",
            "{# sort: x #}",
            "{# kind: clusters\nfor_each: planet #}",
            "{# kind: clusters\nfor_each: context. #}",
            "{# kind: clusters\nttl: 1s #}",
            "{# kind: clusters\nmatch: {planet: [x]} #}",
        ] {
            assert!(split(source).is_err(), "{source}");
        }
    }

    #[test]
    fn all_conditions_must_hold_and_of_each_one_pattern() {
        let node = NodeFacts {
            id: "edge/i-1".into(),
            cluster: "edge".into(),
            metadata: [("stage.name".to_owned(), "canary".to_owned())].into(),
            region: "eu-west-1".into(),
            version: "1.40.0".into(),
            transport: Transport::Stream,
            ..NodeFacts::default()
        };
        let fits = |yaml: &str| serde_norway::from_str::<Match>(yaml).unwrap().fits(&node);
        for yaml in [
            "{}",
            "cluster: [edge]",
            "region: [us-*, eu-*]",
            "envoy_version: ['1.4?.*']",
            "metadata: {stage.name: [canary]}",
            "transport: [stream]",
        ] {
            assert!(fits(yaml), "{yaml}");
        }
        for yaml in [
            "cluster: []",
            "{cluster: [edge], region: [us-*]}",
            "metadata: {stage: ['*']}",
            "envoy_version: ['1.39.*']",
            "transport: [rest]",
            "zone: ['?*']",
        ] {
            assert!(!fits(yaml), "{yaml}");
        }
    }
}
