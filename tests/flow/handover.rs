//! Policies that change and an authentication sidecar that is replaced, under load: no request is lost.

use std::time::Duration;

use lab::{Ports, Process};
use serde_json::json;
use tests::{Lab, Load, Seen, eventually};

/// More than a drain has; a request has 250 ms.
const DRAIN: Duration = Duration::from_secs(10);
/// Long enough for a few changes and a start of a debug build.
const LOAD: Duration = Duration::from_secs(12);

#[tokio::test]
async fn no_request_is_lost_while_policies_change_and_another_instance_takes_over() {
    let mut lab = Lab::start().await;
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
    let socket = layout.run_dir().join("authn.sock");
    let args = [
        format!("--node-id={}", layout.node_id),
        format!("--xds=http://127.0.0.1:{}", layout.ports.xds),
        format!("--socket={}", socket.display()),
        format!("--data-dir={}", layout.data_dir.join("node/authn").display()),
        format!("--admin=127.0.0.1:{}", ports.authn),
        "--take-over".to_owned(),
    ];
    let program = layout.bin_dir.join("gatehouse-authn");
    let before = std::os::unix::fs::MetadataExt::ino(&socket.metadata().unwrap());
    let log = folder.join("logs/authn-next.log");
    let next = Process::start("the next authn", &program, &args, &log).unwrap();
    eventually("it has taken the socket over", || async {
        let now = std::os::unix::fs::MetadataExt::ino(&socket.metadata().ok()?);
        (now != before).then_some(())
    })
    .await;
    lab.stack.sidecars.remove("authn").expect("it runs").stop(DRAIN).await;
    lab.change(&open(&lab, 4)).await;
    assert!(load.is_running(), "all of that was under load");
    let Seen { good, bad, errors } = load.end().await;
    assert_eq!((bad, errors.as_str()), (0, "connect=0,read=0,write=0,timeout=0"), "of {good}");
    assert!(good > 0);
    next.stop(DRAIN).await;
    lab.stop().await;
}
