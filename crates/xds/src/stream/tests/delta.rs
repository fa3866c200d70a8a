//! The incremental variant.

use super::*;

fn clusters(world: &str) -> Client {
    Client::new(ResourceType::Cluster, Variant::Delta, world)
}

fn endpoints(world: &str) -> Client {
    Client::new(ResourceType::Endpoints, Variant::Delta, world)
}

#[test]
fn rule_07_every_response_has_a_nonce_of_its_own() {
    let mut client = clusters("a@1");
    client.delta(&subscribe(&[]));
    client.accepted();
    let first = client.nonce;
    client.world("a@2");
    client.accepted();
    assert!(first > 0 && client.nonce > first);
}

#[test]
fn rule_11_and_30_a_refusal_is_the_error_and_an_answer_is_the_nonce() {
    let mut client = clusters("a@1");
    client.delta(&subscribe(&[]));
    client.sent();
    // Neither is this an answer.
    assert!(matches!(client.delta(&answer("", None)), Received::Subscription));
    let refused = client.delta(&answer("1", Some("bad a")));
    assert!(matches!(refused, Received::Nack { message, .. } if message == "bad a"));
    client.world("a@2");
    client.sent();
    assert!(matches!(client.delta(&answer("2", None)), Received::Ack));
}

#[test]
fn rule_12_what_was_applied_of_a_refused_response_is_sent_again_to_a_client_that_comes_back() {
    let mut client = clusters("bad@1 good@2");
    client.delta(&DeltaRequest { brought: vec![("good", "1")], ..subscribe(&[]) });
    assert_eq!(client.sent().unwrap(), "+bad@1 +good@2");
    client.delta(&answer("1", Some("bad: no")));
    // On this stream …
    assert_eq!(client.accepted().unwrap(), "+good@2");
    // … and on the next, where its initial_resource_versions still show the old one.
    let mut client = clusters("bad@1 good@2");
    client.delta(&DeltaRequest { brought: vec![("good", "1")], ..subscribe(&[]) });
    assert_eq!(client.sent().unwrap(), "+bad@1 +good@2");
}

#[test]
fn rule_13_refused_content_is_not_sent_again_until_it_changes() {
    let mut client = clusters("a@1");
    client.delta(&subscribe(&[]));
    client.sent();
    client.delta(&answer("1", Some("bad a")));
    client.world("a@1 b@1");
    assert_eq!(client.all(), ["+b@1"]);
    assert_eq!(client.stream.refused()["a"].message, "bad a");
    client.world("a@2 b@1");
    assert_eq!(client.all(), ["+a@2"]);
    assert!(client.stream.refused().is_empty());
    assert_eq!(client.stream.held("a").unwrap().as_ref(), "2");
}

#[test]
fn a_refused_change_leaves_the_version_before_it_pinned() {
    let mut client = clusters("a@1");
    client.delta(&subscribe(&[]));
    client.all();
    client.world("a@2");
    client.sent();
    client.delta(&answer("2", Some("no")));
    assert_eq!(client.stream.held("a").unwrap().as_ref(), "1");
    // Back to what it has: nothing to say, and nothing refused.
    client.world("a@1");
    assert_eq!(client.all(), Vec::<String>::new());
}

#[test]
fn the_bad_one_of_many_is_found_and_the_good_ones_arrive() {
    for message in ["no names here", "Error adding cluster(s) r7: bad"] {
        let world: String = (0..10).map(|at| format!("r{at}@1 ")).collect();
        let mut client = clusters(&world);
        client.delta(&subscribe(&[]));
        let mut tries = 0;
        while let Some(text) = client.sent() {
            tries += 1;
            let error = text.contains("+r7@").then_some(message);
            client.delta(&answer(&client.nonce.to_string(), error));
            assert!(tries <= 10, "the search must end");
        }
        assert_eq!(client.stream.refused().keys().map(|name| &**name).collect::<Vec<_>>(), ["r7"]);
        assert_eq!(client.stream.held_count(), 9);
        assert!(tries <= 3 || !message.contains("r7"), "a name in the words shortens the search");
    }
}

#[test]
fn rule_20_no_name_stands_twice_in_a_response() {
    let mut client = clusters("a@1=x b@1");
    client.delta(&subscribe(&["*", "a", "a", "x", "x"]));
    assert_eq!(client.all(), ["+a@1 +b@1"]);
}

#[test]
fn rule_23_an_empty_first_request_for_clusters_means_all() {
    let mut client = clusters("a@1 b@1");
    client.delta(&subscribe(&[]));
    assert_eq!(client.all(), ["+a@1 +b@1"]);
}

#[test]
fn rule_25_an_empty_first_request_for_endpoints_means_nothing() {
    for kind in [
        ResourceType::Endpoints,
        ResourceType::RouteConfig,
        ResourceType::Secret,
        ResourceType::ExtensionConfig,
        ResourceType::Runtime,
    ] {
        let mut client = Client::new(kind, Variant::Delta, "a@1");
        client.delta(&subscribe(&[]));
        assert_eq!(client.all(), [""], "{kind}");
    }
}

#[test]
fn virtual_hosts_are_pushed_unasked() {
    let mut client = Client::new(ResourceType::VirtualHost, Variant::Delta, "edge/i-1@1");
    client.delta(&subscribe(&[]));
    assert_eq!(client.all().len(), 1);
}

#[test]
fn rule_28_and_38_a_missing_name_is_told_once_and_stays_watched() {
    let mut client = Client::new(ResourceType::Secret, Variant::Delta, "");
    client.delta(&subscribe(&["a"]));
    assert_eq!(client.all(), ["-a"]);
    client.world("a@1");
    assert_eq!(client.all(), ["+a@1"]);
    client.world("");
    assert_eq!(client.all(), ["-a"]);
    client.world("a@1");
    assert_eq!(client.all(), ["+a@1"]);
}

#[test]
fn rule_29_growing_sets_of_names_are_answered_as_they_come() {
    let mut client = endpoints("a@1 b@1 c@1");
    client.delta(&subscribe(&["a"]));
    client.delta(&subscribe(&["b"]));
    assert_eq!(client.sent().unwrap(), "+a@1 +b@1");
    client.delta(&subscribe(&["c"]));
    assert_eq!(client.sent(), None, "one is under way");
    client.delta(&answer("1", None));
    assert_eq!(client.all(), ["+c@1"]);
}

#[test]
fn rule_31_subscriptions_count_in_stale_requests_and_in_refusals() {
    let mut client = endpoints("a@1 b@1 c@1");
    client.delta(&subscribe(&["a"]));
    client.sent();
    client.delta(&DeltaRequest { nonce: "99", ..subscribe(&["b"]) });
    assert_eq!(client.sent(), None, "the stale one is no answer");
    client.delta(&DeltaRequest { subscribe: vec!["c"], ..answer("1", Some("no")) });
    assert_eq!(client.all(), ["+b@1 +c@1"]);
}

#[test]
fn rule_32_a_name_that_is_subscribed_to_again_is_sent_again() {
    let mut client = endpoints("a@1");
    client.delta(&subscribe(&["a"]));
    client.all();
    client.delta(&subscribe(&["a"]));
    assert_eq!(client.all(), ["+a@1"]);
}

#[test]
fn rule_33_naming_nothing_changes_nothing_later() {
    let mut client = endpoints("a@1 b@1");
    client.delta(&subscribe(&["a"]));
    client.all();
    client.delta(&subscribe(&[]));
    client.world("a@2 b@2");
    assert_eq!(client.all(), ["+a@2"]);
}

#[test]
fn rule_34_a_name_beside_the_legacy_wildcard_keeps_both_until_the_star_is_dropped() {
    let mut client = clusters("a@1 b@1");
    client.delta(&subscribe(&[]));
    client.all();
    client.delta(&subscribe(&["a"]));
    client.world("a@2 b@2");
    assert_eq!(client.all(), ["+a@2 +b@2"]);
    client.delta(&unsubscribe(&["*"]));
    client.world("a@3 b@3");
    assert_eq!(client.all(), ["+a@3"]);
}

#[test]
fn rule_35_both_with_a_star_in_one_message_is_a_subscription_to_nothing() {
    let mut client = clusters("a@1");
    client.delta(&DeltaRequest { unsubscribe: vec!["*"], ..subscribe(&["*"]) });
    assert_eq!(client.all(), [""]);
    client.world("a@2 b@1");
    assert_eq!(client.all(), Vec::<String>::new());
    // On demand, from now on.
    client.delta(&subscribe(&["b"]));
    assert_eq!(client.all(), ["+b@1"]);
}

#[test]
fn rule_36_giving_up_an_unknown_name_is_ignored_and_a_known_one_needs_no_answer() {
    let mut client = endpoints("a@1");
    client.delta(&subscribe(&["a"]));
    client.all();
    client.delta(&unsubscribe(&["never"]));
    client.delta(&unsubscribe(&["a"]));
    client.world("a@2");
    assert_eq!(client.all(), Vec::<String>::new());
}

#[test]
fn rule_37_a_name_given_up_under_a_wildcard_is_told_as_it_is() {
    let mut client = clusters("a@1");
    client.delta(&subscribe(&["*", "a", "gone"]));
    client.all();
    client.delta(&unsubscribe(&["a"]));
    assert_eq!(client.all(), ["+a@1"]);
    client.delta(&unsubscribe(&["gone"]));
    assert_eq!(client.all(), ["-gone"]);
}

#[test]
fn rule_39_what_is_deleted_is_told() {
    let mut client = clusters("a@1 b@1");
    client.delta(&subscribe(&["*"]));
    client.all();
    client.world("b@2");
    assert_eq!(client.all(), ["-a +b@2"]);
    assert_eq!(client.stream.strays().count(), 0);
}

#[test]
fn rule_40_a_client_that_comes_back_gets_only_the_difference() {
    let mut client = clusters("a@1 b@2");
    client.delta(&DeltaRequest { brought: vec![("a", "1"), ("b", "1"), ("gone", "1")], ..subscribe(&[]) });
    assert_eq!(client.all(), ["+b@2 -gone"]);

    // For a type with names; what it brings along it does not thereby ask for.
    let mut client = endpoints("a@1 b@2 c@1");
    let brought = vec![("a", "1"), ("b", "1"), ("c", "0"), ("gone", "1")];
    client.delta(&DeltaRequest { brought, ..subscribe(&["a", "b"]) });
    assert_eq!(client.all(), ["+b@2 -gone"]);
    client.world("a@1 b@2 c@2");
    assert_eq!(client.all(), Vec::<String>::new());
}

#[test]
fn rule_40_holds_for_thousands_of_names() {
    let world = World::many(3_000);
    let names = world.names();
    let mut client = endpoints("");
    client.stream.update(world.clone(), None);
    let mut brought: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
    brought[7].1 = "0";
    brought.push(("gone", "1"));
    client.delta(&DeltaRequest { brought, ..subscribe(&names) });
    assert_eq!(client.all(), ["-gone +r00007@1"]);
    assert_eq!(client.stream.differences(), 0);
}

#[test]
fn rule_41_the_first_request_is_answered_even_with_nothing() {
    let mut client = clusters("a@1");
    client.delta(&DeltaRequest { brought: vec![("a", "1")], ..subscribe(&[]) });
    assert_eq!(client.all(), [""]);
}

#[test]
fn rule_45_a_resource_is_found_by_its_other_name() {
    let mut client = Client::new(ResourceType::Endpoints, Variant::Delta, "");
    client.world("edge-a@1=a.test edge-b@1=b.test");
    client.delta(&subscribe(&["a.test", "c.test"]));
    assert_eq!(client.all(), ["+edge-a@1 -c.test"]);
    client.world("edge-a@2=a.test edge-b@2=b.test edge-c@1=c.test");
    assert_eq!(client.all(), ["+edge-a@2 +edge-c@1"]);
    client.delta(&unsubscribe(&["a.test"]));
    client.world("edge-a@3=a.test edge-b@3=b.test edge-c@2=c.test");
    assert_eq!(client.all(), ["+edge-c@2"]);
}

#[test]
fn what_the_gate_closes_is_sent_when_it_opens() {
    let mut client = clusters("a@1 b@1");
    client.delta(&subscribe(&[]));
    let closed = |change: &Change<Thing>| if *change.name == *"a" { Gate::Closed } else { Gate::Open };
    let batch = client.stream.next(closed).unwrap();
    assert_eq!(shown(&batch.changes), "+b@1");
    client.delta(&answer("1", None));
    assert!(!client.stream.is_idle());
    assert_eq!(client.all(), ["+a@1"]);
    assert!(client.stream.is_idle());
}

#[test]
fn who_comes_back_with_everything_is_known_by_it_in_any_order() {
    let names: Vec<String> = (0..200).map(|at| format!("n{at}")).collect();
    let world = names.iter().map(|name| format!("{name}@1")).collect::<Vec<_>>().join(" ");
    let all: Vec<&str> = names.iter().rev().map(String::as_str).collect();
    let brought = |but: &'static str| {
        let version = move |name: &&'_ str| if *name == but { "0" } else { "1" };
        all.iter().map(|name| (*name, version(name))).collect::<Vec<_>>()
    };
    for (subscribe, kind) in [
        (Vec::new(), ResourceType::Cluster),
        (vec!["*"], ResourceType::Cluster),
        (all.clone(), ResourceType::Endpoints),
    ] {
        let mut client = Client::new(kind, Variant::Delta, &world);
        client.delta(&DeltaRequest {
            subscribe: subscribe.clone(),
            brought: brought(""),
            ..DeltaRequest::default()
        });
        assert_eq!((client.all(), client.stream.differences()), (vec![String::new()], 0), "{kind}");
        // It follows like any other.
        client.world(&world.replace("n7@1", "n7@2"));
        assert_eq!(client.all(), ["+n7@2"]);
        let mut client = Client::new(kind, Variant::Delta, &world);
        client.delta(&DeltaRequest { subscribe, brought: brought("n9"), ..DeltaRequest::default() });
        assert_eq!(client.all(), ["+n9@1"], "{kind}");
    }
    // One more than there is, which lingered when the stream ended; and one that came since.
    for (kind, is_named) in [(ResourceType::Cluster, false), (ResourceType::Endpoints, true)] {
        let more = [&all[..], &["gone"]].concat();
        let brought = more.iter().map(|name| (*name, "1")).collect::<Vec<_>>();
        let subscribe = if is_named { more.clone() } else { Vec::new() };
        let request = DeltaRequest { subscribe, brought, ..DeltaRequest::default() };
        let mut client = Client::new(kind, Variant::Delta, &world);
        client.delta(&request);
        assert_eq!(client.all(), ["-gone"], "{kind}");
        let mut client = Client::new(kind, Variant::Delta, &format!("{world} new@1"));
        client.delta(&request);
        assert_eq!(client.all(), [if is_named { "-gone" } else { "-gone +new@1" }], "{kind}");
    }
    // As many, and one of them twice.
    let mut client = Client::new(ResourceType::Endpoints, Variant::Delta, &world);
    let mut subscribe = all.clone();
    subscribe[0] = "n5";
    client.delta(&DeltaRequest { subscribe, brought: brought(""), ..DeltaRequest::default() });
    client.all();
    client.world(&world.replace("n199@1", "n199@2"));
    assert_eq!(client.all(), [""; 0], "what is not named is not sent");
}

#[test]
fn what_waits_for_its_time_is_not_asked_about_until_then() {
    let mut client = clusters("a@1 b@1");
    client.delta(&subscribe(&[]));
    assert_eq!(client.all(), ["+a@1 +b@1"]);
    client.world("b@1");
    assert!(client.stream.next(|_| Gate::Later).is_none());
    assert!(client.stream.is_quiet() && !client.stream.is_idle());
    assert!(client.stream.next(|_| panic!("nothing is asked about")).is_none());
    client.stream.recall(&"a".into());
    assert_eq!(client.all(), ["-a"]);
    assert!(client.stream.is_idle());
    // What is wanted again meanwhile stays, and goes like anything else when it is changed.
    client.world("");
    assert!(client.stream.next(|_| Gate::Later).is_none());
    client.world("b@1");
    assert!(!client.stream.is_parked(&"b".into()));
    assert_eq!(client.all(), [""; 0]);
    client.world("b@2");
    assert_eq!(client.all(), ["+b@2"]);
}

#[test]
fn a_first_request_is_not_answered_with_nothing_while_there_is_something_to_come() {
    let mut client = Client::new(ResourceType::Listener, Variant::Delta, "a@1");
    client.delta(&subscribe(&[]));
    assert!(client.stream.next(|_| Gate::Closed).is_none());
    assert_eq!(client.all(), ["+a@1"]);
    // But what is only to be removed keeps nobody waiting.
    let mut client = clusters("");
    client.delta(&DeltaRequest { brought: vec![("gone", "1")], ..subscribe(&[]) });
    assert!(client.stream.next(|_| Gate::Closed).unwrap().changes.is_empty());
}

#[test]
fn large_resources_travel_alone() {
    let mut client = clusters("big1@1 big2@1 small@1");
    client.delta(&subscribe(&["*"]));
    assert_eq!(client.all(), ["+big1@1", "+big2@1 +small@1"]);
}

#[test]
fn what_is_in_flight_can_be_sent_once_more() {
    let mut client = endpoints("a@1");
    client.delta(&subscribe(&["a"]));
    client.sent();
    client.stream.resend(&"a".into());
    client.delta(&answer("1", None));
    assert_eq!(client.all(), ["+a@1"]);
}

#[test]
fn what_changed_while_it_was_under_way_follows() {
    let mut client = clusters("a@1");
    client.delta(&subscribe(&[]));
    client.sent();
    client.world("a@2");
    assert_eq!(client.sent(), None);
    client.delta(&answer("1", None));
    assert_eq!(client.stream.held("a").unwrap().as_ref(), "1");
    assert_eq!(client.all(), ["+a@2"]);
}

#[test]
fn names_of_nothing_are_bounded_and_those_of_something_are_not() {
    let made_up: Vec<_> = (0..MAX_NAMES + 5).map(|at| format!("n{at}")).collect();
    let names: Vec<_> = made_up.iter().map(String::as_str).collect();
    let mut client = Client::new(ResourceType::Secret, Variant::Delta, "real@1");
    client.delta(&subscribe(&names));
    client.delta(&subscribe(&names));
    client.delta(&subscribe(&["real"]));
    assert!(client.stream.differences() <= MAX_NAMES + 1);
    assert!(client.stream.wants("real"));
}

#[test]
fn many_resources_travel_in_bounded_responses() {
    let mut client = clusters("");
    client.stream.update(World::many(2 * MAX_CHANGES + 1), None);
    client.delta(&subscribe(&[]));
    let sizes: Vec<_> = client.all().iter().map(|text| text.split(' ').count()).collect();
    assert_eq!(sizes, [MAX_CHANGES, MAX_CHANGES, 1]);
}
