//! Policies that change and a sidecar that is replaced, under load: no request is lost.

use std::time::Duration;

use lab::{Ports, Process, Sidecars};
use serde_json::json;
use tests::{Lab, Load, Seen, eventually};

/// More than a drain has; a request has 250 ms.
const DRAIN: Duration = Duration::from_secs(10);
/// Long enough for a few changes and a start of a debug build.
const LOAD: Duration = Duration::from_secs(12);

#[tokio::test]
async fn no_request_is_lost_while_policies_change_and_another_authn_takes_over() {
    Box::pin(handed_over(Sidecars::Chain, "authn")).await;
}

#[tokio::test]
async fn no_request_is_lost_while_policies_change_and_another_authz_takes_over() {
    Box::pin(handed_over(Sidecars::Chain, "authz")).await;
}

#[tokio::test]
async fn no_request_is_lost_while_policies_change_and_another_guard_takes_over() {
    Box::pin(handed_over(Sidecars::Guard, "guard")).await;
}

async fn handed_over(sidecars: Sidecars, name: &'static str) {
    let mut lab = Lab::with(|layout| layout.sidecars = sidecars).await;
    let open = |lab: &Lab, at: usize| {
        let anonymous = json!(["/", format!("/change-{at}")]);
        lab.service("hello").with("/auth/anonymous", anonymous).with("/authz", json!({"default": "allow"}))
    };
    let hello = open(&lab, 0);
    lab.live(&hello).await;
    let (folder, port) = (lab.folder().to_owned(), lab.stack.layout.ports.http);
    let mut load = Load::start(&folder, port, &[hello.host()], "/", LOAD).await;
    for at in 1..=3 {
        lab.change(&open(&lab, at)).await;
    }

    let (layout, ports) = (lab.stack.layout.clone(), Ports::free().unwrap());
    let socket = layout.run_dir().join(format!("{name}.sock"));
    let args = [
        format!("--node-id={}", layout.node_id),
        format!("--xds=http://127.0.0.1:{}", layout.ports.xds),
        format!("--socket={}", socket.display()),
        format!("--data-dir={}", layout.data_dir.join("node").join(name).display()),
        format!("--admin=127.0.0.1:{}", ports.guard),
        "--take-over".to_owned(),
    ];
    let program = layout.bin_dir.join(format!("gatehouse-{name}"));
    let before = std::os::unix::fs::MetadataExt::ino(&socket.metadata().unwrap());
    let log = folder.join(format!("logs/{name}-next.log"));
    let next = Process::start("the next one", &program, &args, &log).unwrap();
    eventually("it has taken the socket over", || async {
        let now = std::os::unix::fs::MetadataExt::ino(&socket.metadata().ok()?);
        (now != before).then_some(())
    })
    .await;
    lab.stack.sidecars.remove(name).expect("it runs").stop(DRAIN).await;
    lab.change(&open(&lab, 4)).await;
    assert!(load.is_running(), "all of that was under load");
    let Seen { good, bad, errors } = load.end().await;
    assert_eq!((bad, errors.as_str()), (0, "connect=0,read=0,write=0,timeout=0"), "of {good}");
    assert!(good > 0);
    next.stop(DRAIN).await;
    lab.stop().await;
}
