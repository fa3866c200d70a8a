//! The client status discovery service (`envoy.service.status.v3`): what each client holds, for standard tools.

use std::pin::Pin;

use api::{ResourceType, Role};
use envoy_types::pb::{
    envoy::{
        admin::v3::{ClientResourceStatus, UpdateFailureState},
        config::core::v3::Node as WireNode,
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
            client_config::GenericXdsConfig,
            client_status_discovery_service_server::{
                ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
            },
        },
        r#type::matcher::v3::{NodeMatcher, StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::Any,
};
use resources::Table;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use xds::stream::{Desired as _, Item, Name, TypeStream};

use crate::{Discovery, Peer, node::Node, service::peer_of};

/// Resources in one answer: one node of a large fleet has 15,000. Whoever wants more asks for fewer nodes at once.
const MAX_RESOURCES: usize = 100_000;
/// Answers that wait for a client to read them.
const SEND_BUFFER: usize = 1;

/// A compiled condition on a node's id.
struct Matcher(Option<MatchPattern>);

impl TryFrom<&NodeMatcher> for Matcher {
    type Error = Status;

    fn try_from(matcher: &NodeMatcher) -> Result<Self, Status> {
        if !matcher.node_metadatas.is_empty() {
            return Err(Status::invalid_argument(
                "node_matchers.node_metadatas: not supported; match by node_id",
            ));
        }
        match &matcher.node_id {
            None => Ok(Self(None)),
            Some(StringMatcher { ignore_case: true, .. }) => Err(Status::invalid_argument(
                "node_matchers.node_id.ignore_case: ids are matched as they are",
            )),
            Some(StringMatcher {
                match_pattern: Some(MatchPattern::SafeRegex(_) | MatchPattern::Custom(_)),
                ..
            }) => Err(Status::invalid_argument("node_matchers.node_id: exact, prefix, suffix or contains")),
            Some(StringMatcher { match_pattern, .. }) => Ok(Self(match_pattern.clone())),
        }
    }
}

impl Matcher {
    fn fits(&self, id: &str) -> bool {
        match &self.0 {
            Some(MatchPattern::Exact(text)) => id == text,
            Some(MatchPattern::Prefix(text)) => id.starts_with(text),
            Some(MatchPattern::Suffix(text)) => id.ends_with(text),
            Some(MatchPattern::Contains(text)) => id.contains(text),
            // Refused when it was read.
            Some(MatchPattern::SafeRegex(_) | MatchPattern::Custom(_)) => false,
            None => true,
        }
    }
}

impl Discovery {
    pub(crate) fn csds(self) -> ClientStatusDiscoveryServiceServer<Self> {
        ClientStatusDiscoveryServiceServer::new(self)
    }

    /// Of the nodes that the asking side may be: on this machine all of them.
    fn status(&self, request: &ClientStatusRequest, peer: &Peer) -> Result<ClientStatusResponse, Status> {
        let matchers: Vec<Matcher> =
            request.node_matchers.iter().map(Matcher::try_from).collect::<Result<_, _>>()?;
        let mut nodes = self.hub.all_nodes();
        nodes.retain(|node| self.may_see(peer, node));
        nodes.retain(|node| matchers.is_empty() || matchers.iter().any(|matcher| matcher.fits(&node.id)));
        let (mut config, mut resources) = (Vec::with_capacity(nodes.len()), 0);
        for node in nodes {
            let client = client(&node, !request.exclude_resource_contents);
            resources += client.generic_xds_configs.len();
            if resources > MAX_RESOURCES {
                return Err(Status::resource_exhausted(format!(
                    "more than {MAX_RESOURCES} resources; ask for fewer nodes by node_matchers"
                )));
            }
            config.push(client);
        }
        Ok(ClientStatusResponse { config })
    }
}

impl Discovery {
    fn may_see(&self, peer: &Peer, node: &Node) -> bool {
        let group = self.hub.group(&node.group);
        group.is_some_and(|served| peer.may_be(&served.group.identities, &node.id, Role::Envoy).is_ok())
    }
}

fn client(node: &Node, with_contents: bool) -> ClientConfig {
    let state = node.state();
    let user_agent_name = state.user_agent.split(' ').next().unwrap_or_default().to_owned();
    let wire =
        WireNode { id: node.id.clone(), cluster: node.group.clone(), user_agent_name, ..WireNode::default() };
    let configs = state.types().flat_map(|(kind, told)| of_type(kind, told, with_contents));
    ClientConfig { node: Some(wire), generic_xds_configs: configs.collect(), ..ClientConfig::default() }
}

fn of_type(kind: ResourceType, told: &TypeStream<Table>, with_contents: bool) -> Vec<GenericXdsConfig> {
    let wanted = told.desired().iter().map(Item::name).filter(|name| told.wants(name));
    // Secrets are shown to nobody.
    let with_contents = with_contents && kind != ResourceType::Secret;
    wanted.chain(told.strays()).map(|name| one(kind, told, name, with_contents)).collect()
}

fn one(kind: ResourceType, told: &TypeStream<Table>, name: &Name, with_contents: bool) -> GenericXdsConfig {
    let desired = told.desired().get(name);
    let held = told.held(name);
    let refused = told.refused().get(name);
    let is_synced = desired.map(Item::version) == held;
    let (config, client) = match (refused, held) {
        (Some(_), _) => (ConfigStatus::Error, ClientResourceStatus::Nacked),
        (None, Some(_)) if is_synced => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        (None, Some(_)) => (ConfigStatus::Stale, ClientResourceStatus::Acked),
        (None, None) if desired.is_none() => (ConfigStatus::NotSent, ClientResourceStatus::DoesNotExist),
        (None, None) => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
    };
    let contents = desired.filter(|_| with_contents && is_synced);
    GenericXdsConfig {
        type_url: kind.url().into(),
        name: name.to_string(),
        version_info: held.map(ToString::to_string).unwrap_or_default(),
        xds_config: contents.map(|item| Any { type_url: kind.url().into(), value: item.body.to_vec() }),
        config_status: config.into(),
        client_status: client.into(),
        error_state: refused.map(|refused| UpdateFailureState {
            details: refused.message.clone(),
            version_info: refused.version.to_string(),
            ..UpdateFailureState::default()
        }),
        ..GenericXdsConfig::default()
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Discovery {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let peer = peer_of(request.extensions());
        let mut requests = request.into_inner();
        let discovery = self.clone();
        let (answers, stream) = mpsc::channel(SEND_BUFFER);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if answers.send(discovery.status(&request, &peer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let peer = peer_of(request.extensions());
        self.status(&request.into_inner(), &peer).map(Response::new)
    }
}
