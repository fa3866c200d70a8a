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
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
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
