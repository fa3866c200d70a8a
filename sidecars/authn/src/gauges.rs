//! How much there is, and how old it is: looked at when somebody reads the metrics, so that requests cost nothing.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
    registry::Registry,
};
use xds::contact::Now;

use crate::state::State;

/// Reads the state when it is asked.
struct Gauges(Arc<State>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl State {
    /// Makes visible how much is in force, and how old it is.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_authn");
        registry.register_collector(Box::new(Gauges(Arc::clone(self))));
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.load();
        let now = Now::read();
        let age = i64::try_from(state.ages.age(now).as_secs()).unwrap_or(i64::MAX);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("policies", "Policies in force", count(state.policies.len())),
            ("key_sets", "Issuers whose keys are here", count(state.keys.len())),
            ("revocations", "Revocations in force", count(state.revocations.len())),
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

    use super::*;

    #[test]
    fn the_metrics_tell_how_much_there_is_and_how_old() {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::new(Duration::from_secs(60)));
        let mut registry = Registry::default();
        state.register(&mut registry);
        let read = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let fresh = read();
        assert!(fresh.contains("gatehouse_authn_stale 0\n"), "{fresh}");
        assert!(fresh.contains("gatehouse_authn_policies 0\n"), "{fresh}");
        state.load().ages.follow(xds::Contact::open(folder.path()).unwrap());
        assert!(read().contains("gatehouse_authn_stale 1\n"));
    }
}
