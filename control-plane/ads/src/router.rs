//! What the xDS port answers: discovery, client status and load reports over gRPC, and polls over REST-JSON.

use axum::{Router, body::Body, extract::State, http::Request, response::Response};

use crate::{Discovery, rest};

impl Discovery {
    /// For a server of HTTP/1.1 and HTTP/2.
    pub fn into_routes(self) -> Router {
        let discovery = Router::new().fallback(grpc).with_state(self.clone());
        rest::router(self.clone())
            .route_service(
                "/envoy.service.status.v3.ClientStatusDiscoveryService/{*method}",
                self.clone().csds(),
            )
            .route_service("/envoy.service.load_stats.v3.LoadReportingService/{*method}", self.lrs())
            .fallback_service(discovery)
    }
}

async fn grpc(State(discovery): State<Discovery>, request: Request<Body>) -> Response<Body> {
    discovery.grpc(request.map(tonic::body::Body::new)).map(Body::new)
}
