//! The gRPC service that Envoy asks.

use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use sidecar::ext_authz::Facts;
use tonic::{Request, Response, Status};

use crate::{decide::decide, metrics::Metrics, state::State};

/// Answers from what is in force.
pub struct AuthzService {
    state: Arc<State>,
    metrics: Metrics,
}

impl AuthzService {
    /// Reads this state.
    pub fn new(state: Arc<State>, metrics: Metrics) -> Self {
        Self { state, metrics }
    }

    /// For a tonic server.
    pub fn into_server(self) -> AuthorizationServer<Self> {
        AuthorizationServer::new(self)
    }
}

#[tonic::async_trait]
impl Authorization for AuthzService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let facts = Facts::read(&request)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http: must be there"))?;
        let (decision, result) = decide(&facts, &self.state.load());
        self.metrics.count(result);
        tracing::debug!(request = facts.decision_id(), ?result, "decided");
        Ok(Response::new(decision.answer(facts.decision_id())))
    }
}
