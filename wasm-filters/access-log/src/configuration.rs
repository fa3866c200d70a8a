//! The plugin's configuration: where lines go, how often, and how many at once. Per node, never per service.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;

use crate::MAX_LINE_BYTES;

/// Under 10 ms a worker would do little else; past 10 s a crash loses more than anyone would accept.
const FLUSH_MS: RangeInclusive<u64> = 10..=10_000;

/// A batch must hold the longest line, and stay under what the collector reads at once.
const BATCH_BYTES: RangeInclusive<usize> = MAX_LINE_BYTES..=1024 * 1024;

/// What the filter is told by its listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The Envoy cluster of the collector.
    pub cluster: String,
    /// How long a line may wait for company.
    pub flush: Duration,
    /// The body of one POST is at most this long.
    pub max_batch_bytes: usize,
}

/// Why a plugin configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfiguration {
    /// No JSON, a missing or unknown field, or a wrong type.
    #[error("plugin configuration of the access log: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The cluster's name is empty.
    #[error("plugin configuration of the access log: `cluster` must name the collector's cluster")]
    NoCluster,
    /// A number outside its range.
    #[error("plugin configuration of the access log: `{field}` is {value}, must be {least} to {most}")]
    OutOfRange {
        /// As written in the JSON.
        field: &'static str,
        /// What was found.
        value: u64,
        /// The smallest that would be accepted.
        least: u64,
        /// The largest that would be accepted.
        most: u64,
    },
}

/// As it is written; unknown fields are refused, so that a misspelt limit is noticed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cluster: String,
    #[serde(default = "default_flush_ms")]
    flush_ms: u64,
    #[serde(default = "default_max_batch_bytes")]
    max_batch_bytes: usize,
}

fn default_flush_ms() -> u64 {
    100
}

fn default_max_batch_bytes() -> usize {
    64 * 1024
}

impl Configuration {
    /// Parses the JSON that Envoy hands to `on_configure`.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidConfiguration> {
        let written: Written = serde_json::from_slice(json)?;
        if written.cluster.is_empty() {
            return Err(InvalidConfiguration::NoCluster);
        }
        if !FLUSH_MS.contains(&written.flush_ms) {
            let (least, most) = (*FLUSH_MS.start(), *FLUSH_MS.end());
            return Err(InvalidConfiguration::OutOfRange {
                field: "flush_ms",
                value: written.flush_ms,
                least,
                most,
            });
        }
        if !BATCH_BYTES.contains(&written.max_batch_bytes) {
            return Err(InvalidConfiguration::OutOfRange {
                field: "max_batch_bytes",
                value: written.max_batch_bytes as u64,
                least: *BATCH_BYTES.start() as u64,
                most: *BATCH_BYTES.end() as u64,
            });
        }
        Ok(Self {
            cluster: written.cluster,
            flush: Duration::from_millis(written.flush_ms),
            max_batch_bytes: written.max_batch_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(json: &str, reason: &str) {
        let error = Configuration::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let json = br#"{"cluster": "gatehouse_access_log", "flush_ms": 200, "max_batch_bytes": 131072}"#;
        let expected = Configuration {
            cluster: "gatehouse_access_log".into(),
            flush: Duration::from_millis(200),
            max_batch_bytes: 131_072,
        };
        assert_eq!(Configuration::parse(json).unwrap(), expected);
    }

    #[test]
    fn limits_have_defaults_and_the_cluster_has_none() {
        let configuration = Configuration::parse(br#"{"cluster": "c"}"#).unwrap();
        assert_eq!(
            (configuration.flush, configuration.max_batch_bytes),
            (Duration::from_millis(100), 65_536)
        );
        refused("{}", "missing field `cluster`");
    }

    #[test]
    fn what_is_malformed_or_out_of_range_is_refused() {
        refused("", "EOF");
        refused("[]", "invalid length 0");
        refused(r#"{"cluster": ""}"#, "must name the collector's cluster");
        refused(r#"{"cluster": "c", "flush": 1}"#, "unknown field `flush`");
        refused(r#"{"cluster": "c", "flush_ms": 1}"#, "`flush_ms` is 1, must be 10 to 10000");
        refused(r#"{"cluster": "c", "max_batch_bytes": 100}"#, "`max_batch_bytes` is 100, must be");
    }
}
