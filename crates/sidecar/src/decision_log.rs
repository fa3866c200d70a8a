//! A line of JSON for each denial and fault, and for a share of what was allowed. A request never waits for the log:
//! what the queue has no room for is counted and gone.
//!
//! What stands here is what every sidecar tells. What it adds is its own affair, and never a credential.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{mpsc, oneshot};

use crate::{ext_authz::Decision, observers::Told};

/// Takes decisions to be written.
#[derive(Debug, Clone)]
pub struct DecisionLog {
    queue: mpsc::Sender<String>,
    /// A request whose hash is below it is written when it was allowed.
    below: u64,
}

/// What became of lines.
#[derive(Debug, Clone, Default)]
pub struct LogCounters {
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

/// One decision. The names are part of the format: `docs/sidecar-operations.md`.
#[derive(Serialize)]
struct Line<'a, T> {
    time: String,
    id: &'a str,
    by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<u64>,
    result: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(flatten)]
    more: T,
    host: &'a str,
    path: &'a str,
}

impl LogCounters {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("decision_log_lines", "Decisions that were given to the log", self.lines.clone());
        registry.register(
            "decision_log_dropped",
            "Decisions that the log had no room for",
            self.dropped.clone(),
        );
    }
}

impl DecisionLog {
    /// Writes to a file that only its owner can read, or to standard output where the name is `-`. Of what was allowed,
    /// `sample` (0 to 1) is written. The receiver tells when the last clone is gone and everything is written.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(name: &str, sample: f64) -> io::Result<(Self, oneshot::Receiver<()>)> {
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
        Ok((Self { queue, below }, ended))
    }

    /// Writes a decision, if it is one that is written; then with what `more` says of it.
    pub fn write<T: Serialize>(&self, told: &Told<'_>, counters: &LogCounters, more: impl FnOnce() -> T) {
        let is_refusal = told.is_refused_in_shadow || !matches!(told.decision, Decision::Allow { .. });
        if !is_refusal && !self.is_sampled(told.facts.decision_id()) {
            return;
        }
        match self.queue.try_send(line(told, more())) {
            Ok(()) => counters.lines.inc(),
            Err(_) => counters.dropped.inc(),
        };
    }

    /// The same for one request on all nodes, and for each of its tries.
    fn is_sampled(&self, id: &str) -> bool {
        let mut first = [0; 8];
        blake3::Hasher::new().update(id.as_bytes()).finalize_xof().fill(&mut first);
        self.below == u64::MAX || u64::from_le_bytes(first) < self.below
    }
}

/// A decision as it is written.
pub fn line<T: Serialize>(told: &Told<'_>, more: T) -> String {
    let Told { by, facts, decision, result, begun, .. } = told;
    let named = facts.policy();
    let line = Line {
        time: OffsetDateTime::from(*begun).format(&Rfc3339).unwrap_or_default(),
        id: facts.decision_id(),
        by,
        policy: named.as_ref().map(|named| cut(&named.policy)),
        rev: named.as_ref().map(|named| named.rev),
        result,
        status: decision.status(),
        reason: decision.reason(),
        more,
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

/// As much of a text as a line holds.
pub fn cut(text: &str) -> &str {
    let end = (0..=MAX_TEXT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
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
