//! Clients over real connections: who is served, who is refused, and what a poll is told. Numbers are those of the
//! conformance list in `docs/xds-conformance.md`.

use std::{collections::BTreeMap, net::SocketAddr};

use envoy_types::pb::envoy::{
    config::core::v3::Node as WireNode,
    service::{
        discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            ResourceLocator, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        load_stats::v3::{LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient},
        status::v3::{
            ClientStatusRequest, client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
        },
    },
};
use model::document::Document;
use resources::{Bootstrap, Snapshot};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Streaming, transport::Server};
use wildmatch::WildMatch;

use super::*;
use crate::{Group, Identity, Limits, Metrics};

/// A replica on a port of its own.
struct Replica {
    hub: Arc<Hub>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    snapshot: Snapshot,
}

impl Replica {
    async fn start(limits: Limits) -> Self {
        Self::start_for(limits, Peer::Local).await
    }

    /// Whose clients all come with this certificate.
    async fn start_for(limits: Limits, peer: Peer) -> Self {
        let identities = vec![Identity::try_from("{instance}.{group}.test".to_owned()).unwrap()];
        let groups = vec![Group {
            name: "edge".into(),
            sidecars: Vec::new(),
            identities,
            pollers: vec![WildMatch::new("T*")],
        }];
        let hub = Arc::new(Hub::new(groups, "replica-7", limits, Metrics::default()));
        let (stop, stopping) = watch::channel(false);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Discovery::new(hub.clone(), stopping).into_routes();
        let routes = tonic::service::Routes::from(routes.layer(axum::Extension(peer)));
        let server = Server::builder().accept_http1(true).add_routes(routes);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { hub, address, stop, snapshot: Snapshot::default() }
    }

    /// Serves these clusters, by name and connect timeout.
    async fn with(clusters: &[(&str, u32)]) -> Self {
        let mut replica = Self::start(Limits::default()).await;
        replica.serve(clusters);
        replica
    }

    fn serve(&mut self, clusters: &[(&str, u32)]) {
        let plain = |node: &NodeFacts| Selection { transport: node.transport, ..Selection::default() };
        self.hub.choose_by("edge", Arc::new(plain));
        let cluster = |(name, secs): &(&str, u32)| format!("- {{name: {name}, connect_timeout: {secs}s}}\n");
        let text = format!("resources:\n{}", clusters.iter().map(cluster).collect::<String>());
        let document =
            Document { template: "t.yaml".into(), kind: "clusters".into(), text, ..Document::default() };
        let edge: Vec<_> =
            resources::decode(&document, &Bootstrap::default()).unwrap().into_iter().map(Arc::new).collect();
        self.snapshot = self.snapshot.next(Some(&edge), &BTreeMap::new()).unwrap().snapshot;
        for transport in [Transport::Stream, Transport::Rest] {
            let selection = Selection { transport, ..Selection::default() };
            // A poller's selection is there once it was asked for.
            drop(self.hub.group("edge").unwrap().follow(&selection));
            self.hub.publish("edge", &selection, Arc::new(self.snapshot.clone()));
        }
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<tonic::transport::Channel> {
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    async fn delta(&self, first: DeltaDiscoveryRequest) -> Delta {
        let (requests, outbound) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let mut client = self.client().await;
        let answers = client.delta_aggregated_resources(ReceiverStream::new(outbound)).await.unwrap();
        Delta { requests, answers: answers.into_inner() }
    }

    async fn poll(&self, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}/v3/{path}", self.address);
        let answer = reqwest::Client::new().post(url).json(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
    }
}

struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    answers: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    async fn hear(&mut self) -> DeltaDiscoveryResponse {
        self.answers.message().await.unwrap().unwrap()
    }

    async fn end(&mut self) -> (Code, String) {
        let status = self.answers.message().await.unwrap_err();
        (status.code(), status.message().to_owned())
    }
}

fn node(id: &str) -> WireNode {
    WireNode { id: id.into(), cluster: "edge".into(), ..WireNode::default() }
}

fn clusters(id: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node(id)),
        type_url: ResourceType::Cluster.url().into(),
        ..Default::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

#[tokio::test]
async fn rule_01_the_node_of_the_first_request_is_the_streams() {
    let mut replica = Replica::with(&[("a", 1)]).await;
    let mut stream = replica.delta(clusters("edge/i-1")).await;
    let first = stream.hear().await;
    // Without a node, and then with another one, which changes nothing.
    let ack = |node| DeltaDiscoveryRequest {
        node,
        type_url: ResourceType::Cluster.url().into(),
        response_nonce: first.nonce.clone(),
        ..Default::default()
    };
    stream.requests.send(ack(None)).await.unwrap();
    stream.requests.send(ack(Some(node("edge/i-2")))).await.unwrap();
    replica.serve(&[("a", 2)]);
    assert_eq!(names(&stream.hear().await), ["a"]);
    let nodes = replica.hub.nodes();
    assert_eq!(nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["edge/i-1"]);
}

#[tokio::test]
async fn rule_02_and_03_who_does_not_say_who_it_is_or_what_it_wants_is_refused() {
    let replica = Replica::with(&[("a", 1)]).await;
    let no_node =
        DeltaDiscoveryRequest { type_url: ResourceType::Cluster.url().into(), ..Default::default() };
    let no_type = DeltaDiscoveryRequest { node: Some(node("edge/i-1")), ..Default::default() };
    for (request, words) in [
        (no_node, "node: the first request must carry it"),
        (no_type, "type_url: each request to the aggregated service must carry it"),
        (clusters("i-1"), "node.id: must be <group>/<instance>, got \"i-1\""),
        (clusters("core/i-1"), "node.id: the group must be one of edge, got \"core\""),
    ] {
        assert_eq!(replica.delta(request).await.end().await, (Code::InvalidArgument, words.to_owned()));
    }
}

#[tokio::test]
async fn rule_06_nothing_is_served_before_there_is_something() {
    let mut replica = Replica::start(Limits::default()).await;
    assert_eq!(replica.delta(clusters("edge/i-1")).await.end().await.0, Code::Unavailable);
    replica.serve(&[("a", 1)]);
    assert_eq!(names(&replica.delta(clusters("edge/i-1")).await.hear().await), ["a"]);
}

#[tokio::test]
async fn rule_14_another_replica_has_the_same_versions_and_a_client_that_moves_there_is_sent_nothing() {
    let (one, other) =
        (Replica::with(&[("a", 1), ("b", 1)]).await, Replica::with(&[("b", 1), ("a", 1)]).await);
    let first = one.delta(clusters("edge/i-1")).await.hear().await;
    let mut moved = clusters("edge/i-1");
    moved.initial_resource_versions =
        first.resources.into_iter().map(|resource| (resource.name, resource.version)).collect();
    let answer = other.delta(moved).await.hear().await;
    assert_eq!((answer.resources.len(), answer.removed_resources.len()), (0, 0));

    let ask = |replica: &Replica| {
        let address = replica.address;
        async move {
            let mut client =
                AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
            let request = DiscoveryRequest {
                node: Some(node("edge/i-1")),
                type_url: ResourceType::Cluster.url().into(),
                ..Default::default()
            };
            let mut answers =
                client.stream_aggregated_resources(tokio_stream::iter([request])).await.unwrap().into_inner();
            answers.message().await.unwrap().unwrap()
        }
    };
    let versions: [DiscoveryResponse; 2] = [ask(&one).await, ask(&other).await];
    assert_eq!(versions[0].version_info, versions[1].version_info);
}

#[tokio::test]
async fn rule_46_and_56_a_changed_resource_is_sent_whole_and_says_who_sent_it() {
    let mut replica = Replica::with(&[("a", 1), ("b", 1)]).await;
    let mut stream = replica.delta(clusters("edge/i-1")).await;
    let first = stream.hear().await;
    assert_eq!(first.control_plane.unwrap().identifier, "replica-7");
    let ack = DeltaDiscoveryRequest {
        type_url: ResourceType::Cluster.url().into(),
        response_nonce: first.nonce,
        ..Default::default()
    };
    stream.requests.send(ack).await.unwrap();
    replica.serve(&[("a", 1), ("b", 2)]);
    let second = stream.hear().await;
    assert_eq!(names(&second), ["b"]);
    let whole = replica.snapshot.find(ResourceType::Cluster, "b").unwrap();
    assert_eq!(second.resources[0].resource.as_ref().unwrap().value, whole.body);
}

#[tokio::test]
async fn rule_55_no_words_of_a_client_are_relied_on() {
    for words in ["", "b", "{\"resource\": \"a\"}", "\u{0}\u{ffff}", &"x".repeat(1_000_000)] {
        let replica = Replica::with(&[("a", 1), ("b", 1)]).await;
        let mut stream = replica.delta(clusters("edge/i-1")).await;
        let mut held = Vec::new();
        // `b` is bad, whatever is said of it.
        for _ in 0..8 {
            let Ok(response) = tokio::time::timeout(Duration::from_millis(300), stream.hear()).await else {
                break;
            };
            let bad = names(&response).contains(&"b");
            if !bad {
                held.extend(names(&response).into_iter().map(str::to_owned));
            }
            let status =
                envoy_types::pb::google::rpc::Status { message: words.to_owned(), ..Default::default() };
            let answer = DeltaDiscoveryRequest {
                type_url: ResourceType::Cluster.url().into(),
                response_nonce: response.nonce,
                error_detail: bad.then_some(status),
                ..Default::default()
            };
            stream.requests.send(answer).await.unwrap();
        }
        assert_eq!(held, ["a"]);
        let refused = replica.hub.nodes().remove(0).roles.remove("envoy").unwrap().refused;
        assert_eq!(refused.keys().collect::<Vec<_>>(), ["clusters b"]);
    }
}

#[tokio::test]
async fn rule_57_resource_locators_are_ignored() {
    let replica = Replica::with(&[("a", 1)]).await;
    let mut request = clusters("edge/i-1");
    request.resource_locators_subscribe =
        vec![ResourceLocator { name: "xdstp://x/y".into(), ..Default::default() }];
    assert_eq!(names(&replica.delta(request).await.hear().await), ["a"]);
}

fn asked(id: &str, version: &str) -> Value {
    json!({
        "node": {"id": id, "cluster": "edge", "user_agent_name": "envoy"},
        "type_url": ResourceType::Cluster.url(),
        "version_info": version,
    })
}

#[tokio::test]
async fn rule_58_and_59_a_poll_is_a_post_and_answered_by_200_or_304() {
    let mut replica = Replica::with(&[("a", 1)]).await;
    let (status, answer) = replica.poll("discovery:clusters", &asked("edge/i-1", "")).await;
    assert_eq!((status, answer["resources"][0]["name"].as_str()), (200, Some("a")));
    assert_eq!(answer["resources"][0]["@type"], ResourceType::Cluster.url());
    assert_eq!(answer["resources"][0]["connectTimeout"], "1s", "canonical proto3 JSON");
    let version = answer["versionInfo"].as_str().unwrap().to_owned();
    assert_eq!(replica.poll("discovery:clusters", &asked("edge/i-1", &version)).await.0, 304);

    // What the predecessor's checksum took for the same, and what it never delivered.
    replica.serve(&[("a", 2)]);
    let (status, answer) = replica.poll("discovery:clusters", &asked("edge/i-1", &version)).await;
    assert_eq!((status, answer["resources"][0]["connectTimeout"].as_str()), (200, Some("2s")));
    replica.serve(&[]);
    let (status, answer) = replica.poll("discovery:clusters", &asked("edge/i-1", &version)).await;
    assert_eq!((status, &answer["resources"]), (200, &json!([])), "the last one's removal is delivered");

    for (path, body, expected) in [
        ("discovery:clusters", json!({"version_info": ""}), 400),
        ("discovery:clusters", json!([1]), 400),
        ("discovery:planets", asked("edge/i-1", ""), 404),
        ("discovery:listeners", asked("edge/i-1", ""), 400),
    ] {
        let (status, answer) = replica.poll(path, &body).await;
        assert_eq!(status, expected, "{path} {body}: {answer}");
        assert!(answer["description"].as_str().is_some_and(|words| !words.is_empty()));
    }
}

#[tokio::test]
async fn only_the_names_that_are_asked_for_are_served() {
    let mut replica = Replica::with(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let mut ask = asked("edge/i-1", "");
    ask["resource_names"] = json!(["a", "c", "none"]);
    let (status, answer) = replica.poll("discovery:clusters", &ask).await;
    assert_eq!((status, answer["resources"].as_array().unwrap().len()), (200, 2));
    ask["version_info"] = answer["versionInfo"].clone();
    replica.serve(&[("a", 1), ("b", 9), ("c", 1)]);
    assert_eq!(replica.poll("discovery:clusters", &ask).await.0, 304, "b is not its business");
}

#[tokio::test]
async fn rule_60_a_poll_is_answered_before_its_client_gives_up() {
    let replica = Replica::start(Limits::default()).await;
    // Envoy's default `request_timeout` is a second.
    let body = asked("edge/i-1", "");
    let poll = replica.poll("discovery:clusters", &body);
    let (status, _) = tokio::time::timeout(Duration::from_secs(1), poll).await.unwrap();
    assert_eq!(status, 503);
}

#[tokio::test]
async fn rule_61_a_node_that_goes_on_polling_with_an_older_version_is_doubted() {
    let mut replica = Replica::with(&[("a", 1)]).await;
    let (_, answer) = replica.poll("discovery:clusters", &asked("edge/i-1", "")).await;
    let accepted = answer["versionInfo"].as_str().unwrap().to_owned();
    replica.poll("discovery:clusters", &asked("edge/i-1", &accepted)).await;
    let refused = |replica: &Replica| replica.hub.nodes().remove(0).roles.remove("envoy").unwrap().refused;
    assert!(refused(&replica).is_empty());
    replica.serve(&[("a", 2)]);
    for _ in 0..4 {
        replica.poll("discovery:clusters", &asked("edge/i-1", &accepted)).await;
    }
    assert!(refused(&replica)["clusters"].contains("goes on polling with another version"));
}

#[tokio::test]
async fn the_five_hundred_and_first_poller_is_served_like_the_first() {
    let replica = Replica::with(&[("a", 1)]).await;
    for at in 0..=500 {
        let (status, _) = replica.poll("discovery:clusters", &asked(&format!("edge/i-{at}"), "")).await;
        assert_eq!(status, 200, "{at}");
    }
    assert_eq!(replica.hub.node_count("edge"), 501);
}

#[tokio::test]
async fn a_stream_too_many_is_refused_by_name_and_hurts_nobody() {
    let limits = Limits { streams: 1, ..Limits::default() };
    let mut replica = Replica::start(limits).await;
    replica.serve(&[("a", 1)]);
    let mut first = replica.delta(clusters("edge/i-1")).await;
    let response = first.hear().await;
    let (code, words) = replica.delta(clusters("edge/i-2")).await.end().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(words.contains("at most 1 streams"), "{words}");
    let ack = DeltaDiscoveryRequest {
        type_url: ResourceType::Cluster.url().into(),
        response_nonce: response.nonce,
        ..Default::default()
    };
    first.requests.send(ack).await.unwrap();
    replica.serve(&[("a", 2)]);
    assert_eq!(names(&first.hear().await), ["a"]);
}

#[tokio::test]
async fn a_million_names_are_bounded_and_others_are_served_meanwhile() {
    let replica = Replica::with(&[("a", 1)]).await;
    let mut greedy = DeltaDiscoveryRequest {
        node: Some(node("edge/i-1")),
        type_url: ResourceType::Secret.url().into(),
        resource_names_subscribe: (0..1_000_000).map(|at| format!("n{at}")).collect(),
        ..Default::default()
    };
    let _greedy = replica.delta(greedy.clone()).await;
    assert_eq!(names(&replica.delta(clusters("edge/i-2")).await.hear().await), ["a"]);
    // More than a request may hold ends the stream.
    greedy.resource_names_subscribe = (0..200_000).map(|at| format!("{at:0>100}")).collect();
    assert_eq!(replica.delta(greedy).await.end().await.0, Code::OutOfRange);
}

#[tokio::test]
async fn a_replica_that_drains_sends_its_clients_to_another() {
    let replica = Replica::with(&[("a", 1)]).await;
    let mut stream = replica.delta(clusters("edge/i-1")).await;
    stream.hear().await;
    replica.stop.send_replace(true);
    assert_eq!(stream.end().await.0, Code::Unavailable);
}

#[tokio::test]
async fn a_client_certificate_for_another_node_is_refused_on_every_way() {
    let certified = Peer::Certified(["i-1.edge.test".to_owned()].into());
    let mut replica = Replica::start_for(Limits::default(), certified).await;
    replica.serve(&[("a", 1)]);
    let mut own = replica.delta(clusters("edge/i-1")).await;
    assert_eq!(names(&own.hear().await), ["a"]);
    let (code, why) = replica.delta(clusters("edge/i-2")).await.end().await;
    assert_eq!(
        (code, why.as_str()),
        (
            Code::PermissionDenied,
            "node.id: the certificate says i-1.edge.test, which by the rule {instance}.{group}.test is not envoy of \
             \"edge/i-2\""
        )
    );
    assert_eq!(replica.poll("discovery:clusters", &asked("edge/i-1", "")).await.0, 200);
    let (status, body) = replica.poll("discovery:clusters", &asked("edge/i-2", "")).await;
    assert_eq!(status, 403, "{body}");
    let loads = LoadStatsRequest { node: Some(node("edge/i-2")), ..Default::default() };
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", replica.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut lrs = LoadReportingServiceClient::new(channel.clone());
    let mut answers = lrs.stream_load_stats(tokio_stream::once(loads)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::PermissionDenied);
    // It sees the status of the node that it is, and of no other.
    drop(replica.hub.enter("edge/i-2", "edge", Role::Envoy, String::new()));
    let mut csds = ClientStatusDiscoveryServiceClient::new(channel);
    let seen = csds.fetch_client_status(ClientStatusRequest::default()).await.unwrap().into_inner().config;
    let seen: Vec<_> = seen.into_iter().filter_map(|client| Some(client.node?.id)).collect();
    assert_eq!(seen, ["edge/i-1"]);
}

#[tokio::test]
async fn a_listener_that_does_not_say_who_is_there_serves_nobody() {
    let nobody = peer_of(&http::Extensions::default());
    assert!(nobody.may_be(&[], "edge/i-1", Role::Envoy).is_err());
}

#[tokio::test]
async fn a_node_that_knows_nothing_of_groups_is_served_when_it_polls_and_only_then() {
    let replica = Replica::with(&[("a", 1)]).await;
    let as_before = json!({"node": {"id": "web-1", "cluster": "T1", "metadata": {"auth": "gAAAAA"}}});
    assert_eq!(replica.poll("discovery:clusters", &as_before).await.0, 200);
    let nodes = replica.hub.nodes();
    assert_eq!(nodes.iter().map(|node| node.node.as_str()).collect::<Vec<_>>(), ["edge/web-1"]);
    for node in [json!({"id": "", "cluster": "T1"}), json!({"id": "web-1", "cluster": "other"})] {
        assert_eq!(replica.poll("discovery:clusters", &json!({ "node": node })).await.0, 400);
    }
    let mut stream = clusters("web-1");
    stream.node.as_mut().unwrap().cluster = "T1".into();
    assert_eq!(replica.delta(stream).await.end().await.0, Code::InvalidArgument);
}
