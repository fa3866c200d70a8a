//! The gRPC service that Envoy asks: `envoy.service.ratelimit.v3.RateLimitService`.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use envoy_types::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse,
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};
use runtime::Clock;
use tonic::{Request, Response, Status};

use crate::{
    answer::{self, Extras},
    config::{Domain, Scope},
    counter::Taken,
    decide::{self, Ask, Modes, Said, UNLIMITED},
    diff::Diff,
    fleet::{Begun, Case, Fleet, FleetSettings},
    metrics::{Error, Metrics},
    state::State,
    table::Room,
};

/// Answers from the limits in force, and what was counted of them.
#[derive(Clone)]
pub struct RateLimitSidecar {
    state: Arc<State>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    options: Arc<Options>,
    fleet: Arc<Fleet>,
    diff: Option<Diff>,
}

/// How a process answers.
#[derive(Debug, Clone)]
pub struct Options {
    /// What answers carry.
    pub extras: Extras,
    /// Nothing is refused, whatever limits say.
    pub shadow: bool,
    /// All limits are quotas: a request is refused when all of them are over.
    pub quota: bool,
    /// From which share of a limit on hits are near it, in metrics.
    pub near_limit_ratio: f64,
}

impl Default for Options {
    fn default() -> Self {
        let extras = Extras { record: true, ..Extras::default() };
        Self { extras, shadow: false, quota: false, near_limit_ratio: 0.8 }
    }
}

/// More than Envoy's actions make.
const MAX_DESCRIPTORS: usize = 256;

impl RateLimitSidecar {
    /// Reads this state and this clock. Without a fleet, limits of one are kept as each says for a store that is down.
    pub fn new(state: Arc<State>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let fleet = Fleet::without_store(FleetSettings::default().nodes);
        Self { state, clock, metrics, options: Arc::default(), fleet, diff: None }
    }

    /// Counts together with this fleet.
    #[must_use]
    pub fn with_fleet(self, fleet: Arc<Fleet>) -> Self {
        Self { fleet, ..self }
    }

    /// Asks another server too.
    #[must_use]
    pub fn with_diff(self, diff: Diff) -> Self {
        Self { diff: Some(diff), ..self }
    }

    /// Answers as these options say.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options: Arc::new(options), ..self }
    }

    /// For a tonic server.
    pub fn into_server(self) -> RateLimitServiceServer<Self> {
        RateLimitServiceServer::new(self)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// The request names no domain or no descriptor, too many of them, or a limit that cannot be understood.
    pub async fn answer(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        let begun = Instant::now();
        let answer = self.decide(request).await;
        self.metrics.took(begun.elapsed());
        match (&answer, &self.diff) {
            (Err(_), _) => self.metrics.error(Error::Service),
            (Ok(answer), Some(diff)) => diff.ask(request, answer.overall_code()),
            (Ok(_), None) => {}
        }
        answer
    }

    async fn decide(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, Status> {
        if request.domain.is_empty() {
            return Err(Status::invalid_argument("domain: must be there, got nothing"));
        }
        if request.descriptors.is_empty() || request.descriptors.len() > MAX_DESCRIPTORS {
            let got = request.descriptors.len();
            return Err(Status::invalid_argument(format!("descriptors: 1 to {MAX_DESCRIPTORS}, got {got}")));
        }
        let Some(domain) = self.state.domain(&request.domain) else {
            self.metrics.domain_not_found.inc();
            let nothing: Vec<_> = request.descriptors.iter().map(|_| None).collect();
            return Ok(self.told(request, &nothing, false));
        };
        let asks = decide::asks(&domain, request).map_err(Status::invalid_argument)?;
        let now = nanos(self.clock.now());
        let results = self.results(&domain, asks, now).await;
        let modes = Modes { shadow: self.options.shadow, quota: self.options.quota };
        let over = decide::is_over(&results, modes);
        for (descriptor, result) in request.descriptors.iter().zip(&results) {
            if let Some(result) = result {
                decide::count(&domain, descriptor, result, self.options.near_limit_ratio);
            }
        }
        if over {
            self.give_back(&domain, &results, now);
        }
        Ok(self.told(request, &results, over))
    }

    /// What each limit says. All stores are asked before one is waited for.
    async fn results<'a>(
        &self,
        domain: &Domain,
        asks: Vec<Option<Ask<'a>>>,
        now: u64,
    ) -> Vec<decide::Result<'a>> {
        let begin = |ask: &Ask<'_>| match ask.limit.scope {
            _ if ask.limit.unlimited => Begun::Said(UNLIMITED),
            Scope::Node => Begun::Said(self.count_here(domain, ask, now)),
            Scope::Fleet => self.fleet.begin(self.case(domain, ask, now)),
        };
        let begun: Vec<_> = asks.iter().map(|ask| ask.as_ref().map(begin)).collect();
        let mut results = Vec::with_capacity(asks.len());
        for (ask, begun) in asks.into_iter().zip(begun) {
            results.push(match (ask, begun) {
                (Some(ask), Some(Begun::Said(said))) => Some((ask, said)),
                (Some(ask), Some(begun)) => {
                    let said = self.fleet.finish(self.case(domain, &ask, now), begun).await;
                    Some((ask, said))
                }
                _ => None,
            });
        }
        results
    }

    fn case<'c>(&'c self, domain: &Domain, ask: &'c Ask<'c>, now: u64) -> Case<'c> {
        Case { ask, domain: domain.slot, counters: &self.state.counters, now }
    }

    /// On this node. Where the table is full, the limit's own counter: never a fresh one for a key that has no room.
    fn count_here(&self, domain: &Domain, ask: &Ask<'_>, now: u64) -> Said {
        let terms = &ask.limit.terms;
        let hit = |key, room| {
            self.state
                .counters
                .with(key, domain.slot, room, now, |counter| counter.take(terms, ask.hits, now))
        };
        let own = hit(ask.key, Room::Bounded);
        let overflowed = own.is_none();
        if overflowed {
            self.metrics.overflow_hits.inc();
        }
        let taken = own.or_else(|| hit(ask.limit.overflow, Room::Shared)).unwrap_or(Taken {
            over: true,
            remaining: 0,
            reset: terms.window,
        });
        Said { taken, overflowed, without_store: false }
    }

    /// What limits let pass of a request that others refused, where they take all or nothing.
    fn give_back(&self, domain: &Domain, results: &[decide::Result<'_>], now: u64) {
        for (ask, said) in results.iter().flatten() {
            let terms = &ask.limit.terms;
            if !terms.all_or_nothing || said.taken.over || ask.limit.unlimited {
                continue;
            }
            if ask.limit.scope == Scope::Fleet {
                self.fleet.take_back(self.case(domain, ask, now), said.overflowed);
            } else {
                let key = if said.overflowed { ask.limit.overflow } else { ask.key };
                self.state.counters.with_known(key, |counter| counter.give_back(terms, ask.hits));
            }
        }
    }

    fn told(
        &self,
        request: &RateLimitRequest,
        results: &[decide::Result<'_>],
        over: bool,
    ) -> RateLimitResponse {
        self.metrics.count(answer::outcome(results, over));
        answer::answer(request, results, over, &self.options.extras)
    }
}

/// Since the epoch, until the year 2554.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[tonic::async_trait]
impl RateLimitService for RateLimitSidecar {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        self.answer(request.get_ref()).await.map(Response::new)
    }
}

#[cfg(test)]
#[path = "service/tests.rs"]
mod tests;
