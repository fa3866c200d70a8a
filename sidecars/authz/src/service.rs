//! The gRPC service that Envoy asks, and what is told of each decision: counters, a log, and traces.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use prometheus_client::registry::Registry;
use runtime::Clock;
use sidecar::{
    ext_authz::{Decision, Facts},
    observers::{Observers, Told},
};
use tonic::{Request, Response, Status};

use crate::{
    decide::decide,
    gauges::Gauges,
    metrics::{DecisionResult, Metrics},
    state::State,
    told::{Line, attributes},
};

/// Answers from what is in force.
pub struct AuthzService {
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    observers: Observers,
}

impl AuthzService {
    /// Reads this state and this clock.
    pub fn new(state: Arc<State>, clock: Arc<dyn Clock>) -> Self {
        Self { state, clock, metrics: Metrics::default(), observers: Observers::default() }
    }

    /// Tells them of each decision.
    #[must_use]
    pub fn with_observers(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    /// Makes visible what is counted, and how much there is.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_authz");
        self.metrics.register(registry);
        self.observers.register(registry);
        registry.register_collector(Box::new(Gauges(Arc::clone(&self.state))));
    }

    /// For a tonic server.
    pub fn into_server(self) -> AuthorizationServer<Self> {
        AuthorizationServer::new(self)
    }

    /// Decides, counts it, and tells log and traces. `of_call` is the call's own `traceparent`.
    pub fn decision(&self, facts: &Facts<'_>, of_call: Option<&str>) -> Decision {
        let (begun, now) = (Instant::now(), self.clock.now());
        let (decision, result) = decide(facts, &self.state.load());
        let took = begun.elapsed();
        self.metrics.count(result, took);
        let told = Told {
            by: "authz",
            facts,
            decision: &decision,
            result: result.text(),
            is_refused_in_shadow: result == DecisionResult::ShadowDenied,
            begun: now,
            took,
            of_call,
        };
        self.observers.tell(&told, || attributes(&decision), || Line::of(facts, &decision));
        tracing::debug!(request = facts.decision_id(), ?result, "decided");
        decision
    }
}

#[tonic::async_trait]
impl Authorization for AuthzService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let facts = Facts::read(&request)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http: must be there"))?;
        let of_call = metadata.get("traceparent").and_then(|value| value.to_str().ok());
        let decision = self.decision(&facts, of_call);
        Ok(Response::new(decision.answer(facts.decision_id())))
    }
}
