//! The short form of `cargo xtask soak broker`.

use std::time::Duration;

use tests::Storm;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_left_over_when_control_planes_are_killed() {
    let storm =
        Storm { services: 24, duration: Duration::from_secs(60), operations: 30, aws: false, seed: 7 };
    let weathered = storm.pass().await;
    assert!(weathered.kills > 10 && weathered.operations >= 30, "{weathered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_on_aws() {
    let storm = Storm { services: 8, duration: Duration::from_secs(30), operations: 15, aws: true, seed: 7 };
    let weathered = storm.pass().await;
    assert!(weathered.kills > 4 && weathered.operations >= 15, "{weathered:?}");
}
