//! How much there is: looked at when somebody reads the metrics, so that requests cost nothing.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::gauge::ConstGauge,
};

use crate::state::State;

/// Reads it when it is asked.
pub(crate) struct Gauges(pub(crate) Arc<State>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let gauge = ConstGauge::new(i64::try_from(self.0.load().policies.len()).unwrap_or(i64::MAX));
        let metric = encoder.encode_descriptor("policies", "Policies in force", None, gauge.metric_type())?;
        gauge.encode(metric)
    }
}
