//! What goes on when a part is gone.

use serde_json::json;
use tests::{Lab, eventually};

#[tokio::test]
async fn traffic_and_decisions_go_on_without_a_control_plane_even_after_the_sidecars_restart() {
    let mut lab = Lab::start().await;
    let hello = lab.service("hello").with("/rate_limits", json!([{"limit": "3/day", "per": ["client_ip"]}]));
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    lab.stack.control_plane.take().expect("it runs").kill().await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
    assert_eq!(lab.get(hello.host(), "/", None).await.status, 401);

    for name in lab.stack.layout.sidecars.names() {
        lab.stack.sidecars.remove(name).expect("it runs").kill().await;
        // Ready again means: with what it kept on disk.
        lab.stack.start_sidecar(name).await.expect("it starts from disk");
    }
    let restarted = eventually("Envoy has found the restarted sidecars", || async {
        let answer = lab.get(hello.host(), "/", Some(&token)).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(restarted.upstream_saw("x-gatehouse-subject"), ["alice"]);
    assert_eq!(lab.get(hello.host(), "/", None).await.status, 401);
    eventually("limits are kept too", || async {
        (lab.get(hello.host(), "/", Some(&token)).await.status == 429).then_some(())
    })
    .await;

    lab.stack.start_control_plane().await.expect("it comes back");
    let late = lab.service("late");
    lab.live(&late).await;
    assert_eq!(lab.get(late.host(), "/", Some(&lab.good_token(&late).await)).await.status, 200);
}

#[tokio::test]
async fn without_a_sidecar_nothing_passes() {
    let mut lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    for name in ["authn", "authz"] {
        lab.stack.sidecars.remove(name).expect("it runs").kill().await;
        assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 503, "without {name}");
        lab.stack.start_sidecar(name).await.expect("it starts");
        eventually("it is found again", || async {
            (lab.get(hello.host(), "/", Some(&token)).await.status == 200).then_some(())
        })
        .await;
    }
    lab.stack.sidecars.remove("ratelimit").expect("it runs").kill().await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200, "rate limits fail open");
}

#[tokio::test]
async fn a_worker_that_is_killed_in_the_middle_of_a_job_loses_nothing() {
    let mut lab = Lab::start().await;
    // Without Envoy the job waits in its last step.
    lab.stack.envoy.take().expect("it runs").kill().await;
    let hello = lab.service("hello");
    assert_eq!(lab.provision(&hello).await.status, 202);
    eventually("the job waits for the fleet", || async {
        let steps = lab.last_operation(&hello).await?.json()["steps"].clone();
        (steps[3]["state"] == "done" && steps[4]["state"] == "active").then_some(())
    })
    .await;
    lab.stack.control_plane.take().expect("it runs").kill().await;
    lab.stack.start_control_plane().await.expect("it comes back");
    lab.stack.start_envoy().await.expect("it starts");
    assert_eq!(lab.ended(&hello).await.0, "succeeded");
    assert_eq!(lab.get(hello.host(), "/", Some(&lab.good_token(&hello).await)).await.status, 200);
}

#[tokio::test]
async fn routes_are_there_again_after_everything_was_stopped() {
    let mut lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    let layout = lab.stack.layout.clone();
    let stopped = std::mem::replace(
        &mut lab.stack,
        lab::Stack::new(lab::Layout { ports: lab::Ports::free().unwrap(), ..layout.clone() }).unwrap(),
    );
    stopped.stop().await;
    lab.stack.layout.ports = layout.ports;
    // The upstream's port is part of the service.
    lab.stack.start(|_| ()).await.expect("everything starts again");
    eventually("the route is there", || async {
        (lab.get(hello.host(), "/", Some(&token)).await.status == 200).then_some(())
    })
    .await;
}
