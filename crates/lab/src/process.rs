//! One child process: its log goes to a file, its end is noticed, and it never outlives its parent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Pid;
pub use rustix::process::Signal;
use tokio::process::{Child, Command};

use crate::LabError;

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How much of a log is shown when its process failed.
const TAIL_LINES: usize = 12;

impl Process {
    /// Starts `program`; `log` is appended to.
    pub fn start(name: &str, program: &Path, args: &[String], log: &Path) -> Result<Self, LabError> {
        Self::start_with(name, program, args, &[], log)
    }

    /// The same with more in its environment.
    pub fn start_with(
        name: &str,
        program: &Path,
        args: &[String],
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Self, LabError> {
        if !program.exists() {
            return Err(LabError::NoBinary { what: name.to_owned(), path: program.display().to_string() });
        }
        let starting = || LabError::io(format!("starting {name}"));
        let file = fs::OpenOptions::new().create(true).append(true).open(log).map_err(starting())?;
        let errors = file.try_clone().map_err(starting())?;
        let child = command(program)
            .args(args)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            // Ctrl-C at the terminal is for us: we stop our children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(starting())?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    /// The process id; `None` once it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// An error when it has ended.
    pub fn check(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.died(&status.to_string())),
            Err(error) => Err(self.died(&error.to_string())),
        }
    }

    fn died(&self, status: &str) -> LabError {
        LabError::Died {
            what: self.name.clone(),
            status: status.to_owned(),
            log: self.log.display().to_string(),
            tail: self.tail(),
        }
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Waits until `ready` says `Ok`; its error says what is waited for.
    pub async fn wait_until<F>(
        &mut self,
        deadline: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<(), LabError>
    where
        F: Future<Output = Result<(), String>>,
    {
        let end = tokio::time::Instant::now() + deadline;
        loop {
            self.check()?;
            let waiting = match ready().await {
                Ok(()) => return Ok(()),
                Err(waiting) => waiting,
            };
            if tokio::time::Instant::now() >= end {
                return Err(LabError::NotReady {
                    what: self.name.clone(),
                    seconds: deadline.as_secs(),
                    waiting,
                    log: self.log.display().to_string(),
                    tail: self.tail(),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Asks it to end, and ends it if it does not.
    pub async fn stop(mut self, deadline: Duration) {
        if let Some(id) = self.child.id() {
            send(id, Signal::TERM);
            if tokio::time::timeout(deadline, self.child.wait()).await.is_ok() {
                return;
            }
        }
        self.kill().await;
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(mut self) {
        // Already ended is as good.
        let _ = self.child.kill().await;
    }
}

/// Sends a signal to a process. One that has ended already is as good.
pub fn send(id: u32, signal: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(id, signal);
    }
}

/// Through `setpriv` (util-linux) where it is there: then the kernel ends the child when its parent dies,
/// however it dies.
fn command(program: &Path) -> Command {
    for setpriv in ["/usr/bin/setpriv", "/bin/setpriv"] {
        if Path::new(setpriv).exists() {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            return command;
        }
    }
    Command::new(program)
}
