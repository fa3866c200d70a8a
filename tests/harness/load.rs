//! Load by `wrk`, and what it saw.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::{Child, Command};

/// A running wrk.
pub struct Load {
    child: Child,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// Answered with 200.
    pub good: u64,
    /// Answered otherwise.
    pub bad: u64,
    /// Not answered, by wrk's names.
    pub errors: String,
}

/// wrk's own counts tell nothing of other answers than 200 to 399, so each response is looked at.
const SCRIPT: &str = r#"
local hosts = { HOSTS }
local turn, threads = 0, {}
function setup(thread) table.insert(threads, thread) end
function init(args) good, bad = 0, 0 end
function request()
  turn = turn % #hosts + 1
  wrk.headers["Host"] = hosts[turn]
  return wrk.format("GET", "PATH")
end
function response(status) if status == 200 then good = good + 1 else bad = bad + 1 end end
function done(summary)
  local good, bad = 0, 0
  for _, thread in ipairs(threads) do good, bad = good + thread:get("good"), bad + thread:get("bad") end
  local e = summary.errors
  io.write(string.format("SEEN %d %d connect=%d,read=%d,write=%d,timeout=%d\n", good, bad, e.connect, e.read, e.write, e.timeout))
end
"#;

impl Load {
    /// Asks for the path at each host in turn, over a few connections, for so long.
    pub async fn start(folder: &Path, port: u16, hosts: &[&str], path: &str, duration: Duration) -> Self {
        let list: Vec<_> = hosts.iter().map(|host| format!("{host:?}")).collect();
        let script = folder.join("load.lua");
        let text = SCRIPT.replace("HOSTS", &list.join(", ")).replace("PATH", path);
        std::fs::write(&script, text).expect("a file");
        let url = format!("http://127.0.0.1:{port}/");
        let child = wrk(&script, &url, duration, 8)
            .await
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("wrk runs");
        Self { child }
    }

    /// Whether it goes on.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it is over.
    pub async fn end(self) -> Seen {
        let output = self.child.wait_with_output().await.expect("wrk ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let seen = text.lines().find_map(|line| line.strip_prefix("SEEN "));
        let mut parts = seen.unwrap_or_else(|| panic!("wrk told nothing: {text}")).split(' ');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).expect("a number");
        Seen { good: number(), bad: number(), errors: parts.next().unwrap_or_default().to_owned() }
    }
}

/// The command of one thread and so many connections, with wrk installed where it was not.
pub async fn wrk(script: &Path, url: &str, duration: Duration, connections: usize) -> Command {
    installed().await;
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads=1", "--timeout=60s"])
        .arg(format!("--connections={connections}"))
        .arg(format!("--duration={}s", duration.as_secs()))
        .arg("--script")
        .arg(script)
        .arg(url);
    wrk
}

/// wrk is a package of Debian's.
async fn installed() {
    let runs =
        Command::new("wrk").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    if runs.is_ok() {
        return;
    }
    let apt =
        |args: &'static [&'static str]| Command::new("apt-get").args(args).stdout(Stdio::null()).status();
    let install: &[&str] = &["install", "--yes", "--quiet", "wrk"];
    if !apt(install).await.is_ok_and(|status| status.success()) {
        // A fresh machine knows no packages yet.
        let _told_by_the_next = apt(&["update", "--quiet"]).await;
        let status = apt(install).await.expect("wrk on the PATH, or apt-get as root to install it");
        assert!(status.success(), "wrk on the PATH, or apt-get as root to install it");
    }
}
