//! The batch's counters as Envoy's. Envoy adds up all workers, and shows them as `wasmcustom.access_log_…`.

use access_log::Counters;
use proxy_wasm::{hostcalls, types::MetricType};

/// The counters of this worker, and what of them Envoy knows already.
pub(crate) struct Metrics {
    requests: Option<u32>,
    sent: Option<u32>,
    dropped: Option<u32>,
    failed: Option<u32>,
    sampled_out: Option<u32>,
    exported: Counters,
}

impl Metrics {
    /// Makes the counters known to Envoy.
    pub(crate) fn define() -> Self {
        Self {
            requests: counter("access_log_requests"),
            sent: counter("access_log_sent"),
            dropped: counter("access_log_dropped"),
            failed: counter("access_log_failed"),
            sampled_out: counter("access_log_sampled_out"),
            exported: Counters::default(),
        }
    }

    /// Adds what has been counted since the last time.
    pub(crate) fn export(&mut self, counters: Counters) {
        let before = self.exported;
        add(self.requests, counters.requests, before.requests);
        add(self.sent, counters.sent, before.sent);
        add(self.dropped, counters.dropped, before.dropped);
        add(self.failed, counters.failed, before.failed);
        add(self.sampled_out, counters.sampled_out, before.sampled_out);
        self.exported = counters;
    }
}

fn counter(name: &str) -> Option<u32> {
    hostcalls::define_metric(MetricType::Counter, name).ok()
}

fn add(counter: Option<u32>, now: u64, before: u64) {
    let (Some(counter), Ok(more)) = (counter, i64::try_from(now.saturating_sub(before))) else { return };
    if more > 0 {
        // A counter that Envoy does not know any more costs a figure, never a line.
        let _ = hostcalls::increment_metric(counter, more);
    }
}
