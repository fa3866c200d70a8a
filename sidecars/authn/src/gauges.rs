//! How much there is, and how old it is: looked at when somebody reads the metrics, so that requests cost nothing.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
    registry::Registry,
};
use xds::contact::Now;

use crate::{cache::Tokens, state::State, work::Works};

/// Reads them when it is asked.
pub(crate) struct Gauges {
    pub(crate) state: Arc<State>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) works: Arc<Works>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Gauges {
    /// Makes visible how much is in force, remembered and under way, and how old it is.
    pub(crate) fn register(self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_authn");
        let looks = self.tokens.looks();
        registry.register("cache_hits", "Good credentials that were remembered", looks.hits.clone());
        registry.register("cache_refusals", "Bad credentials that were remembered", looks.refusals.clone());
        registry.register("cache_misses", "Credentials that had to be verified", looks.misses.clone());
        registry.register_collector(Box::new(self));
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.state.load();
        let (remembered, bytes) = self.tokens.size();
        let now = Now::read();
        let age = i64::try_from(state.ages.age(now).as_secs()).unwrap_or(i64::MAX);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("policies", "Policies in force", count(state.policies.len())),
            ("key_sets", "Issuers whose keys are here", count(state.keys.len())),
            ("revocations", "Revocations in force", count(state.revocations.len())),
            ("remembered", "Good credentials that are remembered", count(remembered)),
            (
                "remembered_bytes",
                "What they take, of at most 40 MiB",
                i64::try_from(bytes).unwrap_or(i64::MAX),
            ),
            (
                "works_under_way",
                "Credentials and keys that somebody waits for",
                count(self.works.under_way()),
            ),
            ("last_contact_age_seconds", "Since the control plane was last heard of", age),
            (
                "stale",
                "1 while keys and revocations are too old, and tokens are answered with 503",
                i64::from(state.ages.is_stale(now)),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fetch::{Allowed, Fetcher};

    use super::*;
    use crate::{AuthnService, Metrics};

    #[test]
    fn the_metrics_tell_how_much_there_is_and_how_old() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::new(Duration::from_secs(60)));
        let fetcher = Fetcher::new(Allowed::new(Vec::new()), None).unwrap();
        let tokens = Tokens::new([1; 32]);
        let clock = Arc::new(runtime::SystemClock);
        let service = AuthnService::new(Arc::clone(&state), tokens, fetcher, clock, Metrics::default());
        let mut registry = Registry::default();
        service.register(&mut registry);
        let read = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let fresh = read();
        assert!(fresh.contains("gatehouse_authn_stale 0\n"), "{fresh}");
        for name in ["policies", "remembered", "works_under_way", "cache_hits_total"] {
            assert!(fresh.contains(&format!("gatehouse_authn_{name} 0\n")), "{fresh}");
        }
        state.load().ages.follow(xds::Contact::open(folder.path()).unwrap());
        assert!(read().contains("gatehouse_authn_stale 1\n"));
    }
}
