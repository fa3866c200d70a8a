//! A collector on loopback, and what reaches it.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest,
    attribute_context::{HttpRequest, Request as Asked},
    authorization_server::Authorization as _,
};
use fetch::{Allowed, Fetcher};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
};
use prost::Message as _;
use runtime::SystemClock;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::{AuthnService, Metrics, State, Tokens};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Gives on what it gets.
struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (url, received)
}

fn check(traceparent: Option<&str>) -> CheckRequest {
    let mut headers: std::collections::HashMap<String, String> = [
        ("authorization".to_owned(), "Bearer secret-of-a-client".to_owned()),
        ("x-request-id".to_owned(), "r-1".to_owned()),
    ]
    .into();
    headers.extend(traceparent.map(|text| ("traceparent".to_owned(), text.to_owned())));
    let http = HttpRequest { path: "/?token=hidden".into(), headers, ..Default::default() };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Asked { http: Some(http), ..Default::default() }),
            context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
            ..Default::default()
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_continues_the_sampled_trace_and_tells_no_secret() {
    let (url, mut received) = collector().await;
    let traces = Traces::begin(&url, "gatehouse-authn", "edge/1/authn").unwrap();
    let fetcher = Fetcher::new(Allowed::new(Vec::new()), None).unwrap();
    let (state, clock) = (Arc::new(State::default()), Arc::new(SystemClock));
    let service = AuthnService::new(state, Tokens::new([1; 32]), fetcher, clock, Metrics::default())
        .with_traces(Some(traces.clone()));
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    // Not sampled, not valid, not there; then by the request, and by the call, which is closer.
    for text in [Some(sampled.replace("-01", "-00")), Some("00-x".into()), None, Some(sampled.clone())] {
        service.check(Request::new(check(text.as_deref()))).await.unwrap();
    }
    let mut call = Request::new(check(Some(&sampled)));
    let closer = sampled.replace(SPAN, "1111111111111111");
    call.metadata_mut().insert("traceparent", closer.parse().unwrap());
    service.check(call).await.unwrap();

    let mut spans = Vec::new();
    while spans.len() < 2 {
        let export = tokio::time::timeout(Duration::from_secs(20), received.recv()).await.unwrap().unwrap();
        let bytes = String::from_utf8_lossy(&export.encode_to_vec()).into_owned();
        assert!(!bytes.contains("secret-of-a-client") && !bytes.contains("hidden"), "{bytes}");
        let resources = export.resource_spans.into_iter();
        spans.extend(resources.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans));
    }
    traces.end().await;
    assert_eq!(spans.len(), 2);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE && span.name == "authn check"));
    let parents: Vec<_> = spans.iter().map(|span| hex(&span.parent_span_id)).collect();
    assert_eq!(parents, [SPAN, "1111111111111111"]);
    let told = |name: &str| {
        let attribute = spans[0].attributes.iter().find(|attribute| attribute.key == name)?;
        match attribute.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some(text.clone()),
            Value::IntValue(number) => Some(number.to_string()),
            _ => None,
        }
    };
    for (name, value) in [
        ("gatehouse.policy", "i-1@3"),
        ("gatehouse.method", "none"),
        ("gatehouse.result", "unknown_policy"),
        ("gatehouse.status", "503"),
        ("gatehouse.id", "r-1"),
    ] {
        assert_eq!(told(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(spans[0].attributes.len(), 5);
}
