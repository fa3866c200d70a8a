//! The state-of-the-world variant.

use super::*;

fn client(kind: ResourceType, world: &str) -> Client {
    Client::new(kind, Variant::Sotw, world)
}

fn names<'a>(names: &[&'a str]) -> SotwRequest<'a> {
    SotwRequest { names: names.to_vec(), ..SotwRequest::default() }
}

impl Client {
    /// The next response: its resources. For types that carry the whole set these are all.
    fn response(&mut self) -> Option<String> {
        let batch = self.stream.next(|_| Gate::Open)?;
        self.nonce = batch.nonce;
        let items: Vec<Thing> = if self.stream.kind.is_full_set() {
            match self.stream.full_set() {
                FullSet::Desired => self.stream.desired.iter().cloned().collect(),
                FullSet::These(items) => items,
            }
        } else {
            batch.changes.into_iter().map(|change| change.item.unwrap()).collect()
        };
        Some(items.iter().map(|item| format!("{}@{}", item.name, item.version)).collect::<Vec<_>>().join(" "))
    }

    /// Accepts the response under way, naming these.
    fn accept(&mut self, list: &[&str]) -> Received<Thing> {
        let nonce = self.nonce.to_string();
        self.sotw(&SotwRequest { nonce: &nonce, ..names(list) })
    }

    fn refuse(&mut self, list: &[&str], message: &str) {
        let nonce = self.nonce.to_string();
        self.sotw(&SotwRequest { nonce: &nonce, error: Some(message.into()), ..names(list) });
    }

    /// The next response, accepted.
    fn taken(&mut self, list: &[&str]) -> Option<String> {
        let text = self.response()?;
        self.accept(list);
        Some(text)
    }
}

#[test]
fn rule_08_a_first_request_says_what_the_last_stream_accepted_and_its_nonce_means_nothing() {
    let mut clusters = client(ResourceType::Cluster, "a@1");
    clusters.sotw(&SotwRequest { version: "old", nonce: "17", ..names(&[]) });
    assert_eq!(clusters.taken(&[]).unwrap(), "a@1");
}

#[test]
fn rule_09_a_stale_request_is_not_answered() {
    let mut endpoints = client(ResourceType::Endpoints, "a@1 b@1");
    endpoints.sotw(&names(&["a"]));
    endpoints.taken(&["a"]);
    endpoints.world("a@2 b@1");
    endpoints.response();
    // Written before it had the second response.
    endpoints.sotw(&SotwRequest { nonce: "1", ..names(&["a", "b"]) });
    assert_eq!(endpoints.response(), None);
    endpoints.nonce = 2;
    endpoints.accept(&["a", "b"]);
    assert_eq!(endpoints.taken(&["a", "b"]).unwrap(), "b@1");
}

#[test]
fn rule_10_an_acknowledgement_has_the_nonce_and_no_error() {
    let mut clusters = client(ResourceType::Cluster, "a@1");
    clusters.sotw(&names(&[]));
    clusters.response();
    assert!(matches!(clusters.accept(&[]), Received::Ack));
    assert!(clusters.stream.is_idle());
}

#[test]
fn rule_11_a_refusal_is_told_by_its_error_whatever_the_version() {
    let mut clusters = client(ResourceType::Cluster, "a@1");
    clusters.sotw(&names(&[]));
    clusters.response();
    let version = clusters.stream.desired.version();
    let nacked = clusters.sotw(&SotwRequest {
        nonce: "1",
        version: &version,
        error: Some("bad".into()),
        ..names(&[])
    });
    assert!(matches!(nacked, Received::Nack { .. }));
}

#[test]
fn rule_13_a_refused_set_goes_out_again_without_what_was_refused() {
    let mut clusters = client(ResourceType::Cluster, "a@1 b@1 c@1");
    clusters.sotw(&names(&[]));
    clusters.taken(&[]);
    clusters.world("a@2 b@2 c@2 d@2");
    assert_eq!(clusters.response().unwrap(), "a@2 b@2 c@2 d@2");
    clusters.refuse(&[], "Error adding/updating cluster(s) b: no");
    // The others first; b stays what it was.
    assert_eq!(clusters.taken(&[]).unwrap(), "a@2 b@1 c@2 d@2");
    assert_eq!(clusters.response().unwrap(), "a@2 b@2 c@2 d@2");
    clusters.refuse(&[], "Error adding/updating cluster(s) b: no");
    assert_eq!(clusters.response(), None, "pinned, and not sent again");
    assert_eq!(clusters.stream.held("b").unwrap().as_ref(), "1");
    clusters.world("a@3 b@2 c@2 d@2");
    assert_eq!(clusters.taken(&[]).unwrap(), "a@3 b@1 c@2 d@2");
    clusters.world("a@3 b@3 c@2 d@2");
    assert_eq!(clusters.taken(&[]).unwrap(), "a@3 b@3 c@2 d@2");
}

#[test]
fn rule_15_only_a_change_a_new_name_or_a_first_request_is_answered() {
    let mut routes = client(ResourceType::RouteConfig, "a@1 b@1");
    routes.sotw(&names(&["a"]));
    assert_eq!(routes.taken(&["a"]).unwrap(), "a@1");
    routes.accept(&["a"]);
    assert_eq!(routes.response(), None);
    routes.world("a@1 b@2");
    assert_eq!(routes.response(), None, "b is not its business");
    routes.accept(&["a", "b"]);
    assert_eq!(routes.taken(&["a", "b"]).unwrap(), "b@2");
}

#[test]
fn rule_16_a_current_version_is_silent_only_for_a_wildcard() {
    let mut clusters = client(ResourceType::Cluster, "a@1 b@1");
    let version = clusters.stream.desired.version();
    clusters.sotw(&SotwRequest { version: &version, ..names(&[]) });
    assert_eq!(clusters.response(), None);
    clusters.world("a@1 b@2");
    assert_eq!(clusters.response().unwrap(), "a@1 b@2");
    for (kind, list) in [(ResourceType::Endpoints, ["a"]), (ResourceType::Cluster, ["a"])] {
        let mut named = client(kind, "a@1 b@1");
        let version = named.stream.desired.version();
        named.sotw(&SotwRequest { version: &version, ..names(&list) });
        assert_eq!(named.response().unwrap(), "a@1", "{kind}");
    }
}

#[test]
fn rule_17_only_the_newest_request_is_answered() {
    let mut endpoints = client(ResourceType::Endpoints, "a@1 b@1 c@1");
    endpoints.sotw(&names(&["a"]));
    endpoints.sotw(&names(&["a", "b"]));
    endpoints.sotw(&names(&["b", "c"]));
    assert_eq!(endpoints.taken(&["b", "c"]).unwrap(), "b@1 c@1");
    assert_eq!(endpoints.response(), None);
}

#[test]
fn rule_18_endpoints_that_are_asked_for_again_in_the_same_words_are_sent_again() {
    let mut endpoints = client(ResourceType::Endpoints, "a@1 b@1");
    endpoints.sotw(&names(&["a", "b"]));
    endpoints.taken(&["a", "b"]);
    assert_eq!(endpoints.response(), None);
    endpoints.accept(&["a", "b"]);
    assert_eq!(endpoints.taken(&["a", "b"]).unwrap(), "a@1 b@1");
    assert_eq!(endpoints.response(), None);
}

#[test]
fn rule_22_the_list_is_the_subscription() {
    let mut endpoints = client(ResourceType::Endpoints, "a@1 b@1");
    endpoints.sotw(&names(&["a"]));
    endpoints.taken(&["a", "b"]);
    assert_eq!(endpoints.taken(&["a", "b"]).unwrap(), "b@1", "a new name is sent though nothing changed");
    endpoints.accept(&["b"]);
    endpoints.world("a@2 b@2");
    assert_eq!(endpoints.taken(&["b"]).unwrap(), "b@2");
    endpoints.accept(&["a", "b"]);
    assert_eq!(endpoints.taken(&["a", "b"]).unwrap(), "a@2");
}

#[test]
fn rule_23_empty_lists_mean_all_until_something_was_named() {
    let mut listeners = client(ResourceType::Listener, "a@1 b@1");
    listeners.sotw(&names(&[]));
    assert_eq!(listeners.taken(&[]).unwrap(), "a@1 b@1");
    listeners.world("a@1 b@2");
    assert_eq!(listeners.taken(&[]).unwrap(), "a@1 b@2");
}

#[test]
fn rule_24_a_star_and_names_and_then_nothing() {
    let mut clusters = client(ResourceType::Cluster, "a@1 b@1");
    clusters.sotw(&names(&["*"]));
    assert_eq!(clusters.taken(&["*", "a"]).unwrap(), "a@1 b@1");
    clusters.taken(&["*", "a"]);
    clusters.world("a@2 b@2");
    assert_eq!(clusters.taken(&["a"]).unwrap(), "a@2 b@2");
    clusters.world("a@3 b@3");
    assert_eq!(clusters.taken(&["a"]).unwrap(), "a@3", "the wildcard is dropped");
    clusters.accept(&[]);
    clusters.world("a@4 b@4");
    assert_eq!(clusters.response(), None, "and nothing is no longer everything");
}

#[test]
fn rule_25_an_empty_list_of_endpoints_is_nothing() {
    let mut endpoints = client(ResourceType::Endpoints, "a@1");
    endpoints.sotw(&names(&[]));
    assert_eq!(endpoints.response(), None);
}

#[test]
fn rule_26_a_response_for_clusters_is_the_whole_set() {
    let mut clusters = client(ResourceType::Cluster, "a@1 b@1");
    clusters.sotw(&names(&[]));
    clusters.taken(&[]);
    clusters.world("b@1");
    assert_eq!(clusters.taken(&[]).unwrap(), "b@1");
    clusters.world("");
    assert_eq!(clusters.taken(&[]).unwrap(), "");
}

#[test]
fn a_removal_that_has_to_wait_keeps_the_resource_in_the_set() {
    let mut clusters = client(ResourceType::Cluster, "a@1 b@1");
    clusters.sotw(&names(&[]));
    clusters.taken(&[]);
    clusters.world("b@2");
    let no_removals = |change: &Change<Thing>| if change.item.is_some() { Gate::Open } else { Gate::Closed };
    assert!(clusters.stream.next(no_removals).is_some());
    assert!(matches!(clusters.stream.full_set(), FullSet::These(items) if items.len() == 2));
}

#[test]
fn rule_27_of_other_types_a_part_is_sent_and_a_removal_is_silent() {
    let mut endpoints = client(ResourceType::Endpoints, "a@1 b@1");
    endpoints.sotw(&names(&["a", "b"]));
    endpoints.taken(&["a", "b"]);
    endpoints.world("a@2 b@1");
    assert_eq!(endpoints.taken(&["a", "b"]).unwrap(), "a@2");
    endpoints.world("b@1");
    assert_eq!(endpoints.response(), None);
    endpoints.world("a@2 b@1");
    assert_eq!(endpoints.taken(&["a", "b"]).unwrap(), "a@2", "what came back is sent");
}

#[test]
fn rule_28_a_missing_name_is_sent_when_it_comes() {
    let mut routes = client(ResourceType::RouteConfig, "");
    routes.sotw(&names(&["a"]));
    assert_eq!(routes.response(), None);
    routes.world("a@1");
    assert_eq!(routes.taken(&["a"]).unwrap(), "a@1");
}

#[test]
fn a_named_listener_that_does_not_exist_is_told_by_an_empty_set() {
    let mut listeners = client(ResourceType::Listener, "a@1");
    listeners.sotw(&names(&["b"]));
    assert_eq!(listeners.taken(&["b"]).unwrap(), "");
    listeners.world("a@1 b@1");
    assert_eq!(listeners.taken(&["b"]).unwrap(), "b@1");
}

#[test]
fn rule_29_growing_lists_are_answered_as_they_come() {
    let world = World::many(3_000);
    let all = world.names();
    let mut endpoints = client(ResourceType::Endpoints, "");
    endpoints.stream.update(world.clone(), None);
    let mut got = 0;
    for upto in [1_000, 2_000, 3_000] {
        let nonce = if endpoints.nonce == 0 { String::new() } else { endpoints.nonce.to_string() };
        endpoints.sotw(&SotwRequest { nonce: &nonce, ..names(&all[..upto]) });
        while let Some(text) = endpoints.response() {
            got += text.split(' ').count();
            endpoints.accept(&all[..upto]);
        }
    }
    assert_eq!((got, endpoints.stream.differences()), (3_000, 0));
}
