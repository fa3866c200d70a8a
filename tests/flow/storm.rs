//! The short form of `cargo xtask soak broker`.

use std::time::Duration;

use tests::Storm;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_left_over_when_control_planes_are_killed() {
    let storm = Storm { services: 24, duration: Duration::from_secs(30), seed: 7 };
    let weathered = storm.pass().await;
    assert!(weathered.kills > 10 && weathered.operations > 20, "{weathered:?}");
}
