//! Posts batches to the collector and knows which are on their way. Nothing is sent twice.

use std::time::Duration;

use access_log::{Delivery, Outcome, Receipt};
use proxy_wasm::{
    hostcalls,
    types::{LogLevel, MapType},
};

use crate::log;

/// The collector is on this node; past this it is gone, and the lines behind these are worth more.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// The way to one collector.
pub(crate) struct Shipper {
    cluster: String,
    in_flight: Vec<(u32, Receipt)>,
    /// So that an outage is two lines in Envoy's log, not one for each batch.
    is_failing: bool,
    /// Envoy waits for the last answers to let this VM go.
    is_finishing: bool,
}

impl Shipper {
    /// To the collector behind an Envoy cluster.
    pub(crate) fn to(cluster: String) -> Self {
        Self { cluster, in_flight: Vec::new(), is_failing: false, is_finishing: false }
    }

    /// Posts one body. The receipt comes back at once when Envoy does not even begin.
    pub(crate) fn send(&mut self, delivery: Delivery) -> Result<(), Receipt> {
        let Delivery { body, receipt } = delivery;
        let headers = vec![
            (":method", "POST"),
            (":path", "/v1/access-log"),
            (":authority", "access-log"),
            ("content-type", "application/x-ndjson"),
        ];
        match hostcalls::dispatch_http_call(&self.cluster, headers, Some(&body), Vec::new(), ANSWER_DEADLINE)
        {
            Ok(token) => {
                self.in_flight.push((token, receipt));
                Ok(())
            }
            Err(status) => {
                self.note(Outcome::Failed, &format!("Envoy answers {status:?}"));
                Err(receipt)
            }
        }
    }

    /// How the delivery of `token` ended. Must be called from within `on_http_call_response`.
    pub(crate) fn answered(&mut self, token: u32, headers: usize) -> Option<(Receipt, Outcome)> {
        let place = self.in_flight.iter().position(|(sent, _)| *sent == token)?;
        let (_, receipt) = self.in_flight.swap_remove(place);
        let status = status(headers);
        let outcome = if status.starts_with('2') { Outcome::Ok } else { Outcome::Failed };
        self.note(outcome, &format!("it answers {status}"));
        Some((receipt, outcome))
    }

    /// From now on the last answer ends this VM.
    pub(crate) fn finish(&mut self) {
        self.is_finishing = true;
    }

    /// Whether Envoy waits for the last answer.
    pub(crate) fn is_finishing(&self) -> bool {
        self.is_finishing
    }

    /// Lets Envoy delete this VM.
    pub(crate) fn done(&mut self) {
        self.is_finishing = false;
        // Envoy knows that it waits for us, so it cannot refuse.
        let _ = hostcalls::done();
    }

    fn note(&mut self, outcome: Outcome, what: &str) {
        let is_failing = outcome == Outcome::Failed;
        if is_failing && !self.is_failing {
            log(
                LogLevel::Warn,
                &format!("access log: cluster `{}` does not take lines: {what}", self.cluster),
            );
        }
        if !is_failing && self.is_failing {
            log(LogLevel::Warn, &format!("access log: cluster `{}` takes lines again", self.cluster));
        }
        self.is_failing = is_failing;
    }
}

/// A dead collector is an answer of Envoy's own, 503 or 504; a call that was reset has no headers at all,
/// and the SDK panics when it is asked for one of them.
fn status(headers: usize) -> String {
    if headers == 0 {
        return "nothing".to_owned();
    }
    match hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status") {
        Ok(Some(status)) => String::from_utf8_lossy(&status).into_owned(),
        _ => "no status".to_owned(),
    }
}
