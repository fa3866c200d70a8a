//! Limits from whatever server speaks state-of-the-world ADS, as the reference server is fed: each response holds all of
//! them, and is taken whole or refused whole.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::ResourceType;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status as Refusal,
    ratelimit::config::ratelimit::v3::RateLimitConfig,
};
use prost::Message as _;
use runtime::jitter::jittered;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Endpoint};

use crate::{config::Domain, metrics::Metrics, state::State};

/// A server of limits.
#[derive(Debug, Clone)]
pub struct Sotw {
    /// Such as `http://localhost:18000`.
    pub server: Endpoint,
    /// Who asks.
    pub node_id: String,
}

/// Between two attempts, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A server that is not there refuses, or says nothing.
const CONNECTING: Duration = Duration::from_secs(5);
/// How one that is gone without a word is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

impl Sotw {
    /// Puts in force what the server says, for ever, and calls `loaded` each time.
    pub async fn follow(self, state: Arc<State>, metrics: Metrics, mut loaded: impl FnMut() + Send) {
        let mut pause = PAUSES.0;
        // What is in force, by the server's name for it: what a new stream begins with.
        let mut version = String::new();
        loop {
            let before = version.clone();
            let ended = self.stream(&state, &metrics, &mut version, &mut loaded).await;
            tracing::warn!(error = ended.message(), "the server of limits is asked again");
            pause = if version == before { (pause * 2).min(PAUSES.1) } else { PAUSES.0 };
            sleep(jittered(pause)).await;
        }
    }

    async fn stream(
        &self,
        state: &State,
        metrics: &Metrics,
        version: &mut String,
        loaded: &mut (impl FnMut() + Send),
    ) -> Status {
        match self.try_stream(state, metrics, version, loaded).await {
            Ok(()) => Status::unavailable("the stream has ended"),
            Err(status) => status,
        }
    }

    async fn try_stream(
        &self,
        state: &State,
        metrics: &Metrics,
        version: &mut String,
        loaded: &mut (impl FnMut() + Send),
    ) -> Result<(), Status> {
        let endpoint = self.server.clone().connect_timeout(CONNECTING).http2_keep_alive_interval(KEEP_ALIVE);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Status::unavailable(runtime::telemetry::chain(&error)))?;
        // One question is answered before the next.
        let (questions, asked) = mpsc::channel(1);
        let first = DiscoveryRequest {
            node: Some(Node { id: self.node_id.clone(), ..Node::default() }),
            type_url: ResourceType::RateLimitConfig.url().into(),
            version_info: version.clone(),
            ..DiscoveryRequest::default()
        };
        let gone = |_| Status::unavailable("the stream has ended");
        questions.send(first).await.map_err(gone)?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let mut answers = client.stream_aggregated_resources(ReceiverStream::new(asked)).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            let taken = domains(&answer, state);
            metrics.loaded(taken.is_ok());
            let refusal = match taken {
                Ok(domains) => {
                    state.replace(domains);
                    version.clone_from(&answer.version_info);
                    loaded();
                    None
                }
                Err(message) => {
                    tracing::error!(error = message, "limits are refused; what was in force still is");
                    Some(Refusal { code: Code::InvalidArgument.into(), message, ..Refusal::default() })
                }
            };
            let told = DiscoveryRequest {
                type_url: answer.type_url,
                version_info: version.clone(),
                response_nonce: answer.nonce,
                error_detail: refusal,
                ..DiscoveryRequest::default()
            };
            questions.send(told).await.map_err(gone)?;
        }
        Ok(())
    }
}

/// All that an answer holds.
fn domains(answer: &DiscoveryResponse, state: &State) -> Result<Vec<Arc<Domain>>, String> {
    let expected = ResourceType::RateLimitConfig.url();
    let mut all: HashMap<String, Arc<Domain>> = HashMap::new();
    for (at, any) in answer.resources.iter().enumerate() {
        if any.type_url != expected {
            return Err(format!("resources[{at}]: must be of the type {expected}, got {:?}", any.type_url));
        }
        let told = |error: String| format!("resources[{at}]: {error}");
        let wire = RateLimitConfig::decode(any.value.as_slice()).map_err(|error| told(error.to_string()))?;
        let domain = Domain::from_wire(wire, state.defaults()).map_err(told)?;
        if let Some(known) = all.insert(domain.name.clone(), Arc::new(domain)) {
            return Err(format!("resources[{at}].domain: stands twice, got {:?}", known.name));
        }
    }
    Ok(all.into_values().collect())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use envoy_types::pb::{
        envoy::service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
        google::protobuf::Any,
        ratelimit::config::ratelimit::v3::RateLimitUnit,
    };
    use tokio_stream::{Stream, wrappers::TcpListenerStream};
    use tonic::{Request, Response, Streaming};

    use super::*;
    use crate::config::tests::{config, descriptor};

    type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

    /// Sends what it is told to, and tells what it hears.
    #[derive(Clone)]
    struct Server {
        answers: Arc<tokio::sync::Mutex<mpsc::Receiver<DiscoveryResponse>>>,
        heard: mpsc::Sender<DiscoveryRequest>,
    }

    #[tonic::async_trait]
    impl AggregatedDiscoveryService for Server {
        type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
        type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

        async fn stream_aggregated_resources(
            &self,
            request: Request<Streaming<DiscoveryRequest>>,
        ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
            let (server, mut requests) = (self.clone(), request.into_inner());
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                while let Ok(Some(request)) = requests.message().await {
                    server.heard.send(request).await.unwrap();
                    let Some(next) = server.answers.lock().await.recv().await else { return };
                    sender.send(Ok(next)).await.unwrap();
                }
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
        }

        async fn delta_aggregated_resources(
            &self,
            _: Request<Streaming<DeltaDiscoveryRequest>>,
        ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
            Err(Status::unimplemented("not here"))
        }
    }

    fn answer(version: &str, configs: Vec<RateLimitConfig>) -> DiscoveryResponse {
        let url = ResourceType::RateLimitConfig.url();
        let any = |config: RateLimitConfig| Any { type_url: url.into(), value: config.encode_to_vec() };
        DiscoveryResponse {
            version_info: version.into(),
            nonce: format!("nonce-{version}"),
            type_url: url.into(),
            resources: configs.into_iter().map(any).collect(),
            ..DiscoveryResponse::default()
        }
    }

    #[tokio::test]
    async fn what_a_server_says_is_in_force_and_what_cannot_be_is_refused_with_its_field() {
        let (to_send, answers) = mpsc::channel(4);
        let (heard, mut requests) = mpsc::channel(4);
        let server = Server { answers: Arc::new(tokio::sync::Mutex::new(answers)), heard };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let serving =
            tonic::transport::Server::builder().add_service(AggregatedDiscoveryServiceServer::new(server));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        let state = Arc::new(State::default());
        let sotw = Sotw { server: Endpoint::from_shared(at).unwrap(), node_id: "n".into() };
        tokio::spawn(sotw.follow(state.clone(), Metrics::default(), || ()));
        let good = config(vec![descriptor("a", "", Some((5, RateLimitUnit::Minute)))]);
        let bad = config(vec![descriptor("a", "", Some((5, RateLimitUnit::Unknown)))]);

        let first = requests.recv().await.unwrap();
        assert_eq!((first.node.unwrap().id.as_str(), first.version_info.as_str()), ("n", ""));
        to_send.send(answer("1", vec![good.clone()])).await.unwrap();
        let accepted = requests.recv().await.unwrap();
        assert_eq!((accepted.version_info.as_str(), accepted.response_nonce.as_str()), ("1", "nonce-1"));
        assert!(accepted.error_detail.is_none() && state.domain("d").is_some());

        for (version, configs, field) in [
            ("2", vec![bad], "resources[0]: descriptors[0].rate_limit.unit"),
            ("3", vec![good.clone(), good], "resources[1].domain"),
        ] {
            to_send.send(answer(version, configs)).await.unwrap();
            let refused = requests.recv().await.unwrap();
            assert_eq!(refused.version_info, "1", "what is in force");
            let message = refused.error_detail.unwrap().message;
            assert!(message.contains(field), "{message}");
            assert!(state.domain("d").is_some());
        }
        to_send.send(answer("4", Vec::new())).await.unwrap();
        assert_eq!(requests.recv().await.unwrap().version_info, "4");
        assert!(state.domain("d").is_none(), "what a server says no more is gone");
    }
}
