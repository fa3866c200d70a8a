//! The gRPC service that Envoy asks: both decisions in one call.

use authn::AuthnService;
use authz::AuthzService;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use sidecar::ext_authz::Facts;
use tonic::{Request, Response, Status};

/// Asks authentication, and where that lets a request pass, authorization.
pub struct GuardService {
    authn: AuthnService,
    authz: AuthzService,
}

impl GuardService {
    /// Asks these.
    pub fn new(authn: AuthnService, authz: AuthzService) -> Self {
        Self { authn, authz }
    }

    /// For a tonic server.
    pub fn into_server(self) -> AuthorizationServer<Self> {
        AuthorizationServer::new(self)
    }
}

#[tonic::async_trait]
impl Authorization for GuardService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let facts = Facts::read(&request)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http: must be there"))?;
        let of_call = metadata.get("traceparent").and_then(|value| value.to_str().ok());
        let id = facts.decision_id();
        let answer = match self.authn.decision(&facts, of_call).await.passed() {
            Ok(passed) => self.authz.decision(&facts.after(&passed), of_call).answer_after(passed, id),
            Err(refused) => refused.answer(id),
        };
        Ok(Response::new(answer))
    }
}
