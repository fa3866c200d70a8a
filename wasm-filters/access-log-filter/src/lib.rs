//! The access log as a proxy-wasm module for Envoy: host calls only; what they mean stands in `access-log`.
//!
//! It runs as `envoy.access_loggers.wasm`, so Envoy calls `on_log` on the root context and nothing that
//! happens here can touch a request. A panic would lose the lines that wait: everything that the SDK's
//! traits unwrap is called through `hostcalls` instead, and a fact that cannot be read is absent.

#![expect(missing_docs, reason = "the only public item is `_initialize`, which the SDK's macro writes")]

mod properties;

mod metrics;
mod shipper;

use std::rc::Rc;

use access_log::{Batch, Configuration, KnownSettings, Outcome, Record, Settings};
use proxy_wasm::{
    hostcalls,
    traits::{Context, RootContext},
    types::{BufferType, LogLevel},
};

use crate::{metrics::Metrics, shipper::Shipper};

proxy_wasm::main! {{
    // Also installs the hook that puts a panic's message into Envoy's log.
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::new(Root { log: None }));
}}

/// Far more than any configuration of ours.
const MAX_CONFIGURATION_BYTES: usize = 64 * 1024;

/// What Envoy calls. Until it is configured there is no log.
struct Root {
    log: Option<AccessLog>,
}

/// The log of one worker.
struct AccessLog {
    known: KnownSettings,
    /// For routes that carry no settings.
    default: Rc<Settings>,
    batch: Batch,
    shipper: Shipper,
    metrics: Metrics,
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, _body_size: usize, _trailers: usize) {
        if let Some(log) = &mut self.log {
            log.settle(token, headers);
        }
    }

    /// Envoy replaces the listener, or ends: what waits is sent, and the VM asks to live until it is answered.
    /// At its end Envoy does not wait for that (measured: of 200 lines none to all arrive).
    fn on_done(&mut self) -> bool {
        match &mut self.log {
            Some(log) => log.finish(),
            None => true,
        }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        match configuration() {
            Ok(configuration) => {
                self.log = Some(AccessLog::start(configuration));
                true
            }
            Err(reason) => {
                log(LogLevel::Error, &reason);
                false
            }
        }
    }

    fn on_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.write();
        }
    }

    fn on_tick(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

impl AccessLog {
    fn start(configuration: Configuration) -> Self {
        // The SDK panics if Envoy refuses a period, which it never does.
        let _ = hostcalls::set_tick_period(configuration.flush);
        Self {
            known: KnownSettings::default(),
            default: Rc::new(Settings::default()),
            batch: Batch::new(configuration.max_batch_bytes),
            shipper: Shipper::to(configuration.cluster),
            metrics: Metrics::define(),
        }
    }

    /// One request has ended.
    fn write(&mut self) {
        let settings = self.settings();
        match record(&settings) {
            Some(record) => self.batch.push(&record),
            None => self.batch.sample_out(),
        }
        while self.batch.is_due() && self.ship() {}
    }

    /// A tick: whatever waits has waited long enough.
    fn flush(&mut self) {
        while self.ship() {}
        self.metrics.export(self.batch.counters());
    }

    /// The collector has answered, or never will.
    fn settle(&mut self, token: u32, headers: usize) {
        if let Some((receipt, outcome)) = self.shipper.answered(token, headers) {
            self.batch.settle(receipt, outcome);
        }
        self.metrics.export(self.batch.counters());
        while self.batch.is_due() && self.ship() {}
        if self.shipper.is_finishing() {
            self.finish_or_wait();
        }
    }

    /// Sends what waits. Whether nothing is left to wait for.
    fn finish(&mut self) -> bool {
        self.flush();
        let done = !self.batch.is_in_flight();
        if !done {
            self.shipper.finish();
        }
        done
    }

    fn finish_or_wait(&mut self) {
        self.flush();
        if !self.batch.is_in_flight() {
            self.shipper.done();
        }
    }

    /// Sends the oldest lines. `false` when there are none, or when too many are on their way.
    fn ship(&mut self) -> bool {
        let Some(delivery) = self.batch.take() else { return false };
        if let Err(receipt) = self.shipper.send(delivery) {
            self.batch.settle(receipt, Outcome::Failed);
        }
        true
    }

    fn settings(&mut self) -> Rc<Settings> {
        match properties::settings() {
            Some(json) => self.known.of(&json, |error| log(LogLevel::Error, &error.to_string())),
            None => Rc::clone(&self.default),
        }
    }
}

/// `None` when the request is sampled out; then little of it was read, for each fact costs most of a µs.
fn record(settings: &Settings) -> Option<Record> {
    let facts = properties::first_facts();
    if !settings.keeps(&facts) {
        return None;
    }
    Record::from_facts(settings, properties::all_facts(facts, settings))
}

fn configuration() -> Result<Configuration, String> {
    let json = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, MAX_CONFIGURATION_BYTES)
        .map_err(|status| format!("plugin configuration of the access log: Envoy answers {status:?}"))?
        .unwrap_or_default();
    Configuration::parse(&json).map_err(|error| error.to_string())
}

/// Into Envoy's own log.
fn log(level: LogLevel, message: &str) {
    // When Envoy does not take a message there is nobody left to tell.
    let _ = hostcalls::log(level, message);
}
