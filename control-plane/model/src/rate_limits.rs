//! Rate limits, as developers write them and as templates see them.

use serde::{Deserialize, Serialize};

/// So many requests in a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// `100/minute`
    pub limit: Quota,
    /// What has a counter of its own.
    #[serde(default)]
    pub per: Vec<String>,
    /// Who counts together.
    #[serde(default)]
    pub scope: Scope,
    /// How it is counted.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Whether it refuses.
    #[serde(default)]
    pub mode: Mode,
    /// What is answered while the fleet's store does not answer.
    #[serde(default)]
    pub on_store_error: OnStoreError,
}

/// Who counts together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Scope {
    #[default]
    Node,
    Fleet,
}

/// How hits are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Windows that are aligned to the Unix epoch.
    #[default]
    Fixed,
    /// The window before counts too, by its share of the last window's length.
    Sliding,
    /// Hits come back one by one.
    Gcra,
}

/// Whether a limit refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Mode {
    #[default]
    Enforce,
    Shadow,
}

/// What is answered while the fleet's store does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreError {
    /// Each node's part of the limit passes, from the next window on.
    #[default]
    LocalShare,
    /// Everything passes.
    Allow,
    /// Nothing passes.
    Deny,
}

impl RateLimit {
    pub(crate) fn broken_rules(&self, field: &str) -> Option<String> {
        (self.scope == Scope::Fleet && self.algorithm == Algorithm::Gcra)
            .then(|| format!("{field}.algorithm: gcra is for the scope node, got the scope fleet"))
    }
}

/// `100/minute`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quota {
    /// How many.
    pub requests: u32,
    /// `second` to `year`.
    pub unit: String,
}

impl TryFrom<String> for Quota {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("a limit such as 100/minute, got {text:?}");
        let (requests, unit) = text.split_once('/').ok_or_else(wrong)?;
        if !matches!(unit, "second" | "minute" | "hour" | "day" | "week" | "month" | "year") {
            return Err(wrong());
        }
        Ok(Self { requests: requests.parse().map_err(|_| wrong())?, unit: unit.to_owned() })
    }
}

impl From<Quota> for String {
    fn from(quota: Quota) -> Self {
        format!("{}/{}", quota.requests, quota.unit)
    }
}

/// A limit, ready for a template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLimit {
    /// Distinguishes the limits of one service in descriptors.
    pub name: String,
    /// How many.
    pub requests: u32,
    /// `SECOND` to `YEAR`, as `RateLimitUnit` has it.
    pub unit: String,
    /// What has a counter of its own.
    pub per: Vec<String>,
    /// Who counts together.
    pub scope: Scope,
    /// How it is counted.
    pub algorithm: Algorithm,
    /// Whether it refuses.
    pub mode: Mode,
    /// What is answered while the fleet's store does not answer.
    pub on_store_error: OnStoreError,
}

impl ServiceLimit {
    pub(crate) fn of((at, limit): (usize, &RateLimit)) -> Self {
        let RateLimit { limit: Quota { requests, unit }, per, scope, algorithm, mode, on_store_error } =
            limit;
        Self {
            name: at.to_string(),
            requests: *requests,
            unit: unit.to_uppercase(),
            per: per.clone(),
            scope: *scope,
            algorithm: *algorithm,
            mode: *mode,
            on_store_error: *on_store_error,
        }
    }
}
