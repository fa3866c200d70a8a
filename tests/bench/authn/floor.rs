//! The least that an answer can cost: a server that allows everything, with headers and metadata as ours has them.

use std::path::Path;

use api::authn::PolicyId;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use mimalloc::MiMalloc;
use sidecar::ext_authz::{Decision, Record};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// The argument by which this program is the server.
pub(crate) const AS_SERVER: &str = "--floor-server";

/// The sidecar's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

struct AllowAll;

#[tonic::async_trait]
impl Authorization for AllowAll {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let policy = PolicyId { policy: "i-1".into(), rev: 1 };
        let record = Record::new("authn", &policy)
            .text("method", "jwt")
            .text("sub", "user-1")
            .texts("scopes", ["read:hello", "write:hello"])
            .text("iss", "https://id.example.test/")
            .number("exp", 1.0);
        let headers = vec![
            ("x-gatehouse-method", "jwt".into()),
            ("x-gatehouse-subject", "user-1".into()),
            ("x-gatehouse-scopes", "read:hello write:hello".into()),
            ("x-gatehouse-issuer", "https://id.example.test/".into()),
        ];
        Ok(Response::new(Decision::Allow { record, headers, remove: Vec::new() }.answer("")))
    }
}

/// Serves until it is killed.
pub(crate) async fn serve(socket: &Path) -> anyhow::Result<()> {
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    Ok(Server::builder()
        .add_service(AuthorizationServer::new(AllowAll))
        .serve_with_incoming(incoming)
        .await?)
}
