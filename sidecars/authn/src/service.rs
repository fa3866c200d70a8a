//! The gRPC service that Envoy asks.

use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use runtime::Clock;
use sidecar::ext_authz::Facts;
use tonic::{Request, Response, Status};

use crate::{cache::Tokens, decide::decide, metrics::Metrics, state::State};

/// Answers from what is in force.
pub struct AuthnService {
    state: Arc<State>,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl AuthnService {
    /// Reads this state and this clock, and remembers tokens.
    pub fn new(state: Arc<State>, tokens: Tokens, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        Self { state, tokens, clock, metrics }
    }

    /// For a tonic server.
    pub fn into_server(self) -> AuthorizationServer<Self> {
        AuthorizationServer::new(self)
    }
}

#[tonic::async_trait]
impl Authorization for AuthnService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let facts = Facts::read(&request)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http: must be there"))?;
        let now = self.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let (decision, result) = decide(&facts, &self.state.load(), &self.tokens, now);
        self.metrics.count(result);
        tracing::debug!(request = facts.request_id(), ?result, "decided");
        Ok(Response::new(decision.into()))
    }
}
