//! The gRPC service: carries messages between a stream and its session.

use std::{pin::Pin, sync::Arc, time::Duration};

use api::Role;
use envoy_types::pb::envoy::{
    config::core::v3::ControlPlane,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
};
use resources::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{hub::Hub, metrics::RoleLabel, node::Node, session::Session};

/// The ADS service of one replica.
#[derive(Debug, Clone)]
pub struct AdsService {
    hub: Arc<Hub>,
    identifier: String,
    /// Turns true when the replica drains.
    stopping: watch::Receiver<bool>,
}

/// Responses that wait for a client to read them. There is one at most for each type, so this is never full
/// while the client reads.
const SEND_BUFFER: usize = 16;
/// Far longer than any push takes; a client that reads nothing for so long is stuck.
const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// A client opens the stream to say who it is.
const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// 15,000 names with versions, as a reconnecting Envoy sends them, are about 1 MiB.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

impl AdsService {
    /// `identifier` shows in each client's statistics.
    pub fn new(hub: Arc<Hub>, identifier: String, stopping: watch::Receiver<bool>) -> Self {
        Self { hub, identifier, stopping }
    }

    /// For a tonic server.
    pub fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST_BYTES)
    }
}

/// A stream that has said who it is.
struct Open {
    hub: Arc<Hub>,
    node: Arc<Node>,
    role: Role,
    number: u64,
    session: Session,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    identifier: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hub.leave(&self.node, self.role, self.number);
        self.hub.metrics.streams.get_or_create(&role_label(self.role)).dec();
    }
}

fn role_label(role: Role) -> RoleLabel {
    RoleLabel { role: role.suffix().unwrap_or("envoy") }
}

impl Open {
    /// Reads who asks from the first request.
    fn accept(service: &AdsService, first: &DeltaDiscoveryRequest) -> Result<Self, Status> {
        let node = first
            .node
            .as_ref()
            .ok_or_else(|| Status::invalid_argument("node: the first request must carry it"))?;
        let (id, role) = xds::split_node_id(&node.id);
        let group_name = id.split_once('/').map(|(group, _)| group).filter(|group| !group.is_empty());
        let group_name = group_name.ok_or_else(|| {
            Status::invalid_argument(format!("node.id: must be <group>/<instance>, got {:?}", node.id))
        })?;
        let unknown = || {
            let known = service.hub.group_names();
            Status::invalid_argument(format!("node.id: the group must be one of {known}, got {group_name:?}"))
        };
        let (group, snapshots) = service.hub.group(group_name).ok_or_else(unknown)?;
        if node.cluster != group_name {
            return Err(Status::invalid_argument(format!(
                "node.cluster: must be the group {group_name:?} of node.id, got {:?}",
                node.cluster
            )));
        }
        let snapshot = snapshots.borrow().clone();
        if snapshot.generation() == 0 {
            return Err(Status::unavailable("no snapshot yet; try again"));
        }
        let (node, number) = service.hub.enter(id, group_name, role);
        service.hub.metrics.streams.get_or_create(&role_label(role)).inc();
        tracing::info!(node = node.id, %role, "connected");
        let session =
            Session::new(Arc::clone(&service.hub), Arc::clone(&node), role, number, group, snapshot);
        let (hub, identifier) = (Arc::clone(&service.hub), service.identifier.clone());
        Ok(Self { hub, node, role, number, session, snapshots, identifier })
    }

    async fn serve(
        mut self,
        first: DeltaDiscoveryRequest,
        mut inbound: Streaming<DeltaDiscoveryRequest>,
        outbound: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut acknowledged = self.node.changes();
        self.session.receive(&first);
        loop {
            if !self.send(&outbound).await {
                return;
            }
            tokio::select! {
                request = inbound.message() => match request {
                    Ok(Some(request)) => self.session.receive(&request),
                    Ok(None) | Err(_) => break,
                },
                changed = self.snapshots.changed() => {
                    if changed.is_err() { break }
                    let snapshot = self.snapshots.borrow_and_update().clone();
                    self.session.update(snapshot);
                }
                // Another stream of this node acknowledged something: a gate may open.
                _ = acknowledged.changed() => {}
                () = stopped(&mut stopping) => {
                    let _client_is_gone = outbound.send(Err(Status::unavailable("this replica drains; use another one"))).await;
                    break;
                }
            }
        }
        tracing::info!(node = self.node.id, role = %self.role, "disconnected");
    }

    /// `false` when the client is gone or stuck.
    async fn send(&mut self, outbound: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>) -> bool {
        for mut response in self.session.responses() {
            response.control_plane = Some(ControlPlane { identifier: self.identifier.clone() });
            match outbound.send_timeout(Ok(response), SEND_DEADLINE).await {
                Ok(()) => {}
                Err(mpsc::error::SendTimeoutError::Closed(_)) => return false,
                Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                    self.hub.metrics.stuck_streams.inc();
                    tracing::warn!(node = self.node.id, role = %self.role, "dropped: it stopped reading");
                    return false;
                }
            }
        }
        true
    }
}

/// Resolves when the replica drains.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone: the replica is ending.
    let _stopped_or_gone = stopping.wait_for(|stop| *stop).await;
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for AdsService {
    type StreamAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "state-of-the-world ADS comes with a later release; use api_type: DELTA_GRPC",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut inbound = request.into_inner();
        let (outbound, responses) = mpsc::channel(SEND_BUFFER);
        let service = self.clone();
        // The first request may come after the response's headers, so the stream is opened at once.
        tokio::spawn(async move {
            let Ok(Ok(Some(first))) = tokio::time::timeout(FIRST_REQUEST_DEADLINE, inbound.message()).await
            else {
                return;
            };
            match Open::accept(&service, &first) {
                Ok(open) => open.serve(first, inbound, outbound, service.stopping).await,
                Err(status) => {
                    tracing::warn!(error = status.message(), "a stream was refused");
                    let _client_is_gone = outbound.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
