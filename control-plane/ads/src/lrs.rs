//! The load reporting service (`envoy.service.load_stats.v3`): what the nodes sent where, added up for each service.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::ResourceType;
use envoy_types::pb::{
    envoy::{
        config::endpoint::v3::ClusterStats,
        service::load_stats::v3::{
            LoadStatsRequest, LoadStatsResponse,
            load_reporting_service_server::{LoadReportingService, LoadReportingServiceServer},
        },
    },
    google::protobuf::Duration as WireDuration,
};
use model::{InstanceId, node::Transport};
use resources::{Key, Snapshot};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{Discovery, asker::Asker, node::owner_of, service::peer_of};

/// Between two reports of one node.
const INTERVAL: Duration = Duration::from_secs(10);
/// There is one answer on a stream.
const SEND_BUFFER: usize = 1;

/// Requests that the edge sent to a service's upstreams, since this replica started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Sent.
    pub issued: u64,
    /// Answered, and not with 5xx.
    pub successful: u64,
    /// Answered with 5xx, or not at all.
    pub errors: u64,
    /// Never sent, since there was no room.
    pub dropped: u64,
}

/// Load by service. Only services that are served have an entry, so there are no more of them than these.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<BTreeMap<InstanceId, Load>>);

impl Loads {
    fn add(&self, reports: &[ClusterStats], snapshot: &Snapshot) {
        let mut loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loads.retain(|id, _| snapshot.bundle(id).is_some());
        for report in reports {
            let key = Key { kind: ResourceType::Cluster, name: report.cluster_name.as_str().into() };
            let Ok(id) = owner_of(&key).parse::<InstanceId>() else { continue };
            if snapshot.bundle(&id).is_none() {
                continue;
            }
            let load = loads.entry(id).or_default();
            load.dropped += report.total_dropped_requests;
            for stats in &report.upstream_locality_stats {
                load.issued += stats.total_issued_requests;
                load.successful += stats.total_successful_requests;
                load.errors += stats.total_error_requests;
            }
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<InstanceId, Load> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Discovery {
    pub(crate) fn lrs(self) -> LoadReportingServiceServer<Self> {
        LoadReportingServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl LoadReportingService for Discovery {
    type StreamLoadStatsStream = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let peer = peer_of(request.extensions());
        let mut requests = request.into_inner();
        let hub = self.hub.clone();
        let (answers, stream) = mpsc::channel(SEND_BUFFER);
        tokio::spawn(async move {
            let Ok(Some(first)) = requests.message().await else { return };
            let node = match Asker::of(&hub, first.node.as_ref(), Transport::Stream, &peer) {
                Ok(asker) => asker.served,
                Err(refused) => {
                    let _client_is_gone = answers.send(Err(refused.into())).await;
                    return;
                }
            };
            let seconds = i64::try_from(INTERVAL.as_secs()).unwrap_or(i64::MAX);
            let ask = LoadStatsResponse {
                send_all_clusters: true,
                load_reporting_interval: Some(WireDuration { seconds, nanos: 0 }),
                ..LoadStatsResponse::default()
            };
            if answers.send(Ok(ask)).await.is_err() {
                return;
            }
            while let Ok(Some(report)) = requests.message().await {
                hub.loads.add(&report.cluster_stats, &node.plain());
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
