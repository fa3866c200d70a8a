//! A rendered document into resources: strictly, with the place of every mistake.

use std::{collections::BTreeSet, fmt};

use api::{ResourceType, descriptor_pool, pb};
use bytes::Bytes;
use model::document::Document;
use policy::cedar::Compiled;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use xds::stream::Name;

use crate::{
    Key, Resource, hash,
    references::{self, Bootstrap, Reference},
    rules::{self, Violation},
    seek,
    walk::walk,
};

/// Why a document is not served: the template, where in what it rendered, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDocument {
    /// The file name of the template.
    pub template: String,
    /// At least one; when the text is no document of its kind, the first.
    pub mistakes: Vec<Mistake>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Option<Place>,
    /// Field path, rule and value.
    pub message: String,
}

/// A line of the rendered text. In a template without loops above it is the line of the template too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// What stands there, shortened.
    pub text: String,
}

impl std::error::Error for InvalidDocument {}

impl fmt::Display for InvalidDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.template)?;
        match self.mistakes.as_slice() {
            [Mistake { place: Some(place), message }] => write!(f, ", {place}: {message}"),
            [Mistake { place: None, message }] => write!(f, ": {message}"),
            mistakes => {
                write!(f, ": {} mistakes", mistakes.len())?;
                for (at, mistake) in mistakes.iter().take(MAX_SHOWN_MISTAKES).enumerate() {
                    write!(f, "{} {mistake}", if at == 0 { ':' } else { ';' })?;
                }
                if mistakes.len() > MAX_SHOWN_MISTAKES {
                    f.write_str("; …")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rendered line {} `{}`", self.line, self.text)
    }
}

/// A service renders a handful, the edge a few dozen.
const MAX_RESOURCES: usize = 10_000;
/// Enough to recognise a line.
const MAX_EXCERPT_CHARS: usize = 100;
/// Whoever has more will meet the others after these.
const MAX_SHOWN_MISTAKES: usize = 20;

/// Reads, checks, names and hashes the resources of a document.
///
/// # Errors
/// The first mistake of the text: YAML, a duplicate key, an unknown field, a wrong type. Else every rule of the
/// protos that is broken, missing names, and policies that the sidecars would refuse.
pub fn decode(document: &Document, bootstrap: &Bootstrap) -> Result<Vec<Resource>, InvalidDocument> {
    let refuse = |place, message: String| InvalidDocument {
        template: document.template.clone(),
        mistakes: vec![Mistake { place, message }],
    };
    let kind = ResourceType::from_label(&document.kind)
        .ok_or_else(|| refuse(None, format!("kind: not one that is served, got {:?}", document.kind)))?;
    if let Some(rule) = document.allow.iter().find(|rule| !rules::exists(rule)) {
        return Err(refuse(None, format!("allow: no proto has this rule, got {rule:?}")));
    }
    let messages = parse(kind, document).map_err(|(place, message)| refuse(place, message))?;
    if messages.len() > MAX_RESOURCES {
        return Err(refuse(None, format!("resources: at most {MAX_RESOURCES}, got {}", messages.len())));
    }
    let (mut resources, mut mistakes) = (Vec::with_capacity(messages.len()), Vec::new());
    for (at, message) in messages.iter().enumerate() {
        let (mut violations, mut references) = (Vec::new(), Vec::new());
        let is_secret = kind == ResourceType::Secret;
        walk(message, &mut |path, message| {
            rules::check(path, message, is_secret, &mut violations);
            references::collect(path, message, bootstrap, &mut references);
        });
        violations.retain(|violation| !document.allow.contains(&violation.rule));
        if !violations.is_empty() {
            mistakes.extend(told(&violations, document, at));
            continue;
        }
        match resource(kind, document, message, references) {
            Ok(resource) => resources.push(resource),
            Err(why) => mistakes.push(Mistake { place: None, message: format!("resources[{at}].{why}") }),
        }
    }
    if mistakes.is_empty() {
        Ok(resources)
    } else {
        Err(InvalidDocument { template: document.template.clone(), mistakes })
    }
}

fn parse(kind: ResourceType, document: &Document) -> Result<Vec<DynamicMessage>, (Option<Place>, String)> {
    let descriptor = descriptor_pool()
        .get_message_by_name(kind.message())
        .ok_or_else(|| (None, format!("{} is not in the pinned descriptors", kind.message())))?;
    let located = |error: &serde_norway::Error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        if kind == ResourceType::Secret {
            // The message and the line may hold a private key.
            let line = error.location().map_or(0, |at| at.line());
            return (None, format!("a mistake near rendered line {line}, which is not shown"));
        }
        let place = error.location().map(|at| place(&document.text, at.line(), &message));
        (place, message)
    };
    // Only the generic reader refuses duplicate keys.
    let generic = serde_norway::from_str::<serde_norway::Value>(&document.text);
    let mut generic = generic.map_err(|error| located(&error))?;
    let is_typed = take_types(kind, &mut generic)?;
    let list = ResourceList(descriptor.clone()).deserialize(generic);
    match list {
        Ok(messages) => Ok(messages),
        // Lines are those of another text now.
        Err(error) if is_typed => Err((None, error.to_string())),
        // Only the reader of the text knows lines and fields.
        Err(_) => ResourceList(descriptor)
            .deserialize(serde_norway::Deserializer::from_str(&document.text))
            .map_err(|error| located(&error)),
    }
}

/// The predecessor's templates say the `@type` of each resource, as REST-JSON does. Whether these do.
fn take_types(
    kind: ResourceType,
    document: &mut serde_norway::Value,
) -> Result<bool, (Option<Place>, String)> {
    let resources = document.get_mut("resources").and_then(serde_norway::Value::as_sequence_mut);
    let mut is_typed = false;
    for (at, resource) in resources.into_iter().flatten().enumerate() {
        let Some(found) = resource.as_mapping_mut().and_then(|fields| fields.remove("@type")) else {
            continue;
        };
        if found.as_str() != Some(kind.url()) {
            let found = found.as_str().unwrap_or("something else");
            return Err((None, format!("resources[{at}].@type: must be {}, got {found:?}", kind.url())));
        }
        is_typed = true;
    }
    Ok(is_typed)
}

/// Violations in the order of their lines.
fn told(violations: &[Violation], document: &Document, at: usize) -> Vec<Mistake> {
    let mut mistakes: Vec<_> = violations
        .iter()
        .map(|violation| {
            let Violation { path, rule, text, is_secret } = &violation;
            // What is missing stands nowhere.
            let field = path.last_field().filter(|_| !rule.ends_with("/required"));
            let quoted = field.map(|field| format!("'{field}'")).unwrap_or_default();
            let line = if *is_secret { None } else { seek::line_of(&document.text, at, path) };
            let place = line.map(|line| place(&document.text, line, &quoted));
            let dot = if path.steps().is_empty() { "" } else { "." };
            Mistake { place, message: format!("resources[{at}]{dot}{path}: {text} ({rule})") }
        })
        .collect();
    mistakes.sort_by_key(|mistake| mistake.place.as_ref().map(|place| place.line));
    mistakes
}

fn resource(
    kind: ResourceType,
    document: &Document,
    message: &DynamicMessage,
    references: Vec<Reference>,
) -> Result<Resource, String> {
    let field = kind.name_field();
    let name = message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned));
    let name =
        name.filter(|name| !name.is_empty()).ok_or_else(|| format!("{field}: must name the resource"))?;
    let body = message.encode_to_vec();
    check_ours(kind, &body)?;
    let version = hash::version(message).map_err(|error| error.to_string())?;
    let key = Key { kind, name: name.into() };
    let mut resource = Resource::new(key, document.owner.clone(), version, body.into());
    resource.aliases = aliases(&resource.key, message)?;
    resource.domains = domains_inside(&resource.key, message)?;
    resource.ttl = document.ttl;
    resource.without_vhds = without_vhds(kind, message);
    resource.references = references;
    Ok(resource)
}

/// Envoy's on-demand filter asks for a virtual host by `<route configuration>/<domain>`.
fn aliases(key: &Key, message: &DynamicMessage) -> Result<Vec<Name>, String> {
    match key.name.rsplit_once('/').filter(|_| key.kind == ResourceType::VirtualHost) {
        Some((routes, _)) => domains(routes, [message]),
        None => Ok(Vec::new()),
    }
}

fn domains_inside(key: &Key, message: &DynamicMessage) -> Result<Vec<Name>, String> {
    let hosts = message.get_field_by_name("virtual_hosts");
    let hosts = hosts.as_deref().filter(|_| key.kind == ResourceType::RouteConfig).and_then(Value::as_list);
    domains(&key.name, hosts.unwrap_or_default().iter().filter_map(Value::as_message))
}

/// Each domain once: Envoy, which does not tell upper from lower case, refuses all of them otherwise.
fn domains<'a>(
    routes: &str,
    hosts: impl IntoIterator<Item = &'a DynamicMessage>,
) -> Result<Vec<Name>, String> {
    let mut found = BTreeSet::new();
    for host in hosts {
        let domains = host.get_field_by_name("domains");
        let domains = domains.as_deref().and_then(Value::as_list).unwrap_or_default();
        for domain in domains.iter().filter_map(Value::as_str).map(str::to_lowercase) {
            if !found.insert(Name::from(format!("{routes}/{domain}"))) {
                return Err(format!("domains: each one once in a route configuration, got {domain:?} twice"));
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn without_vhds(kind: ResourceType, message: &DynamicMessage) -> Option<Bytes> {
    if kind != ResourceType::RouteConfig || !message.has_field_by_name("vhds") {
        return None;
    }
    let mut without = message.clone();
    without.clear_field_by_name("vhds");
    Some(without.encode_to_vec().into())
}

/// The same typed checks that the sidecars make, before they see it.
fn check_ours(kind: ResourceType, body: &[u8]) -> Result<(), String> {
    let checked = match kind {
        ResourceType::AuthnPolicy => {
            pb::authn::Policy::decode(body).map(|wire| api::authn::Policy::try_from(wire).err())
        }
        ResourceType::AuthzPolicy => return check_authz(body),
        ResourceType::AuthzGuardrail => {
            pb::authz::Guardrail::decode(body).map(|wire| api::authz::Guardrail::try_from(wire).err())
        }
        ResourceType::AuthnKeySet => {
            pb::authn::KeySet::decode(body).map(|wire| api::key_set::KeySet::try_from(wire).err())
        }
        ResourceType::AuthnIdentityKey => pb::authn::IdentityKey::decode(body)
            .map(|wire| api::identity_key::IdentityKey::try_from(wire).err()),
        ResourceType::AuthnRevocations => {
            pb::authn::Revocations::decode(body).map(|wire| api::revocation::Revocation::try_from(wire).err())
        }
        _ => return Ok(()),
    };
    match checked {
        Ok(None) => Ok(()),
        Ok(Some(invalid)) => Err(invalid.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn check_authz(body: &[u8]) -> Result<(), String> {
    let wire = pb::authz::Policy::decode(body).map_err(|error| error.to_string())?;
    let policy = api::authz::Policy::try_from(wire).map_err(|invalid| invalid.to_string())?;
    let Some(cedar) = &policy.cedar else { return Ok(()) };
    Compiled::new(cedar).map(drop).map_err(|invalid| invalid.within("cedar").to_string())
}

/// The reader gives the line where the mapping begins; the word that the message quotes stands at or below it.
fn place(text: &str, line: usize, message: &str) -> Place {
    let quoted = message.split('\'').nth(1).filter(|word| !word.is_empty());
    let mut from_there = text.lines().enumerate().skip(line.saturating_sub(1));
    let first = from_there.clone().next();
    let exact = quoted.and_then(|word| from_there.find(|(_, line)| line.contains(word)));
    let (at, found) = exact.or(first).unwrap_or_default();
    Place { line: at + 1, text: found.trim().chars().take(MAX_EXCERPT_CHARS).collect() }
}

/// `resources: […]`, each of one type; nothing else at the top.
struct ResourceList(MessageDescriptor);

impl<'de> DeserializeSeed<'de> for ResourceList {
    type Value = Vec<DynamicMessage>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ResourceList {
    type Value = Vec<DynamicMessage>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with the list `resources`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut messages = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "resources" {
                map.next_value::<IgnoredAny>()?;
                return Err(serde::de::Error::custom(format!(
                    "unrecognized field name '{key}', expected `resources`"
                )));
            }
            messages = Some(map.next_value_seed(Messages(self.0.clone()))?);
        }
        messages.ok_or_else(|| serde::de::Error::missing_field("resources"))
    }
}

/// The list itself. A template whose loop ran over nothing leaves a null.
struct Messages(MessageDescriptor);

impl<'de> DeserializeSeed<'de> for Messages {
    type Value = Vec<DynamicMessage>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Messages {
    type Value = Vec<DynamicMessage>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.0.full_name())
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = list.next_element_seed(self.0.clone())? {
            messages.push(message);
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(kind: &str, text: &str) -> Document {
        Document { template: "t.yaml".into(), kind: kind.into(), text: text.into(), ..Document::default() }
    }

    fn decode_one(document: &Document) -> Result<Vec<Resource>, InvalidDocument> {
        decode(document, &Bootstrap::default())
    }

    #[track_caller]
    fn check(kind: &str, text: &str, expected: &str) {
        let refusal = decode_one(&document(kind, text)).unwrap_err().to_string();
        assert_eq!(refusal, expected);
    }

    #[test]
    fn an_unknown_field_is_refused_with_template_line_and_field() {
        check(
            "clusters",
            "resources:\n- name: a\n  connect_timeoutt: 1s\n",
            "t.yaml, rendered line 3 `connect_timeoutt: 1s`: resources[0]: unrecognized field name 'connect_timeoutt'",
        );
    }

    #[test]
    fn an_unknown_field_inside_an_any_is_refused() {
        let text = r#"
resources:
- name: l
  filter_chains:
  - filters:
    - name: hcm
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefixx: x
"#;
        let refusal = decode_one(&document("listeners", text)).unwrap_err();
        assert!(
            refusal.mistakes[0].message.contains("resources[0].filter_chains[0].filters[0].typed_config"),
            "{refusal}"
        );
        assert!(refusal.mistakes[0].message.contains("stat_prefixx"), "{refusal}");
        assert_eq!(refusal.mistakes[0].place.as_ref().unwrap().line, 9);
    }

    #[test]
    fn what_yaml_would_let_pass_is_refused() {
        for (text, word) in [
            ("resources:\n- name: a\n  name: b\n", "duplicate"),
            ("resources:\n- name: a\n  type: NOPE\n", "NOPE"),
            ("resources:\n- name: a\n  connect_timeout: soon\n", "connect_timeout"),
            ("resources:\n- connect_timeout: 1s\n", "resources[0].name: at least 1 characters, got \"\""),
            ("clusters: []\n", "expected `resources`"),
            ("resources: [\n", "expected"),
            ("- a\n", "a mapping with the list"),
        ] {
            let refusal = decode_one(&document("clusters", text)).unwrap_err().to_string();
            assert!(refusal.contains(word), "{text:?} gave {refusal:?}");
        }
    }

    #[test]
    fn a_policy_that_the_sidecars_would_refuse_never_leaves() {
        check(
            "authn_policies",
            "resources:\n- {name: a@1, policy: a, rev: 1, any: [{jwt: {issuer: 'https://x', algorithms: [ES256]}}]}\n",
            "t.yaml: resources[0].any[0].jwt.audiences: at least one, none of them empty, got nothing",
        );
        check(
            "authn_revocations",
            "resources:\n- {name: a, expires: 9, subject: {issuer: 'https://x', sub: s}}\n",
            "t.yaml: resources[0].subject.since: seconds since the epoch, up to the year 9999, got \"0\"",
        );
        check(
            "authz_guardrails",
            "resources:\n- {name: a, deny: {id: a, effect: EFFECT_ALLOW}}\n",
            "t.yaml: resources[0].deny.effect: EFFECT_DENY, got \"EFFECT_ALLOW\"",
        );
    }

    #[test]
    fn policies_in_cedar_and_their_entities_are_validated() {
        let text = |entities: &str| {
            format!(
                "resources:\n- {{name: a@1, policy: a, rev: 1, cedar: {{schema: 'entity Doc = {{x: Long}};', policies: \
                 'permit (principal, action, resource is Doc) when {{ resource.x > 1 }};', entities: '{entities}', \
                 resources: [{{path: '/{{d}}', entity: Doc, id: '{{d}}'}}]}}}}\n"
            )
        };
        let good = text(r#"[{"uid": {"type": "Doc", "id": "a"}, "attrs": {"x": 2}, "parents": []}]"#);
        assert_eq!(decode_one(&document("authz_policies", &good)).unwrap().len(), 1);
        let bad = text(r#"[{"uid": {"type": "Doc", "id": "a"}, "attrs": {"x": "2"}, "parents": []}]"#);
        let refusal = decode_one(&document("authz_policies", &bad)).unwrap_err().to_string();
        assert!(refusal.starts_with("t.yaml: resources[0].cedar.entities: "), "{refusal}");
        let refusal = decode_one(&document("authz_policies", &text("null"))).unwrap_err().to_string();
        assert!(refusal.starts_with("t.yaml: resources[0].cedar.entities: "), "{refusal}");
    }

    #[test]
    fn a_mistake_in_a_secret_shows_nothing_of_it() {
        let key = "-----BEGIN PRIVATE KEY-----";
        let text = format!("resources:\n- name: a.test\n  tls_certificate: {{private_key: {key:?}}}\n");
        let refusal = decode_one(&document("secrets", &text)).unwrap_err();
        assert_eq!(refusal.to_string(), "t.yaml: a mistake near rendered line 3, which is not shown");
    }

    #[test]
    fn a_domain_stands_once_in_a_route_configuration() {
        let twice = "domains: each one once in a route configuration, got \"a.test\" twice";
        check(
            "virtual_hosts",
            "resources:\n- {name: r/a, domains: [a.test, A.test]}\n",
            &format!("t.yaml: resources[0].{twice}"),
        );
        check(
            "routes",
            "resources:\n- {name: r, virtual_hosts: [{name: a, domains: [a.test]}, {name: b, domains: [a.test]}]}\n",
            &format!("t.yaml: resources[0].{twice}"),
        );
    }

    #[test]
    fn a_resource_may_say_its_type_which_must_be_that_of_the_template() {
        let text = |name: &str| {
            format!("resources:\n- '@type': type.googleapis.com/envoy.config.cluster.v3.{name}\n  name: a\n")
        };
        assert_eq!(decode_one(&document("clusters", &text("Cluster"))).unwrap().len(), 1);
        check(
            "clusters",
            &text("Clusterr"),
            "t.yaml: resources[0].@type: must be type.googleapis.com/envoy.config.cluster.v3.Cluster, got \
             \"type.googleapis.com/envoy.config.cluster.v3.Clusterr\"",
        );
    }

    #[test]
    fn an_empty_list_is_fine() {
        assert_eq!(decode_one(&document("clusters", "resources:\n")).unwrap(), []);
        assert_eq!(decode_one(&document("clusters", "resources: []\n")).unwrap(), []);
    }

    #[test]
    fn the_version_is_the_content_and_nothing_else() {
        let metadata = |order: &str| {
            format!("resources:\n- name: a\n  metadata: {{filter_metadata: {{x: {{{order}}}}}}}\n")
        };
        let version = |text: &str| decode_one(&document("clusters", text)).unwrap()[0].version.clone();
        let one = version(&metadata("a: 1, b: 2, c: 3, d: 4"));
        for _ in 0..20 {
            assert_eq!(version(&metadata("d: 4, c: 3, b: 2, a: 1")), one);
        }
        assert_ne!(version(&metadata("a: 1, b: 2, c: 3, d: 5")), one);
    }

    /// The predecessor's checksum took these two for the same.
    #[test]
    fn two_addresses_with_one_adler32_have_two_versions() {
        let endpoint = |address: &str| {
            let text = format!(
                "resources:\n- cluster_name: a\n  endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
                 {{socket_address: {{address: {address}, port_value: 80}}}}}}}}]}}]\n"
            );
            decode_one(&document("endpoints", &text)).unwrap()[0].version.clone()
        };
        assert_ne!(endpoint("10.0.0.131"), endpoint("10.0.0.212"));
    }
}
