//! One program: its version, and what it says of a configuration.

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use serde_json::Value;

/// A program that cannot be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ValidatorError {
    #[error("running {program}")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} --version: must say `version: …/1.40.0/…`, got {said:?}")]
    NoEnvoy { program: String, said: String },
}

#[derive(Debug)]
pub(crate) struct Envoy {
    program: PathBuf,
    version: String,
}

/// 5,000 services take 4 s; on a busy machine several times that.
const DEADLINE: Duration = Duration::from_secs(60);
/// Of its words: the first is what matters.
const MAX_WORDS_BYTES: u64 = 16 * 1024;
const MAX_SHOWN_CHARS: usize = 1_000;

impl Envoy {
    pub(crate) fn at(program: &Path) -> Result<Self, ValidatorError> {
        let shown = || program.display().to_string();
        let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(|source| ValidatorError::Run { program: shown(), source })?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL
        let version = said.split_once("version:").and_then(|(_, rest)| rest.split('/').nth(1));
        match version.map(str::to_owned) {
            Some(version) if !version.is_empty() => Ok(Self { program: program.to_owned(), version }),
            _ => Err(ValidatorError::NoEnvoy { program: shown(), said }),
        }
    }

    /// `1.40.0`
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Whether it takes the configuration; if not, what it says.
    pub(crate) fn takes(&self, config: &Value, folder: &Path) -> Result<(), String> {
        let run = || -> io::Result<Result<(), String>> {
            // Readable by its owner only, and gone when this ends.
            let mut file =
                tempfile::Builder::new().prefix("validate-").suffix(".json").tempfile_in(folder)?;
            serde_json::to_writer(&mut file, config)?;
            file.flush()?;
            let mut child = Command::new(&self.program)
                .args(["--mode", "validate", "--disable-hot-restart", "--concurrency", "1"])
                .args(["--log-level", "critical", "--log-format", "%v", "--config-path"])
                .arg(file.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            let words = child.stderr.take();
            let child = Mutex::new(child);
            let (said, is_late) = until(DEADLINE, &child, || {
                let mut said = Vec::new();
                if let Some(words) = words {
                    words.take(MAX_WORDS_BYTES).read_to_end(&mut said)?;
                }
                Ok::<_, io::Error>(said)
            });
            let (said, status) = (said?, lock(&child).wait()?);
            Ok(if status.success() {
                Ok(())
            } else if is_late {
                Err(format!("no answer within {} s", DEADLINE.as_secs()))
            } else {
                Err(cause(&String::from_utf8_lossy(&said), &status.to_string()))
            })
        };
        run().unwrap_or_else(|error| Err(format!("it cannot be asked: {error}")))
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what waits for the child; the child is killed at the deadline, by which the wait ends too. And whether it was.
fn until<T>(deadline: Duration, child: &Mutex<Child>, wait: impl FnOnce() -> T) -> (T, bool) {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let watch = scope.spawn(move || {
            let is_late = is_done.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout);
            if is_late {
                let _has_just_ended = lock(child).kill();
            }
            is_late
        });
        let waited = wait();
        drop(done);
        (waited, watch.join().unwrap_or(false))
    })
}

/// `error initializing configuration '/…/validate-x.json': missing ]: [` without what is ours. Envoy may print the whole
/// configuration beside the reason, keys and all: of that nothing is told.
fn cause(said: &str, status: &str) -> String {
    let constraint =
        said.lines().find_map(|line| line.strip_prefix(": ").filter(|line| line.contains(" failed (")));
    let first = said.lines().find_map(|line| Some(line.split_once(".json': ")?.1));
    let words = constraint.or(first).or(said.lines().next()).unwrap_or_default();
    let words = words.split('{').next().unwrap_or_default().trim().trim_end_matches(':');
    if words.is_empty() {
        return format!("it ended with {status}");
    }
    words.chars().take(MAX_SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, expected: &str) {
        assert_eq!(cause(said, "signal: 11 (SIGSEGV)"), expected);
    }

    #[test]
    fn the_reason_is_told_and_the_configuration_is_not() {
        check("error initializing configuration '/tmp/validate-x.json': missing ): (\n", "missing ): (");
        check(
            "error initializing configuration 'v.json': Unable to parse JSON as proto (no such field: 'x'): {\"key\":1}\n",
            "Unable to parse JSON as proto (no such field: 'x')",
        );
        check(
            "error initializing configuration 'v.json': goo.gle/debugstr  \nprivate_key {\n  inline_string: \"k\"\n}\n: Proto \
             constraint validation failed (ClusterValidationError.Name: value length must be at least 1 characters)\n",
            "Proto constraint validation failed (ClusterValidationError.Name: value length must be at least 1 characters)",
        );
        check("", "it ended with signal: 11 (SIGSEGV)");
    }
}
