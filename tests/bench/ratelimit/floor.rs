//! The least that an answer can cost: a server that decodes what it is asked, and says a status as ours does.

use envoy_types::pb::{
    envoy::service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
        rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
    },
    google::protobuf::Duration,
};
use mimalloc::MiMalloc;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// The argument by which this program is the server.
pub(crate) const AS_SERVER: &str = "--floor-server";

/// The sidecar's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

struct Nothing;

#[tonic::async_trait]
impl RateLimitService for Nothing {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let status = |_| DescriptorStatus {
            code: Code::Ok.into(),
            current_limit: Some(RateLimit {
                requests_per_unit: 1_000,
                unit: Unit::Hour.into(),
                ..Default::default()
            }),
            limit_remaining: 999,
            duration_until_reset: Some(Duration { seconds: 1_800, nanos: 0 }),
            ..Default::default()
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: Code::Ok.into(),
            statuses: request.get_ref().descriptors.iter().map(status).collect(),
            ..Default::default()
        }))
    }
}

/// Serves until it is killed.
pub(crate) async fn serve(port: u16) -> anyhow::Result<()> {
    let incoming = TcpListenerStream::new(TcpListener::bind(("127.0.0.1", port)).await?);
    let server = Server::builder().add_service(RateLimitServiceServer::new(Nothing));
    Ok(server.serve_with_incoming(incoming).await?)
}
