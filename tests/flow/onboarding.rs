//! A service comes, changes and goes, and nothing else on the node notices.

use serde_json::json;
use tests::{Lab, eventually};

#[tokio::test]
async fn a_service_goes_live_changes_and_leaves() {
    let lab = Lab::start().await;
    let hello = lab.service("hello");
    assert_eq!(lab.get(hello.host(), "/", None).await.status, 404, "before it is onboarded");

    lab.live(&hello).await;
    let token = lab.good_token(&hello).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200, "succeeded means that it is live");

    let changed = hello.clone().with("/authz/rules/0/allow/scopes", json!(["admin:hello"]));
    lab.change(&changed).await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 403, "the changed rule is live");
    let limited = hello.clone().with("/rate_limits", json!([{"limit": "2/day", "per": ["client_ip"]}]));
    lab.change(&limited).await;
    let statuses = [
        lab.get(hello.host(), "/", Some(&token)).await.status,
        lab.get(hello.host(), "/", Some(&token)).await.status,
        lab.get(hello.host(), "/", Some(&token)).await.status,
    ];
    assert_eq!(statuses, [200, 200, 429], "the changed limit is live");

    assert_eq!(lab.deprovision(&hello).await.status, 202);
    assert_eq!(lab.ended(&hello).await.0, "gone");
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 404);
    eventually("nothing of it is left in Envoy", || async {
        let config = lab.envoy_admin("/config_dump?include_eds").await;
        (!config.contains(&hello.id())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_service_more_or_less_changes_no_listener_and_sends_nothing_of_others() {
    let lab = Lab::start().await;
    let (one, two) = (lab.service("one"), lab.service("two"));
    lab.live(&one).await;
    let counters = [
        "listener_manager.lds.update_success",
        "listener_manager.listener_modified",
        "listener_manager.listener_added",
    ];
    let mut before = Vec::new();
    for counter in counters {
        before.push(lab.envoy_stat(counter).await);
    }
    let sent = |kind: &str| format!("gatehouse_ads_resources_sent_total{{kind=\"{kind}\"}}");
    let (hosts, clusters) = (
        lab.control_plane_metric(&sent("virtual_hosts")).await,
        lab.control_plane_metric(&sent("clusters")).await,
    );

    lab.live(&two).await;
    assert_eq!(
        lab.control_plane_metric(&sent("virtual_hosts")).await,
        hosts + 1,
        "only its own virtual host"
    );
    assert_eq!(lab.control_plane_metric(&sent("clusters")).await, clusters + 1, "only its own cluster");
    lab.deprovision(&two).await;
    assert_eq!(lab.ended(&two).await.0, "gone");

    for (counter, before) in counters.into_iter().zip(before) {
        assert_eq!(lab.envoy_stat(counter).await, before, "{counter}");
    }
    assert!(lab.envoy_stat("listener_manager.lds.update_success").await > 0, "the counters count");
}

#[tokio::test]
async fn a_host_that_another_service_owns_cannot_be_taken() {
    let lab = Lab::start().await;
    let owner = lab.service("owner");
    lab.live(&owner).await;
    let thief = lab.service("thief").with("/hosts", json!(["thief.example.test", owner.host()]));
    let refused = lab.provision(&thief).await;
    assert_eq!(refused.status, 422);
    assert_eq!(
        refused.json()["description"],
        "parameters: hosts[1]: owner.example.test belongs to another service instance"
    );
    assert_eq!(lab.get("thief.example.test", "/", None).await.status, 404, "nothing of it is live");

    let heir = lab.service("heir").with("/hosts", json!(["thief.example.test"]));
    lab.live(&heir).await;
}

/// The broker says yes to both, since neither has the host yet; the claims decide.
#[tokio::test]
async fn of_two_that_race_for_a_host_one_gets_it() {
    let lab = Lab::start().await;
    let mut raced = false;
    for round in 0..40 {
        let host = json!([format!("race-{round}.example.test")]);
        let contender = |name: &str| lab.service(&format!("{name}-{round}")).with("/hosts", host.clone());
        let (one, two) = (contender("one"), contender("two"));
        let (first, second) = tokio::join!(lab.provision(&one), lab.provision(&two));
        if [first.status, second.status] != [202, 202] {
            assert!([first.status, second.status].contains(&422), "{first:?} {second:?}");
            continue;
        }
        raced = true;
        let mut ends = [lab.ended(&one).await, lab.ended(&two).await];
        ends.sort();
        let told = format!("hosts[0]: race-{round}.example.test belongs to another service instance");
        assert_eq!(ends[0], ("failed".into(), told));
        assert_eq!(ends[1].0, "succeeded");
        break;
    }
    assert!(raced, "the broker was never asked by both before one had the host");
}

#[tokio::test]
async fn https_is_served_with_a_certificate_for_the_name_that_is_asked_for() {
    let lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let answer = lab.get_https(hello.host(), "/healthz").await.expect("a handshake");
    assert_eq!(answer.status, 200);
    assert!(
        lab.get_https("other.example.test", "/healthz").await.is_none(),
        "no certificate for a name nobody owns"
    );
}

#[tokio::test]
async fn a_wildcard_answers_for_the_names_that_nobody_else_has() {
    let lab = Lab::start().await;
    let wild = lab.service("wild").with("/hosts", json!(["*.a.example.test"]));
    // A client that asks before there is anything is served as soon as there is.
    assert!(lab.get_https("early.a.example.test", "/healthz").await.is_none());
    lab.live(&wild).await;
    for host in ["x.a.example.test", "y.a.example.test"] {
        assert_eq!(lab.get_https(host, "/healthz").await.expect("a handshake").status, 200, "{host}");
    }
    tests::eventually("the name that was asked for first is served too", || async {
        lab.get_https("early.a.example.test", "/healthz").await
    })
    .await;
    let own =
        lab.service("own").with("/hosts", json!(["x.a.example.test"])).with("/auth/anonymous", json!([]));
    lab.live(&own).await;
    assert_eq!(
        lab.get("x.a.example.test", "/healthz", None).await.status,
        401,
        "it is another service's now"
    );
    assert_eq!(lab.get_https("x.a.example.test", "/healthz").await.expect("its own certificate").status, 401);
    assert_eq!(lab.get("y.a.example.test", "/healthz", None).await.status, 200);
    assert_eq!(lab.get("a.example.test", "/healthz", None).await.status, 404, "not the name itself");
    assert_eq!(lab.deprovision(&own).await.status, 202);
    assert_eq!(lab.ended(&own).await.0, "gone");
    assert_eq!(lab.get_https("x.a.example.test", "/healthz").await.expect("the wildcard's").status, 200);
    assert_eq!(lab.deprovision(&wild).await.status, 202);
    assert_eq!(lab.ended(&wild).await.0, "gone");
    assert_eq!(lab.get("y.a.example.test", "/healthz", None).await.status, 404);
}

#[tokio::test]
async fn routes_go_where_their_path_says_the_most_specific_first() {
    let lab = Lab::start().await;
    let second = lab::upstream::Upstream::serve(0).await.expect("another upstream");
    let hello = lab.service("hello").with("/auth/anonymous", json!(["/"]));
    let url = hello.parameters["routes"][0]["upstream"]["urls"][0].clone();
    let other = format!("http://127.0.0.1:{}", second.address.port());
    let hello = hello.with(
        "/routes",
        json!([
            {"path": "/", "upstream": {"urls": [url]}},
            {"path": "/other", "upstream": {"urls": [other]}},
            {"path": "=/other/but/not/this", "upstream": {"urls": [url]}},
        ]),
    );
    lab.live(&hello).await;
    drop(second);
    for (path, status) in
        [("/", 200), ("/otherwise", 200), ("/other/but/not/this", 200), ("/other", 503), ("/other/x", 503)]
    {
        assert_eq!(lab.get(hello.host(), path, None).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_refused_change_leaves_everything_as_it_was_and_can_be_tried_again() {
    let defaults = include_str!("../../control-plane/templates/defaults/virtual_hosts.yaml");
    let template = defaults.replace(
        "  routes:\n",
        "{% if service.hosts | length > 1 %}  no_such_field: 1\n{% endif %}  routes:\n",
    );
    assert_ne!(template, defaults);
    let (lab, _folder) = Lab::with_templates(&[("virtual_hosts.yaml", &template)]).await;
    let one = lab.service("one");
    lab.live(&one).await;
    // Becomes something that the gate refuses.
    let greedy = one.clone().with("/hosts", json!([one.host(), "new.example.test"]));
    assert_eq!(lab.update(&greedy).await.status, 202);
    assert_eq!(lab.ended(&one).await.0, "failed");
    assert_eq!(lab.get(one.host(), "/healthz", None).await.status, 200);
    assert_eq!(lab.get_https(one.host(), "/healthz").await.expect("its certificate stays").status, 200);
    assert_eq!(lab.provision(&one).await.status, 200, "what is live is what it is said to be");
    assert_eq!(lab.provision(&greedy).await.status, 409, "a change is a change");
    // The host that was claimed on the way is free again.
    lab.live(&lab.service("three").with("/hosts", json!(["new.example.test"]))).await;
}

#[tokio::test]
async fn a_service_may_change_its_host() {
    let lab = Lab::start().await;
    let one = lab.service("one");
    lab.live(&one).await;
    let moved = one.clone().with("/hosts", json!(["moved.example.test"]));
    lab.change(&moved).await;
    assert_eq!(
        lab.get_https("moved.example.test", "/healthz").await.expect("a certificate for it").status,
        200
    );
    assert_eq!(lab.get(one.host(), "/healthz", None).await.status, 404);
    let zone = std::fs::read_to_string(lab.folder().join("zone")).expect("the zone");
    assert_eq!(zone, "moved.example.test. 60 IN A 127.0.0.1 ; id-one\n");
    lab.live(&lab.service("heir").with("/hosts", json!([one.host()]))).await;
}
