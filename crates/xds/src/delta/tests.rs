//! A client, as a sequence of requests, and what it is sent.

use std::collections::BTreeMap;

use envoy_types::pb::google::rpc::Status;

use super::*;

#[derive(Default, Clone)]
struct World(BTreeMap<String, Version>);

impl World {
    fn of(resources: &[(&str, &str)]) -> Self {
        Self(resources.iter().map(|(name, version)| ((*name).to_owned(), (*version).into())).collect())
    }
}

impl Desired for World {
    fn version(&self, name: &str) -> Option<Version> {
        self.0.get(name).cloned()
    }
    fn bytes(&self, name: &str) -> usize {
        if name.starts_with("big") { MAX_BATCH_BYTES / 2 + 1 } else { 1_000 }
    }
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    let names = names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest { resource_names_subscribe: names, ..Default::default() }
}

fn reply(nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
    let error_detail = error.map(|message| Status { message: message.into(), ..Default::default() });
    DeltaDiscoveryRequest { response_nonce: nonce.into(), error_detail, ..Default::default() }
}

fn open(_: &Change) -> Gate {
    Gate::Open
}

/// The next response as text: `+name@version`, `-name`.
fn sent(stream: &mut TypeStream, world: &World) -> Option<(String, String)> {
    stream.next(world, open).map(|batch| (batch.nonce, shown(&batch.changes)))
}

fn shown(changes: &[Change]) -> String {
    let one = |change: &Change| match &change.version {
        Some(version) => format!("+{}@{version}", change.name),
        None => format!("-{}", change.name),
    };
    changes.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn accept(stream: &mut TypeStream, world: &World) -> String {
    let (nonce, text) = sent(stream, world).expect("a response");
    stream.receive(&reply(&nonce, None), false, world);
    text
}

#[test]
fn an_empty_first_request_for_clusters_means_all() {
    let world = World::of(&[("a", "1"), ("b", "1")]);
    let mut stream = TypeStream::new(ResourceType::Cluster);
    stream.receive(&subscribe(&[]), true, &world);
    assert_eq!(accept(&mut stream, &world), "+a@1 +b@1");
    assert_eq!(sent(&mut stream, &world), None);
}

#[test]
fn an_empty_first_request_for_endpoints_means_nothing_and_is_answered() {
    let world = World::of(&[("a", "1")]);
    let mut stream = TypeStream::new(ResourceType::Endpoints);
    stream.receive(&subscribe(&[]), true, &world);
    assert_eq!(accept(&mut stream, &world), "");
}

#[test]
fn only_what_changed_is_sent() {
    let mut world = World::of(&[("a", "1"), ("b", "1")]);
    let mut stream = TypeStream::new(ResourceType::Cluster);
    stream.receive(&subscribe(&["*"]), true, &world);
    accept(&mut stream, &world);
    world.0.insert("b".into(), "2".into());
    world.0.remove("a");
    stream.touch("a");
    stream.touch("b");
    assert_eq!(accept(&mut stream, &world), "-a +b@2");
}

#[test]
fn a_client_that_comes_back_gets_only_the_difference() {
    let world = World::of(&[("a", "1"), ("b", "2")]);
    let mut stream = TypeStream::new(ResourceType::Cluster);
    let mut request = subscribe(&[]);
    request.initial_resource_versions =
        HashMap::from([("a".into(), "1".into()), ("b".into(), "1".into()), ("gone".into(), "1".into())]);
    stream.receive(&request, true, &world);
    assert_eq!(accept(&mut stream, &world), "+b@2 -gone");
}

#[test]
fn a_missing_name_is_told_once_and_stays_watched() {
    let mut world = World::default();
    let mut stream = TypeStream::new(ResourceType::Secret);
    stream.receive(&subscribe(&["a"]), true, &world);
    assert_eq!(accept(&mut stream, &world), "-a");
    assert_eq!(sent(&mut stream, &world), None);
    world.0.insert("a".into(), "1".into());
    stream.touch("a");
    assert_eq!(accept(&mut stream, &world), "+a@1");
}

#[test]
fn a_name_that_is_subscribed_to_again_is_sent_again() {
    let world = World::of(&[("a", "1")]);
    let mut stream = TypeStream::new(ResourceType::Endpoints);
    stream.receive(&subscribe(&["a"]), true, &world);
    accept(&mut stream, &world);
    stream.receive(&subscribe(&["a"]), false, &world);
    assert_eq!(accept(&mut stream, &world), "+a@1");
}

#[test]
fn an_unsubscribed_name_is_not_sent() {
    let mut world = World::of(&[("a", "1")]);
    let mut stream = TypeStream::new(ResourceType::Endpoints);
    stream.receive(&subscribe(&["a"]), true, &world);
    accept(&mut stream, &world);
    let request =
        DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["a".into()], ..Default::default() };
    stream.receive(&request, false, &world);
    world.0.insert("a".into(), "2".into());
    stream.touch("a");
    assert_eq!(sent(&mut stream, &world), None);
}

#[test]
fn virtual_hosts_are_pushed_unasked() {
    let mut world = World::of(&[("edge/i-1", "1")]);
    let mut stream = TypeStream::new(ResourceType::VirtualHost);
    stream.receive(&subscribe(&[]), true, &world);
    assert_eq!(accept(&mut stream, &world), "+edge/i-1@1");
    world.0.insert("edge/i-3".into(), "1".into());
    stream.touch("edge/i-3");
    assert_eq!(accept(&mut stream, &world), "+edge/i-3@1");
}

#[test]
fn a_stale_nonce_settles_nothing_but_its_subscriptions_count() {
    let world = World::of(&[("a", "1"), ("b", "1")]);
    let mut stream = TypeStream::new(ResourceType::Endpoints);
    stream.receive(&subscribe(&["a"]), true, &world);
    let (nonce, _) = sent(&mut stream, &world).unwrap();
    let mut stale = reply("99", None);
    stale.resource_names_subscribe = vec!["b".into()];
    assert_eq!(stream.receive(&stale, false, &world), Received::Subscription);
    assert!(stream.in_flight.is_some());
    stream.receive(&reply(&nonce, None), false, &world);
    assert_eq!(accept(&mut stream, &world), "+b@1");
}

#[test]
fn refused_content_is_not_sent_again_until_it_changes() {
    let mut world = World::of(&[("a", "1")]);
    let mut stream = TypeStream::new(ResourceType::Cluster);
    stream.receive(&subscribe(&[]), true, &world);
    let (nonce, _) = sent(&mut stream, &world).unwrap();
    let nack = stream.receive(&reply(&nonce, Some("bad a")), false, &world);
    assert!(matches!(nack, Received::Nack { message, .. } if message == "bad a"));
    stream.touch_all(&world);
    assert_eq!(sent(&mut stream, &world), None);
    assert_eq!(stream.refused()["a"].message, "bad a");
    world.0.insert("a".into(), "2".into());
    stream.touch("a");
    assert_eq!(accept(&mut stream, &world), "+a@2");
    assert!(stream.refused().is_empty());
}

#[test]
fn the_bad_one_of_many_is_found_and_the_good_ones_arrive() {
    let names: Vec<_> = (0..10).map(|at| format!("r{at}")).collect();
    let world = World(names.iter().map(|name| (name.clone(), "1".into())).collect());
    let mut stream = TypeStream::new(ResourceType::Cluster);
    stream.receive(&subscribe(&[]), true, &world);
    let mut tries = 0;
    while let Some((nonce, text)) = sent(&mut stream, &world) {
        tries += 1;
        let error = text.contains("+r7@").then_some("r7 is bad");
        stream.receive(&reply(&nonce, error), false, &world);
        assert!(tries <= 10, "the search must end");
    }
    assert_eq!(stream.refused().keys().collect::<Vec<_>>(), ["r7"]);
    assert_eq!(stream.all_held().len(), 9);
}

#[test]
fn what_the_gate_closes_is_sent_when_it_opens() {
    let world = World::of(&[("a", "1"), ("b", "1")]);
    let mut stream = TypeStream::new(ResourceType::Cluster);
    stream.receive(&subscribe(&[]), true, &world);
    let batch =
        stream.next(&world, |change| if change.name == "a" { Gate::Closed } else { Gate::Open }).unwrap();
    assert_eq!(shown(&batch.changes), "+b@1");
    stream.receive(&reply(&batch.nonce, None), false, &world);
    assert_eq!(accept(&mut stream, &world), "+a@1");
}

#[test]
fn large_resources_travel_alone() {
    let world = World::of(&[("big1", "1"), ("big2", "1"), ("small", "1")]);
    let mut stream = TypeStream::new(ResourceType::AuthzPolicy);
    stream.receive(&subscribe(&["*"]), true, &world);
    assert_eq!(accept(&mut stream, &world), "+big1@1 +small@1");
    assert_eq!(accept(&mut stream, &world), "+big2@1");
}

#[test]
fn what_is_in_flight_can_be_sent_once_more() {
    let world = World::of(&[("a", "1")]);
    let mut stream = TypeStream::new(ResourceType::Endpoints);
    stream.receive(&subscribe(&["a"]), true, &world);
    let (nonce, _) = sent(&mut stream, &world).unwrap();
    stream.resend("a");
    stream.receive(&reply(&nonce, None), false, &world);
    assert_eq!(accept(&mut stream, &world), "+a@1");
    assert_eq!(sent(&mut stream, &world), None);
}

#[test]
fn names_of_nothing_are_bounded_and_those_of_something_are_not() {
    let world = World::of(&[("real", "1")]);
    let mut stream = TypeStream::new(ResourceType::Secret);
    let made_up: Vec<_> = (0..MAX_NAMES + 5).map(|at| format!("n{at}")).collect();
    let names = made_up.iter().map(String::as_str).collect::<Vec<_>>();
    stream.receive(&subscribe(&names), true, &world);
    stream.receive(&subscribe(&["real"]), false, &world);
    assert_eq!(stream.names.len(), MAX_NAMES + 1);
    assert!(stream.wants("real"));
}

#[test]
fn many_resources_travel_in_bounded_responses() {
    let names = (0..=(2 * MAX_CHANGES)).map(|at| (format!("r{at:05}"), "1".into()));
    let world = World(names.collect());
    let mut stream = TypeStream::new(ResourceType::Cluster);
    stream.receive(&subscribe(&[]), true, &world);
    let mut sizes = Vec::new();
    while let Some(batch) = stream.next(&world, open) {
        sizes.push(batch.changes.len());
        stream.receive(&reply(&batch.nonce, None), false, &world);
    }
    assert_eq!(sizes, [MAX_CHANGES, MAX_CHANGES, 1]);
}
