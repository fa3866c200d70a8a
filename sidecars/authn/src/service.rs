//! The gRPC service that Envoy asks, and what is told of each decision: counters, a log, and traces.

#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use fetch::Fetcher;
use opentelemetry::KeyValue;
use prometheus_client::registry::Registry;
use runtime::Clock;
use sidecar::{
    ext_authz::{Decision, Facts},
    observers::{Observers, Told},
};
use tonic::{Request, Response, Status};

use crate::{
    cache::Tokens,
    decide::{Label, Memory, Verdict, decide},
    gauges::Gauges,
    identity::KEY,
    metrics::{DecisionResult, Metrics},
    replays::Replays,
    state::State,
    token::Issued,
    told::Line,
    work::Works,
};

/// Answers from what is in force.
pub struct AuthnService {
    state: Arc<State>,
    tokens: Arc<Tokens>,
    replays: Replays,
    issued: Issued,
    works: Arc<Works>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    observers: Observers,
}

/// Envoy waits for 250 ms; its own deadline would be a fault that says nothing.
const LONGEST: Duration = Duration::from_millis(200);
/// A request has a few credentials at the most, each of which may want something done.
const MAX_WAITS: usize = 4;

impl AuthnService {
    /// Reads this state and this clock, remembers tokens, and asks others by this fetcher.
    pub fn new(
        state: Arc<State>,
        tokens: Tokens,
        fetcher: Fetcher,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        let tokens = Arc::new(tokens);
        let learned = state.load().learned.clone();
        let works = Arc::new(Works::new(tokens.clone(), learned, fetcher, metrics.works.clone()));
        Self {
            state,
            tokens,
            replays: Replays::default(),
            issued: Issued::default(),
            works,
            clock,
            metrics,
            observers: Observers::default(),
        }
    }

    /// Tells them of each decision.
    #[must_use]
    pub fn with_observers(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    /// Makes visible what is counted, and how much there is.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        self.observers.register(registry.sub_registry_with_prefix("gatehouse_authn"));
        let Self { state, tokens, works, .. } = self;
        Gauges { state: state.clone(), tokens: tokens.clone(), works: works.clone() }.register(registry);
    }

    /// For a tonic server.
    pub fn server(self: &Arc<Self>) -> AuthorizationServer<Self> {
        AuthorizationServer::from_arc(Arc::clone(self))
    }

    /// Decides, counts it, and tells log and traces. `of_call` is the call's own `traceparent`.
    pub async fn decision(&self, facts: &Facts<'_>, of_call: Option<&str>) -> Decision {
        let (begun, now) = (Instant::now(), self.clock.now());
        let (decision, label) = self.decided(facts).await;
        let took = begun.elapsed();
        self.metrics.count(label, took);
        let told = Told {
            by: KEY,
            facts,
            decision: &decision,
            result: label.result.text(),
            is_refused_in_shadow: false,
            begun: now,
            took,
            of_call,
        };
        let policy = || self.state.load().policies.get(&facts.policy()?.to_string()).cloned();
        self.observers.tell(
            &told,
            || vec![KeyValue::new("gatehouse.method", label.method)],
            || Line::of(label.method, facts, policy().as_deref(), &decision),
        );
        tracing::debug!(request = facts.decision_id(), ?label, "decided");
        decision
    }

    async fn decided(&self, facts: &Facts<'_>) -> (Decision, Label) {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut done = Vec::new();
        let waiting = async {
            for _ in 0..MAX_WAITS {
                let Self { tokens, replays, issued, .. } = self;
                let memory = Memory { tokens, replays, issued, done: &done };
                let pending = match decide(facts, &self.state.load(), &memory, now) {
                    Verdict::Decided(decision, label) => {
                        self.works.refresh(now);
                        return Some((decision, label));
                    }
                    Verdict::Wait(pending) => pending,
                };
                let id = pending.id;
                let result = self.works.result(*pending, now).await;
                done.extend(result.map(|result| (id, result)));
            }
            None
        };
        let decided = tokio::time::timeout(LONGEST, waiting).await.ok().flatten();
        decided.unwrap_or_else(|| {
            let description = "the credential could not be looked at in time".into();
            let label = Label { method: "none", result: DecisionResult::Fault };
            (Decision::Fault { description }, label)
        })
    }
}

#[tonic::async_trait]
impl Authorization for AuthnService {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let facts = Facts::read(&request)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http: must be there"))?;
        let of_call = metadata.get("traceparent").and_then(|value| value.to_str().ok());
        let decision = self.decision(&facts, of_call).await;
        Ok(Response::new(decision.answer(facts.decision_id())))
    }
}
