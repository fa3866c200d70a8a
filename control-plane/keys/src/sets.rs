//! What others see of the sets: templates, the broker, operators.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};

use crate::set::Set;

/// All sets at one time.
#[derive(Clone, Default)]
pub struct KeySets {
    /// Each issuer that is configured, with its keys where they are in force.
    pub(crate) issuers: BTreeMap<String, Option<Arc<jwt::Keys>>>,
    /// What is in force, key servers too.
    pub(crate) in_force: BTreeMap<String, Arc<Set>>,
    context: [(&'static str, Arc<Value>); 2],
}

impl fmt::Debug for KeySets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.in_force.iter()).finish()
    }
}

impl KeySets {
    /// `context.issuers` of templates; no source may have its name, nor that of the next.
    pub const ISSUERS: &'static str = "issuers";
    /// `context.key_servers` of templates.
    pub const KEY_SERVERS: &'static str = "key_servers";

    pub(crate) fn new(
        issuers: BTreeMap<String, Option<Arc<jwt::Keys>>>,
        in_force: BTreeMap<String, Arc<Set>>,
        servers: &Value,
    ) -> Self {
        let sets: Vec<_> = in_force
            .iter()
            .map(|(name, set)| {
                let all = servers.as_array().into_iter().flatten();
                let mut urls =
                    all.filter(|server| server["name"] == **name).map(|server| server["urls"].clone());
                let urls = urls.next().unwrap_or_else(|| json!([]));
                json!({"issuer": name, "jwks": set.jwks, "uri": set.uri, "servers": urls})
            })
            .collect();
        let context =
            [(Self::ISSUERS, Arc::new(Value::Array(sets))), (Self::KEY_SERVERS, Arc::new(servers.clone()))];
        Self { issuers, in_force, context }
    }

    /// Values of the context, by their names.
    pub fn context(&self) -> impl Iterator<Item = (String, Arc<Value>)> {
        self.context.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
    }

    /// Each issuer that operators have configured, with its keys if they are in force. Key servers are none.
    pub fn issuers(&self) -> impl Iterator<Item = (&str, Option<&Arc<jwt::Keys>>)> {
        self.issuers.iter().map(|(name, keys)| (name.as_str(), keys.as_ref()))
    }

    /// The names of all key servers.
    pub fn key_servers(&self) -> impl Iterator<Item = &str> {
        let [_, (_, servers)] = &self.context;
        servers.as_array().into_iter().flatten().filter_map(|server| server["name"].as_str())
    }

    /// Those of which nothing is in force.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &str> {
        self.issuers().filter(|(_, keys)| keys.is_none()).map(|(name, _)| name)
    }
}

/// Whether a set is in force, and whether it is what its source says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The last look succeeded.
    Fresh,
    /// The last look failed, and the last good set stays.
    Stale,
    /// It is past its hard age: its tokens are refused.
    Withdrawn,
    /// There never was one.
    Missing,
}

/// A set, for operators.
#[derive(Debug, Clone, Serialize)]
pub struct IssuerState {
    /// The issuer, or the name of a key server.
    pub issuer: String,
    /// Where it is.
    pub source: String,
    /// Whether it is in force.
    pub state: State,
    /// How many are in force.
    pub keys: usize,
    /// Of those that have one.
    pub kids: Vec<String>,
    /// Seconds since they were known to be good.
    pub age_secs: Option<u64>,
    /// When that was: seconds since the epoch.
    pub last_success: Option<u64>,
    /// Why the last look failed.
    pub last_error: Option<String>,
    /// Seconds until the next look.
    pub next_refresh_secs: u64,
    /// At this age they are withdrawn.
    pub hard_age_secs: u64,
}
