//! A client that stops reading.

use bytes::Bytes;
use envoy_types::pb::envoy::{config::core::v3::Node, service::discovery::v3::DeltaDiscoveryRequest};
use prost::Message as _;
use tests::{Lab, eventually};
use tokio::net::TcpStream;

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const STUCK: &str = "gatehouse_ads_stuck_streams_total";

#[tokio::test]
async fn a_client_that_stops_reading_is_dropped_and_hurts_nobody() {
    let lab = Lab::start().await;
    let address = ("127.0.0.1", lab.stack.layout.ports.xds);
    let tcp = TcpStream::connect(address).await.unwrap();
    // No room for a single byte of an answer, ever.
    let (client, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(tcp).await.unwrap();
    let connection = tokio::spawn(connection);
    let call = http::Request::post(format!("http://{}:{}{PATH}", address.0, address.1))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (answer, mut out) = client.ready().await.unwrap().send_request(call, false).unwrap();
    let asks = DeltaDiscoveryRequest {
        node: Some(Node { id: "edge/stuck".into(), cluster: "edge".into(), ..Node::default() }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        ..DeltaDiscoveryRequest::default()
    };
    let asks = asks.encode_to_vec();
    let prefix = [&[0], &u32::try_from(asks.len()).unwrap().to_be_bytes()[..]].concat();
    out.send_data([prefix, asks].concat().into(), false).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    eventually("it is there", || async {
        let nodes = lab.status().await["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().any(|node| node["node"] == "edge/stuck").then_some(())
    })
    .await;
    eventually("it is dropped", || async { (lab.control_plane_metric(STUCK).await == 1).then_some(()) })
        .await;
    // The connection is closed, so that the client notices, and begins anew.
    let _told_by_reading = connection.await.unwrap();
    // The others were served meanwhile, and nothing waits for it any more.
    let hello = lab.service("hello");
    lab.live(&hello).await;
}
