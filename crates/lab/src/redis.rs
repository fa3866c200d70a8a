//! Redis on this machine, for tests: Debian's package, which is installed where it is not there yet.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::{
    LabError, Ports, Process,
    pip::on_path,
    process::{Signal, send},
};

/// A running one, with nothing in it. Ends when it is dropped.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: u16,
    log: PathBuf,
    args: Vec<String>,
}

/// It starts within a blink, on a busy machine within seconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// Who answers without closing has said everything by then.
const NO_MORE: Duration = Duration::from_millis(500);

impl Redis {
    /// Starts it on a free port. Its log goes to the folder.
    pub async fn start(folder: &Path) -> Result<Self, LabError> {
        Self::start_with(folder, &[]).await
    }

    /// The same with more flags.
    pub async fn start_with(folder: &Path, more: &[&str]) -> Result<Self, LabError> {
        let port = Ports::free()?.upstream;
        let args = [
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            &folder.display().to_string(),
        ];
        let args = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        let mut redis = Self { process: None, port, log: folder.join(format!("redis-{port}.log")), args };
        redis.start_again().await?;
        Ok(redis)
    }

    /// A sentinel that watches a master as `master`, and takes half a second of silence for its end.
    pub async fn sentinel(folder: &Path, master: &Self) -> Result<Self, LabError> {
        let port = Ports::free()?.upstream;
        let settings = folder.join(format!("sentinel-{port}.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor master 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds master 500\nsentinel failover-timeout master 2000\n",
            master.port
        );
        std::fs::write(&settings, text).map_err(LabError::io(format!("writing {}", settings.display())))?;
        let args = vec![settings.display().to_string(), "--sentinel".to_owned()];
        let mut sentinel =
            Self { process: None, port, log: folder.join(format!("sentinel-{port}.log")), args };
        sentinel.start_again().await?;
        Ok(sentinel)
    }

    /// Starts it where it was, with nothing in it.
    pub async fn start_again(&mut self) -> Result<(), LabError> {
        let mut process = Process::start("Redis", &installed().await?, &self.args, &self.log)?;
        let port = self.port;
        process.wait_until(DEADLINE, || answers(port)).await?;
        self.process = Some(process);
        Ok(())
    }

    /// On loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where a client finds it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it, as a crash would.
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Lets it stand still: connections stay, and nothing is answered.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.process.as_ref().and_then(Process::id) {
            send(id, signal);
        }
    }

    /// One command of words without spaces, and its answer as it came.
    pub async fn ask(&self, command: &str) -> Result<String, LabError> {
        asked(self.port, command).await.map_err(LabError::io("asking Redis"))
    }
}

async fn asked(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
    let (mut answer, mut part) = (Vec::new(), [0; 4_096]);
    // A sentinel does not quit: it says no more.
    while let Ok(read) = tokio::time::timeout(NO_MORE, stream.read(&mut part)).await {
        match read? {
            0 => break,
            length => answer.extend_from_slice(&part[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn answers(port: u16) -> Result<(), String> {
    let answer = asked(port, "PING").await.map_err(|error| error.to_string())?;
    // One with a password answers too.
    if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") { Ok(()) } else { Err(answer) }
}

async fn installed() -> Result<PathBuf, LabError> {
    if let Some(found) = on_path("redis-server") {
        return Ok(found);
    }
    let apt =
        |args: &'static [&'static str]| Command::new("apt-get").args(args).stdout(Stdio::null()).status();
    let install: &[&str] = &["install", "--yes", "--quiet", "redis-server"];
    if !apt(install).await.is_ok_and(|status| status.success()) {
        // A fresh machine knows no packages yet.
        let _told_by_the_next = apt(&["update", "--quiet"]).await;
        let _told_by_the_path = apt(install).await;
    }
    on_path("redis-server").ok_or(LabError::NoRedis)
}
