//! The gRPC service that Envoy asks.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse,
    authorization_server::{Authorization, AuthorizationServer},
};
use fetch::Fetcher;
use runtime::Clock;
use sidecar::ext_authz::{Decision, Facts};
use tonic::{Request, Response, Status};

use crate::{
    cache::Tokens,
    decide::{Label, Memory, Verdict, decide},
    metrics::{DecisionResult, Metrics},
    replays::Replays,
    state::State,
    token::Issued,
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
        let works = Arc::new(Works::new(tokens.clone(), state.load().learned.clone(), fetcher));
        Self { state, tokens, replays: Replays::default(), issued: Issued::default(), works, clock, metrics }
    }

    /// For a tonic server.
    pub fn into_server(self) -> AuthorizationServer<Self> {
        AuthorizationServer::new(self)
    }

    async fn decided(&self, facts: &Facts<'_>) -> (Decision, Label) {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut done = Vec::new();
        let waiting = async {
            for _ in 0..MAX_WAITS {
                let Self { tokens, replays, issued, .. } = self;
                let memory = Memory { tokens, replays, issued, done: &done };
                let pending = match decide(facts, &self.state.load(), &memory, now) {
                    Verdict::Decided(decision, label) => return Some((decision, label)),
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
        let request = request.into_inner();
        let facts = Facts::read(&request)
            .ok_or_else(|| Status::invalid_argument("attributes.request.http: must be there"))?;
        let (decision, label) = self.decided(&facts).await;
        self.metrics.count(label);
        tracing::debug!(request = facts.decision_id(), ?label, "decided");
        Ok(Response::new(decision.into()))
    }
}
