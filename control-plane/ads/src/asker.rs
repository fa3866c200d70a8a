//! Who asks: a node as it presents itself, checked.

use std::collections::BTreeMap;

use api::Role;
use envoy_types::pb::{
    envoy::config::core::v3::{Node as WireNode, node::UserAgentVersionType},
    google::protobuf::{Struct, Value, value::Kind},
};
use model::node::{NodeFacts, Transport};
use prost_reflect::DynamicMessage;
use tonic::Status;

use crate::{Peer, hub::Hub, served::Served};

/// Who asks, as the first request says it.
pub(crate) struct Asker<'a> {
    pub(crate) facts: NodeFacts,
    pub(crate) role: Role,
    pub(crate) served: &'a Served,
    /// Name and version of the client, for people.
    pub(crate) user_agent: String,
}

/// Who is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// What it says makes no sense.
    Malformed(String),
    /// It is not who it says.
    Forbidden(String),
}

impl Refused {
    /// For metrics.
    pub(crate) fn why(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "node",
            Self::Forbidden(_) => "identity",
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed(why) => Self::invalid_argument(why),
            Refused::Forbidden(why) => Self::permission_denied(why),
        }
    }
}

/// Leaves of metadata that templates can be chosen by.
const MAX_LEAVES: usize = 256;
/// Structs in structs.
const MAX_DEPTH: usize = 16;

impl<'a> Asker<'a> {
    /// Reads who asks, and whether it may be who it says.
    pub(crate) fn of(
        hub: &'a Hub,
        node: Option<&WireNode>,
        transport: Transport,
        peer: &Peer,
    ) -> Result<Self, Refused> {
        let asker = Self::read(hub, node, transport).map_err(Refused::Malformed)?;
        let identities = &asker.served.group.identities;
        peer.may_be(identities, &asker.facts.id, asker.role).map_err(Refused::Forbidden)?;
        Ok(asker)
    }

    fn read(hub: &'a Hub, node: Option<&WireNode>, transport: Transport) -> Result<Self, String> {
        let node = node.ok_or("node: the first request must carry it")?;
        if transport == Transport::Rest
            && let Some(served) = hub.group_of_poller(&node.cluster)
        {
            return Self::poller(served, node);
        }
        let (id, role) = xds::split_node_id(&node.id);
        let name = id.split_once('/').map(|(group, _)| group).filter(|group| !group.is_empty());
        let name = name.ok_or_else(|| format!("node.id: must be <group>/<instance>, got {:?}", node.id))?;
        let served = hub.group(name).ok_or_else(|| {
            format!("node.id: the group must be one of {}, got {name:?}", hub.group_names())
        })?;
        if node.cluster != name {
            return Err(format!(
                "node.cluster: must be the group {name:?} of node.id, got {:?}",
                node.cluster
            ));
        }
        Ok(Self::new(node, id.to_owned(), role, served, transport))
    }

    /// A node of a fleet that polled before there were groups: its id is its own, below the group's name.
    fn poller(served: &'a Served, node: &WireNode) -> Result<Self, String> {
        if node.id.is_empty() {
            return Err("node.id: must name the node, got nothing".into());
        }
        let group = &served.group.name;
        let own = node.id.strip_prefix(&format!("{group}/")).unwrap_or(&node.id);
        let id = format!("{group}/{own}");
        Ok(Self::new(node, id, Role::Envoy, served, Transport::Rest))
    }

    fn new(node: &WireNode, id: String, role: Role, served: &'a Served, transport: Transport) -> Self {
        let facts = facts(node, id, transport);
        let user_agent = format!("{} {}", node.user_agent_name, facts.version).trim().to_owned();
        Self { facts, role, served, user_agent }
    }
}

fn facts(node: &WireNode, id: String, transport: Transport) -> NodeFacts {
    let locality = node.locality.clone().unwrap_or_default();
    NodeFacts {
        id,
        cluster: node.cluster.clone(),
        metadata: node.metadata.as_ref().map(leaves).unwrap_or_default(),
        region: locality.region,
        zone: locality.zone,
        sub_zone: locality.sub_zone,
        version: version(node),
        transport,
    }
}

/// A node as its bootstrap describes it (`node:`, in the JSON form of `envoy.config.core.v3.Node`), for whoever asks
/// what it would be served.
///
/// # Errors
/// A field that a node does not have, or whose value is of another type.
pub fn node_facts(node: serde_json::Value, transport: Transport) -> Result<NodeFacts, String> {
    let descriptor = api::descriptor_pool().get_message_by_name("envoy.config.core.v3.Node");
    let descriptor = descriptor.ok_or("the protos have no node")?;
    let message = DynamicMessage::deserialize(descriptor, node).map_err(|error| format!("node: {error}"))?;
    let node: WireNode = message.transcode_to().map_err(|error| format!("node: {error}"))?;
    Ok(facts(&node, node.id.clone(), transport))
}

fn version(node: &WireNode) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let version = build.version.unwrap_or_default();
            format!("{}.{}.{}", version.major_number, version.minor_number, version.patch)
        }
        None => String::new(),
    }
}

/// The leaves of a struct by dotted path; what is a list or too deep is none.
fn leaves(metadata: &Struct) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    let mut open: Vec<(String, &Struct, usize)> = vec![(String::new(), metadata, 0)];
    while let Some((path, level, depth)) = open.pop() {
        for (name, Value { kind }) in &level.fields {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let leaf = match kind {
                Some(Kind::StringValue(text)) => text.clone(),
                Some(Kind::BoolValue(is)) => is.to_string(),
                Some(Kind::NumberValue(number)) => number.to_string(),
                Some(Kind::StructValue(inner)) if depth < MAX_DEPTH => {
                    open.push((path, inner, depth + 1));
                    continue;
                }
                _ => continue,
            };
            if leaves.len() < MAX_LEAVES {
                leaves.insert(path, leaf);
            }
        }
    }
    leaves
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bootstraps_node_is_read_strictly() {
        let node = json!({
            "id": "edge/i-1", "cluster": "edge", "locality": {"region": "eu-central-1"},
            "metadata": {"stage": {"name": "canary"}}, "userAgentVersion": "1.40.0",
        });
        let facts = node_facts(node, Transport::Stream).unwrap();
        assert_eq!((facts.id.as_str(), facts.region.as_str()), ("edge/i-1", "eu-central-1"));
        assert_eq!((facts.version.as_str(), &facts.metadata["stage.name"]), ("1.40.0", &"canary".to_owned()));
        let refused = node_facts(json!({"metdata": {}}), Transport::Stream).unwrap_err();
        assert!(refused.contains("metdata"), "{refused}");
    }

    #[test]
    fn metadata_is_known_by_the_path_of_its_leaves() {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let inner = Struct { fields: [("name".to_owned(), text("canary"))].into() };
        let metadata = Struct {
            fields: [
                ("stage".to_owned(), Value { kind: Some(Kind::StructValue(inner)) }),
                ("weight".to_owned(), Value { kind: Some(Kind::NumberValue(2.0)) }),
                ("list".to_owned(), Value { kind: None }),
            ]
            .into(),
        };
        let expected = [("stage.name", "canary"), ("weight", "2")];
        assert_eq!(leaves(&metadata), expected.map(|(path, leaf)| (path.to_owned(), leaf.to_owned())).into());
    }
}
