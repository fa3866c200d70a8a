//! A node that hears nothing for days: tokens wait for the control plane, and what stands in the policies goes on.

use std::time::{Duration, SystemTime};

use reqwest::Method;
use tests::{Lab, Service, eventually};
use xds::Contact;

/// Longer than keys and revocations are believed.
const LONG: Duration = Duration::from_hours(73);

async fn with_key(lab: &Lab, service: &Service, key: &str) -> u16 {
    let request = lab.request(Method::GET, service.host(), "/").header("x-api-key", key);
    lab.send(request).await.expect("Envoy answers").status
}

async fn metric(lab: &Lab, name: &str) -> u64 {
    let url = format!("http://127.0.0.1:{}/metrics", lab.stack.layout.ports.authn);
    let text = reqwest::get(url).await.expect("it answers").text().await.expect("a text");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Stops it and starts it again, as if so much time had passed since it heard something.
async fn restart_after(lab: &mut Lab, time: Duration) {
    lab.stack.sidecars.remove("authn").expect("it runs").kill().await;
    let folder = lab.folder().join("node/authn");
    Contact::backdate(&folder, SystemTime::now() - time).expect("it is written");
    lab.stack.start_sidecar("authn").await.expect("it starts from disk");
}

#[tokio::test]
async fn a_node_that_hears_nothing_for_days_takes_no_tokens_until_it_does() {
    let mut lab = Lab::start().await;
    let hello = lab.service("hello").with_keys();
    lab.apply(&hello).await;
    let key = lab.key(&hello, "billing", "read:hello").await;
    let token = lab.good_token(&hello).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
    assert!(metric(&lab, "gatehouse_authn_last_contact_age_seconds").await < 60);

    lab.stack.control_plane.take().expect("it runs").kill().await;
    restart_after(&mut lab, LONG).await;
    eventually("the key is good as long as its policy says so", || async {
        (with_key(&lab, &hello, &key).await == 200).then_some(())
    })
    .await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 503);
    assert_eq!(lab.get(hello.host(), "/", None).await.status, 401);
    assert_ne!(lab.get(hello.host(), "/healthz", None).await.status, 503, "who is nobody needs no keys");
    assert_eq!(metric(&lab, "gatehouse_authn_stale").await, 1);

    restart_after(&mut lab, LONG / 2).await;
    eventually("half of that is not too long", || async {
        (lab.get(hello.host(), "/", Some(&token)).await.status == 200).then_some(())
    })
    .await;

    restart_after(&mut lab, LONG).await;
    lab.stack.start_control_plane().await.expect("it comes back");
    eventually("something was heard", || async {
        (lab.get(hello.host(), "/", Some(&token)).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(metric(&lab, "gatehouse_authn_stale").await, 0);
    lab.stop().await;
}
