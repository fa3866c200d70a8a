//! What the xDS port answers: gRPC by method, and polls over REST-JSON.

use axum::{Router, body::Body, extract::State, http::Request, response::Response};
use tonic::service::Routes;

use crate::{Discovery, rest};

impl Discovery {
    /// For a tonic server.
    pub fn into_routes(self) -> Routes {
        Routes::from(
            rest::router(self.clone()).fallback_service(Router::new().fallback(grpc).with_state(self)),
        )
    }
}

async fn grpc(State(discovery): State<Discovery>, request: Request<Body>) -> Response<Body> {
    discovery.grpc(request.map(tonic::body::Body::new)).await.map(Body::new)
}
