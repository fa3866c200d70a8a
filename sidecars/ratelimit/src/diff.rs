//! A second opinion: each request is sent to another server too, and where it says something else, that is counted. What
//! Envoy is told is ours, and never waits for the other one.

use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, rate_limit_response::Code, rate_limit_service_client::RateLimitServiceClient,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

/// Sends to another server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Diff {
    requests: mpsc::Sender<(RateLimitRequest, Code)>,
    compared: Family<ComparedLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ComparedLabel {
    result: Compared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Compared {
    Same,
    /// The other one lets pass what we refuse.
    OnlyWeRefuse,
    OnlyTheyRefuse,
    /// It gave no answer.
    Failed,
    /// There was no room to wait for the other one.
    Dropped,
}

/// Requests that wait to be sent: of a server that is slow, the rest is dropped.
const MAX_WAITING: usize = 1_024;
/// It is asked for nothing but a comparison.
const DEADLINE: Duration = Duration::from_secs(1);
/// Asked at the same time.
const WORKERS: usize = 16;

impl Diff {
    /// Compares with the server at this address, such as `http://ratelimit:8081`.
    pub fn start(endpoint: &Endpoint) -> Self {
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        let diff = Self { requests, compared: Family::default() };
        let waiting = std::sync::Arc::new(tokio::sync::Mutex::new(waiting));
        let channel = endpoint.clone().timeout(DEADLINE).connect_lazy();
        for _ in 0..WORKERS {
            let (client, compared, waiting) =
                (RateLimitServiceClient::new(channel.clone()), diff.compared.clone(), waiting.clone());
            tokio::spawn(async move {
                loop {
                    let next = waiting.lock().await.recv().await;
                    let Some((request, ours)) = next else { return };
                    let result = compare(client.clone(), request, ours).await;
                    compared.get_or_create(&ComparedLabel { result }).inc();
                }
            });
        }
        diff
    }

    /// Makes the comparisons visible.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_ratelimit");
        registry.register("compared", "Requests that another server was asked too", self.compared.clone());
    }

    pub(crate) fn ask(&self, request: &RateLimitRequest, ours: Code) {
        if self.requests.try_send((request.clone(), ours)).is_err() {
            self.compared.get_or_create(&ComparedLabel { result: Compared::Dropped }).inc();
        }
    }
}

async fn compare(
    mut client: RateLimitServiceClient<Channel>,
    request: RateLimitRequest,
    ours: Code,
) -> Compared {
    let Ok(answer) = client.should_rate_limit(request).await else { return Compared::Failed };
    match (ours == Code::OverLimit, answer.get_ref().overall_code() == Code::OverLimit) {
        (true, false) => Compared::OnlyWeRefuse,
        (false, true) => Compared::OnlyTheyRefuse,
        _ => Compared::Same,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
        RateLimitDescriptor, rate_limit_descriptor::Entry,
    };
    use runtime::SystemClock;
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;
    use crate::{config::tests::from_file, metrics::Metrics, service::RateLimitSidecar, state::State};

    fn sidecar(requests: u32) -> RateLimitSidecar {
        let state = Arc::new(State::default());
        let text = format!(
            "domain: d\ndescriptors: [{{key: a, rate_limit: {{unit: year, requests_per_unit: {requests}}}}}]\n"
        );
        state.replace([Arc::new(from_file(&text))]);
        RateLimitSidecar::new(state, Arc::new(SystemClock), Metrics::default())
    }

    #[tokio::test]
    async fn what_another_server_says_is_compared_and_not_told() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let other = tonic::transport::Server::builder().add_service(sidecar(3).into_server());
        tokio::spawn(other.serve_with_incoming(TcpListenerStream::new(listener)));
        let diff = Diff::start(&Endpoint::from_shared(at).unwrap());
        let compared = diff.compared.clone();
        let ours = sidecar(1).with_diff(diff);
        let entry = Entry { key: "a".into(), value: "x".into() };
        let descriptor = RateLimitDescriptor { entries: vec![entry], ..Default::default() };
        let request = RateLimitRequest { domain: "d".into(), descriptors: vec![descriptor], hits_addend: 0 };
        let count = |result| compared.get_or_create(&ComparedLabel { result }).get();
        for (at, result) in [Compared::Same, Compared::OnlyWeRefuse, Compared::OnlyWeRefuse, Compared::Same]
            .into_iter()
            .enumerate()
        {
            let before = count(result);
            let told = ours.answer(&request).await.unwrap().overall_code();
            assert_eq!(told == Code::OverLimit, at > 0);
            while count(result) == before {
                tokio::task::yield_now().await;
            }
        }
    }
}
