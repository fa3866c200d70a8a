//! For tests of sidecars: a collector on loopback, and what reaches it.

// A test that cannot go on says so and ends.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::time::Duration;

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// Takes spans.
#[derive(Debug)]
pub struct Collector {
    /// For `--otlp-endpoint`.
    pub url: String,
    received: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
}

/// Gives on what it gets.
struct Sink(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Longer than a span waits for others.
const DEADLINE: Duration = Duration::from_secs(20);

impl Collector {
    /// Listens on loopback.
    pub async fn serve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = mpsc::unbounded_channel();
        let server = Server::builder().add_service(TraceServiceServer::new(Sink(sender)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { url, received }
    }

    /// Waits for so many spans. Whatever came with them is there too.
    pub async fn spans(&mut self, wanted: usize) -> Vec<Span> {
        let mut spans = Vec::new();
        while spans.len() < wanted {
            let export = tokio::time::timeout(DEADLINE, self.received.recv()).await.unwrap().unwrap();
            let resources = export.resource_spans.into_iter();
            spans.extend(resources.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans));
        }
        spans
    }
}

/// An attribute as text.
pub fn attribute(span: &Span, name: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// As a trace's id is written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
