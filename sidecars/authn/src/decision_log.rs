//! A line of JSON for each denial and fault, and for a share of what was allowed. A request never waits for the log:
//! what the queue has no room for is counted and gone.
//!
//! No line holds a credential. It holds the id of the key that a token names, and a part of the credential's hash: enough
//! to find its other requests, and too little to find the credential. A password is not even hashed, since many could be
//! guessed from that.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use api::authn::PolicyId;
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use sidecar::ext_authz::{Decision, Facts};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{mpsc, oneshot};

use crate::{
    credentials::{Authorization, Presented},
    decide::{Label, presented},
    method::Place,
    metrics::Metrics,
    policy::Policy,
};

/// Takes decisions to be written.
#[derive(Debug, Clone)]
pub struct DecisionLog {
    queue: mpsc::Sender<String>,
    /// A request whose hash is below it is written when it was allowed.
    below: u64,
    lines: Counter,
    dropped: Counter,
}

/// Where lines go.
enum Target {
    Stdout,
    File { path: PathBuf, file: fs::File, looked: Instant },
}

/// Some seconds of denials of a node under attack, in a few MiB.
const MAX_QUEUED: usize = 4_096;
/// Of each text: longer ones are cut. A path of this length tells what was asked for.
const MAX_TEXT_BYTES: usize = 1_024;
/// Between two looks whether the file was moved away; then a new one is begun in its place.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// One decision. The names are part of the format: `docs/authn-operations.md`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<u64>,
    method: &'a str,
    result: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'a str>,
    host: &'a str,
    path: &'a str,
}

/// What may be told of a credential.
#[derive(Default)]
struct Shown {
    key_id: Option<String>,
    hash: Option<String>,
}

impl DecisionLog {
    /// Writes to a file that only its owner can read, or to standard output where the name is `-`. Of what was allowed,
    /// `sample` (0 to 1) is written. The receiver tells when the last clone is gone and everything is written.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(name: &str, sample: f64, metrics: &Metrics) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let target = if name == "-" { Target::Stdout } else { Target::file(Path::new(name))? };
        let (queue, lines) = mpsc::channel(MAX_QUEUED);
        let (end, ended) = oneshot::channel();
        // A thread of its own: a disk or a pipe that hangs holds up nothing else, not even our end.
        thread::Builder::new().name("decision-log".into()).spawn(move || {
            write_all(target, lines);
            // Who does not wait for it need not be told.
            let _ = end.send(());
        })?;
        // The product is not negative, and a float that is too large becomes the largest number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let below = (sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let (lines, dropped) = (metrics.log_lines.clone(), metrics.log_dropped.clone());
        Ok((Self { queue, below, lines, dropped }, ended))
    }

    /// Writes a decision, if it is one that is written.
    pub(crate) fn write(
        &self,
        facts: &Facts<'_>,
        policy: impl FnOnce() -> Option<Arc<Policy>>,
        decision: &Decision,
        label: Label,
        now: SystemTime,
    ) {
        if matches!(decision, Decision::Allow { .. }) && !self.is_sampled(facts.decision_id()) {
            return;
        }
        match self.queue.try_send(line(facts, policy().as_deref(), decision, label, now)) {
            Ok(()) => self.lines.inc(),
            Err(_) => self.dropped.inc(),
        };
    }

    /// The same for one request on all nodes, and for each of its tries.
    fn is_sampled(&self, id: &str) -> bool {
        let mut first = [0; 8];
        blake3::Hasher::new().update(id.as_bytes()).finalize_xof().fill(&mut first);
        self.below == u64::MAX || u64::from_le_bytes(first) < self.below
    }
}

fn line(
    facts: &Facts<'_>,
    policy: Option<&Policy>,
    decision: &Decision,
    label: Label,
    now: SystemTime,
) -> String {
    let asked = facts.policy();
    let Shown { key_id, hash } = shown(facts, policy);
    let (status, reason, record) = match decision {
        Decision::Allow { record, .. } => (200, None, Some(record)),
        Decision::Deny { record, status, description, .. } => {
            (*status, Some(description.as_str()), Some(record))
        }
        Decision::Fault { description } => (503, Some(description.as_str()), None),
    };
    let told = |key| record.and_then(|record| record.get(key)).map(cut);
    let PolicyId { policy, rev } = asked.unwrap_or(PolicyId { policy: String::new(), rev: 0 });
    let line = Line {
        time: OffsetDateTime::from(now).format(&Rfc3339).unwrap_or_default(),
        id: facts.decision_id(),
        rev: (!policy.is_empty()).then_some(rev),
        policy: (!policy.is_empty()).then_some(cut(&policy)),
        method: label.method,
        result: label.result.text(),
        status,
        reason,
        iss: told("iss"),
        sub: told("sub"),
        tenant: told("tenant"),
        kid: key_id.as_deref().map(cut),
        credential: hash.as_deref(),
        host: cut(facts.host()),
        path: cut(facts.path().split(['?', '#']).next().unwrap_or_default()),
    };
    // Texts and numbers can always be written.
    let mut text = visible(&serde_json::to_string(&line).unwrap_or_default());
    text.push('\n');
    text
}

/// JSON escapes what is below the space; a terminal obeys some more.
fn visible(json: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(json.len() + 1);
    for char in json.chars() {
        if char.is_control() {
            // Writing to a string does not fail, and all of these have four digits.
            let _ = write!(text, "\\u{:04x}", u32::from(char));
        } else {
            text.push(char);
        }
    }
    text
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_TEXT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// The first credential of the request, in the policy's order.
fn shown(facts: &Facts<'_>, policy: Option<&Policy>) -> Shown {
    let authorization = Authorization::of(facts);
    let places = policy.into_iter().flat_map(Policy::places).map(|(place, _)| place);
    let bearer = [Place::Authorization("bearer"), Place::Authorization("dpop")];
    let found = places.chain(bearer).find_map(|place| match presented(facts, authorization, place) {
        Presented::One(text) => Some((place, text)),
        _ => None,
    });
    let Some((place, text)) = found else { return Shown::default() };
    if place == Place::Authorization("basic") {
        return Shown::default();
    }
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let token = jwt::Token::read(text).ok();
    let key_id = token.and_then(|token| token.key_id().map(str::to_owned));
    // 64 bits.
    Shown { key_id, hash: hash.get(..16).map(str::to_owned) }
}

fn write_all(mut target: Target, mut lines: mpsc::Receiver<String>) {
    let mut has_failed = false;
    while let Some(line) = lines.blocking_recv() {
        let mut batch = line;
        while let Ok(line) = lines.try_recv() {
            batch.push_str(&line);
        }
        match target.write(&batch) {
            Ok(()) => has_failed = false,
            // A full disk would otherwise fill the other log too.
            Err(error) if !has_failed => {
                has_failed = true;
                tracing::error!(error = %error, "the decision log cannot be written");
            }
            Err(_) => {}
        }
    }
}

impl Target {
    fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File { path: path.to_owned(), file: open(path)?, looked: Instant::now() })
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes())?;
                out.flush()
            }
            Self::File { path, file, looked } => {
                if looked.elapsed() >= LOOK_AGAIN {
                    *looked = Instant::now();
                    let is_same = fs::metadata(&*path)
                        .is_ok_and(|now| file.metadata().is_ok_and(|ours| now.ino() == ours.ino()));
                    if !is_same {
                        *file = open(path)?;
                    }
                }
                file.write_all(text.as_bytes())
            }
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests;
