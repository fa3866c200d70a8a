//! A node's streams, and what each is sent. Numbers are those of the conformance list in `docs/xds-conformance.md`.

use std::collections::BTreeMap;

use model::InstanceId;
use resources::{Bundle, Key, Resource};

use super::*;
use crate::{Limits, Metrics, hub::Entered};

const SIDECARS: [Role; 1] = [Role::Authz];

/// A hub with one group, and the snapshot that it serves.
struct World {
    hub: Arc<Hub>,
    group: Group,
    snapshot: Arc<Snapshot>,
}

fn resource(kind: ResourceType, name: &str, version: &str, owner: Option<&str>) -> Arc<Resource> {
    let key = Key { kind, name: name.into() };
    let owner = owner.map(|owner| owner.parse().unwrap());
    Arc::new(Resource::new(key, owner, version.into(), vec![0; 10].into()))
}

/// What a service consists of: a cluster, its endpoints, a policy and a virtual host.
fn service(id: &str, rev: u64) -> (InstanceId, Option<Arc<Bundle>>) {
    let version = rev.to_string();
    let of = |kind, name: String| resource(kind, &name, &version, Some(id));
    let resources = vec![
        of(ResourceType::AuthzPolicy, format!("{id}@{rev}")),
        of(ResourceType::Cluster, format!("{id}/{rev}")),
        of(ResourceType::Endpoints, format!("{id}/{rev}")),
        of(ResourceType::VirtualHost, format!("edge/{id}")),
    ];
    (id.parse().unwrap(), Some(Arc::new(Bundle { rev, resources })))
}

impl World {
    fn new(sidecars: &[Role]) -> Self {
        let group = Group {
            name: "edge".into(),
            sidecars: sidecars.to_vec(),
            identities: Vec::new(),
            pollers: Vec::new(),
        };
        let hub = Hub::new(vec![group.clone()], "replica", Limits::default(), Metrics::default());
        let edge = [
            resource(ResourceType::Cluster, "gatehouse", "1", None),
            resource(ResourceType::Listener, "http", "1", None),
            resource(ResourceType::RouteConfig, "edge", "1", None),
            resource(ResourceType::VirtualHost, "edge/unknown", "1", None),
            resource(ResourceType::Secret, "a.test", "1", None),
        ];
        let services = BTreeMap::from([service("a", 1)]);
        let snapshot = Snapshot::default().next(Some(&edge), &services).unwrap().snapshot;
        Self { hub: Arc::new(hub), group, snapshot: Arc::new(snapshot) }
    }

    fn change(&mut self, services: [(InstanceId, Option<Arc<Bundle>>); 1]) {
        self.snapshot = Arc::new(self.snapshot.next(None, &BTreeMap::from(services)).unwrap().snapshot);
    }

    fn stream(&self, role: Role, variant: Variant) -> Stream {
        let Entered { node, stream: number, .. } = self.hub.enter("edge/i-1", "edge", role, String::new());
        let snapshot = self.snapshot.clone();
        let session = Session::new(self.hub.clone(), node, role, number, variant, &self.group, snapshot);
        Stream { session, variant, sent: Vec::new(), now: Instant::now() }
    }
}

/// A client's end.
struct Stream {
    session: Session,
    variant: Variant,
    /// Type and nonce of what it has not answered.
    sent: Vec<(ResourceType, u64)>,
    now: Instant,
}

impl Stream {
    fn ask(&mut self, kind: ResourceType, names: &[&str]) {
        let url = kind.url();
        let names = names.to_vec();
        match self.variant {
            Variant::Delta => self.session.receive(&DeltaRequest {
                type_url: url,
                subscribe: names,
                ..DeltaRequest::default()
            }),
            Variant::Sotw => {
                self.session.receive_sotw(&SotwRequest { type_url: url, names, ..SotwRequest::default() });
            }
        }
    }

    /// Lets the requests end that still have an old route.
    fn linger(&mut self) {
        assert_eq!(self.hear(), Vec::<String>::new(), "requests are under way");
        let end = self.now + gate::LINGER;
        assert!(self.session.deadline(self.now).is_some_and(|at| at <= end), "it looks again by itself");
        self.now = end;
    }

    /// What is sent now, as text.
    fn hear(&mut self) -> Vec<String> {
        let frames = self.session.responses(self.now);
        frames.iter().map(|frame| self.shown(frame)).collect()
    }

    fn shown(&mut self, frame: &Frame) -> String {
        let mut text = Vec::new();
        let kind = match frame {
            Frame::Delta(frame) => {
                self.sent.push((frame.kind, frame.nonce));
                for sent in &frame.resources {
                    text.push(match sent {
                        Sent::Whole(item) => format!("+{}", item.name()),
                        Sent::Heartbeat(item) => format!("~{}", item.name()),
                    });
                }
                text.extend(frame.removed.iter().map(|name| format!("-{name}")));
                frame.kind
            }
            Frame::Sotw(frame) => {
                self.sent.push((frame.kind, frame.nonce));
                frame.resources.for_each(|resource| text.push(resource.key.name.to_string()));
                frame.kind
            }
        };
        format!("{kind}: {}", text.join(" "))
    }

    /// Accepts what was sent of a type; state-of-the-world clients name what they want.
    fn accept(&mut self, kind: ResourceType, names: &[&str]) {
        let url = kind.url();
        let (accepted, rest) =
            std::mem::take(&mut self.sent).into_iter().partition(|(sent, _)| *sent == kind);
        self.sent = rest;
        let accepted: Vec<(ResourceType, u64)> = accepted;
        for (_, nonce) in accepted {
            let nonce = nonce.to_string();
            match self.variant {
                Variant::Delta => self.session.receive(&DeltaRequest {
                    type_url: url,
                    nonce: &nonce,
                    ..DeltaRequest::default()
                }),
                Variant::Sotw => self.session.receive_sotw(&SotwRequest {
                    type_url: url,
                    nonce: &nonce,
                    names: names.to_vec(),
                    ..SotwRequest::default()
                }),
            }
        }
    }

    /// Everything that comes, accepted at once.
    fn follow(&mut self) -> Vec<String> {
        let mut heard = Vec::new();
        for _ in 0..100 {
            let now = self.hear();
            if now.is_empty() {
                break;
            }
            heard.extend(now);
            for kind in ResourceType::ALL {
                self.accept(kind, &[]);
            }
        }
        heard
    }

    fn update(&mut self, world: &World) {
        self.session.update(world.snapshot.clone());
    }
}

fn envoy(world: &World) -> Stream {
    let mut envoy = world.stream(Role::Envoy, Variant::Delta);
    envoy.ask(ResourceType::Cluster, &[]);
    envoy.ask(ResourceType::Endpoints, &["a/1"]);
    envoy.ask(ResourceType::Listener, &[]);
    envoy.ask(ResourceType::RouteConfig, &["edge"]);
    envoy.ask(ResourceType::VirtualHost, &[]);
    envoy
}

#[test]
fn rule_04_each_type_is_a_stream_of_its_own() {
    let world = World::new(&[]);
    let mut envoy = world.stream(Role::Envoy, Variant::Delta);
    envoy.ask(ResourceType::Secret, &["a.test"]);
    envoy.ask(ResourceType::Runtime, &["none"]);
    assert_eq!(envoy.hear(), ["secrets: +a.test", "runtime: -none"]);
    // Both have the nonce 1; one answer settles one of them.
    envoy.accept(ResourceType::Runtime, &[]);
    assert!(!envoy.session.is_idle());
    envoy.accept(ResourceType::Secret, &[]);
    assert!(envoy.session.is_idle());
}

#[test]
fn rule_05_an_unknown_type_is_not_answered_and_ends_nothing() {
    let world = World::new(&[]);
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut envoy = world.stream(Role::Envoy, variant);
        envoy
            .session
            .receive(&DeltaRequest { type_url: "type.googleapis.com/x.Y", ..DeltaRequest::default() });
        envoy.session.receive_sotw(&SotwRequest { type_url: "x", ..SotwRequest::default() });
        // Another role's.
        envoy.ask(ResourceType::AuthzPolicy, &[]);
        assert_eq!(envoy.hear(), Vec::<String>::new());
        envoy.ask(ResourceType::Secret, &["a.test"]);
        assert_eq!(envoy.hear().len(), 1);
    }
}

#[test]
fn rule_19_and_48_listeners_and_routes_wait_for_the_ack_of_clusters_and_endpoints_do_not() {
    let world = World::new(&[]);
    let mut envoy = envoy(&world);
    assert_eq!(envoy.hear(), ["clusters: +a/1 +gatehouse", "endpoints: +a/1"]);
    envoy.accept(ResourceType::Endpoints, &[]);
    assert_eq!(envoy.hear(), Vec::<String>::new());
    envoy.accept(ResourceType::Cluster, &[]);
    assert_eq!(envoy.hear(), ["listeners: +http", "routes: +edge", "virtual_hosts: +edge/a +edge/unknown"]);
}

#[test]
fn rule_19_the_wait_for_clusters_that_never_warm_has_an_end() {
    let world = World::new(&[]);
    let mut envoy = envoy(&world);
    envoy.hear();
    assert_eq!(envoy.hear(), Vec::<String>::new());
    assert!(envoy.session.deadline(envoy.now).is_some());
    envoy.now += gate::CLUSTERS_DEADLINE;
    // All but the virtual host of the service whose cluster is not there.
    assert_eq!(envoy.hear(), ["listeners: +http", "routes: +edge", "virtual_hosts: +edge/unknown"]);
}

#[test]
fn rule_43_the_endpoints_of_a_changed_cluster_are_pushed_with_it() {
    let mut world = World::new(&[]);
    let mut envoy = envoy(&world);
    envoy.follow();
    // The same endpoints, another cluster of the same name.
    let (id, bundle) = service("a", 1);
    let mut bundle = Bundle::clone(&bundle.unwrap());
    bundle.resources[1] = resource(ResourceType::Cluster, "a/1", "changed", Some("a"));
    world.change([(id, Some(Arc::new(bundle)))]);
    envoy.update(&world);
    assert_eq!(envoy.hear(), ["clusters: +a/1", "endpoints: +a/1"]);
}

#[test]
fn rule_44_endpoints_that_a_reconnecting_client_has_are_sent_again_for_a_changed_cluster() {
    let world = World::new(&[]);
    let mut envoy = world.stream(Role::Envoy, Variant::Delta);
    let (clusters, endpoints) = (ResourceType::Cluster.url(), ResourceType::Endpoints.url());
    envoy.session.receive(&DeltaRequest {
        type_url: clusters,
        brought: vec![("a/1", "an older one"), ("gatehouse", "1")],
        ..DeltaRequest::default()
    });
    assert_eq!(envoy.hear(), ["clusters: +a/1"]);
    envoy.session.receive(&DeltaRequest {
        type_url: endpoints,
        subscribe: vec!["a/1"],
        brought: vec![("a/1", "1")],
        ..DeltaRequest::default()
    });
    assert_eq!(envoy.hear(), ["endpoints: +a/1"]);
}

#[test]
fn rule_47_what_is_new_comes_before_what_names_it_and_what_is_old_goes_after() {
    let mut world = World::new(&SIDECARS);
    let (mut envoy, mut authz) = (envoy(&world), world.stream(Role::Authz, Variant::Delta));
    authz.ask(ResourceType::AuthzPolicy, &["*"]);
    authz.follow();
    envoy.follow();
    world.change([service("a", 2)]);
    envoy.update(&world);
    authz.update(&world);
    envoy.ask(ResourceType::Endpoints, &["a/2"]);
    assert_eq!(envoy.hear(), ["clusters: +a/2", "endpoints: +a/2"]);
    envoy.accept(ResourceType::Cluster, &[]);
    envoy.accept(ResourceType::Endpoints, &[]);
    assert_eq!(envoy.hear(), Vec::<String>::new(), "its sidecar has no policy for it yet");
    assert_eq!(authz.hear(), ["authz_policies: +a@2"]);
    authz.accept(ResourceType::AuthzPolicy, &[]);
    assert_eq!(envoy.hear(), ["virtual_hosts: +edge/a"]);
    assert_eq!(authz.hear(), Vec::<String>::new(), "a route may still name the old policy");
    envoy.accept(ResourceType::VirtualHost, &[]);
    envoy.linger();
    assert_eq!(envoy.hear(), ["clusters: -a/1", "endpoints: -a/1"]);
    assert_eq!(authz.hear(), ["authz_policies: -a@1"]);
}

#[test]
fn rule_47_a_route_waits_for_the_guard_as_for_those_that_it_stands_for() {
    let mut world = World::new(&[Role::Guard]);
    let (mut envoy, mut guard) = (envoy(&world), world.stream(Role::Guard, Variant::Delta));
    guard.ask(ResourceType::Cluster, &["*"]);
    assert_eq!(guard.hear(), Vec::<String>::new(), "what is Envoy's is not for it");
    guard.ask(ResourceType::AuthzPolicy, &["*"]);
    guard.follow();
    envoy.follow();
    world.change([service("a", 2)]);
    envoy.update(&world);
    guard.update(&world);
    envoy.ask(ResourceType::Endpoints, &["a/2"]);
    assert_eq!(envoy.hear(), ["clusters: +a/2", "endpoints: +a/2"]);
    envoy.accept(ResourceType::Cluster, &[]);
    envoy.accept(ResourceType::Endpoints, &[]);
    assert_eq!(envoy.hear(), Vec::<String>::new(), "the guard has no policy for it yet");
    assert_eq!(guard.hear(), ["authz_policies: +a@2"]);
    guard.accept(ResourceType::AuthzPolicy, &[]);
    assert_eq!(envoy.hear(), ["virtual_hosts: +edge/a"]);
    envoy.accept(ResourceType::VirtualHost, &[]);
    assert_eq!(guard.hear(), ["authz_policies: -a@1"]);
}

#[test]
fn rule_47_a_service_that_leaves_leaves_in_reverse() {
    let mut world = World::new(&[]);
    let mut envoy = envoy(&world);
    envoy.follow();
    world.change([("a".parse().unwrap(), None)]);
    envoy.update(&world);
    assert_eq!(envoy.hear(), ["virtual_hosts: -edge/a"]);
    envoy.accept(ResourceType::VirtualHost, &[]);
    envoy.linger();
    assert_eq!(envoy.hear(), ["clusters: -a/1", "endpoints: -a/1"]);
}

/// Envoy 1.40 answers 503 (`cluster_not_found`) to a request that got its route before the sidecars were asked.
#[test]
fn a_cluster_stays_while_requests_may_be_under_way_to_it_however_often_its_service_changes() {
    let mut world = World::new(&[]);
    let mut envoy = envoy(&world);
    envoy.follow();
    let accept_all = |envoy: &mut Stream| {
        for kind in [ResourceType::Cluster, ResourceType::Endpoints] {
            envoy.accept(kind, &[]);
        }
    };
    world.change([service("a", 2)]);
    envoy.update(&world);
    envoy.ask(ResourceType::Endpoints, &["a/2"]);
    assert_eq!(envoy.hear(), ["clusters: +a/2", "endpoints: +a/2"]);
    accept_all(&mut envoy);
    assert_eq!(envoy.hear(), ["virtual_hosts: +edge/a"]);
    envoy.accept(ResourceType::VirtualHost, &[]);
    envoy.linger();
    // Just before the end it changes again, and the time begins anew with the new route.
    envoy.now -= Duration::from_millis(1);
    assert!(envoy.session.is_idle(), "what lingers must not keep others from their turn");
    world.change([service("a", 3)]);
    envoy.update(&world);
    envoy.ask(ResourceType::Endpoints, &["a/3"]);
    assert_eq!(envoy.hear(), ["clusters: +a/3", "endpoints: +a/3"]);
    envoy.now += Duration::from_millis(1);
    accept_all(&mut envoy);
    assert_eq!(envoy.hear(), ["virtual_hosts: +edge/a"]);
    envoy.accept(ResourceType::VirtualHost, &[]);
    envoy.linger();
    assert_eq!(envoy.hear(), ["clusters: -a/1 -a/2", "endpoints: -a/1 -a/2"]);
}

#[test]
fn rule_49_secrets_go_before_what_uses_them() {
    let world = World::new(&[]);
    let mut envoy = envoy(&world);
    envoy.ask(ResourceType::Secret, &["a.test"]);
    assert_eq!(envoy.hear()[0], "secrets: +a.test");
}

fn mortal(world: &mut World, kind: ResourceType, name: &str) {
    let mut one = Resource::clone(&resource(kind, name, "1", None));
    one.ttl = Some(Duration::from_secs(9));
    let edge = [Arc::new(one), resource(kind, "immortal", "1", None)];
    world.snapshot = Arc::new(Snapshot::default().next(Some(&edge), &BTreeMap::new()).unwrap().snapshot);
}

#[test]
fn rule_50_51_and_53_a_resource_with_a_time_to_live_is_refreshed_without_its_body_whatever_the_client_says_it_can()
 {
    let mut world = World::new(&[]);
    mortal(&mut world, ResourceType::Cluster, "mortal");
    let mut envoy = world.stream(Role::Envoy, Variant::Delta);
    envoy.ask(ResourceType::Cluster, &[]);
    envoy.follow();
    assert_eq!(envoy.hear(), Vec::<String>::new());
    envoy.now = envoy.session.deadline(envoy.now).unwrap();
    assert_eq!(envoy.hear(), ["clusters: ~mortal"]);
    envoy.accept(ResourceType::Cluster, &[]);
    assert_eq!(envoy.hear(), Vec::<String>::new());
    envoy.now += Duration::from_secs(3);
    assert_eq!(envoy.hear(), ["clusters: ~mortal"]);
}

#[test]
fn rule_54_a_whole_set_is_refreshed_as_a_whole_and_with_its_bodies() {
    let mut world = World::new(&[]);
    mortal(&mut world, ResourceType::Cluster, "mortal");
    let mut envoy = world.stream(Role::Envoy, Variant::Sotw);
    envoy.ask(ResourceType::Cluster, &[]);
    envoy.follow();
    envoy.now += Duration::from_secs(3);
    assert_eq!(envoy.hear(), ["clusters: immortal mortal"]);
    mortal(&mut world, ResourceType::Endpoints, "mortal");
    let mut envoy = world.stream(Role::Envoy, Variant::Sotw);
    envoy.ask(ResourceType::Endpoints, &["mortal", "immortal"]);
    assert_eq!(envoy.hear(), ["endpoints: immortal mortal"]);
    envoy.accept(ResourceType::Endpoints, &["mortal", "immortal"]);
    assert_eq!(envoy.hear(), Vec::<String>::new());
    envoy.now += Duration::from_secs(3);
    assert_eq!(envoy.hear(), ["endpoints: mortal"]);
}

#[test]
fn a_client_without_vhds_gets_its_routes_when_clusters_and_policies_are_there() {
    let mut world = World::new(&SIDECARS);
    let (mut envoy, mut authz) =
        (world.stream(Role::Envoy, Variant::Sotw), world.stream(Role::Authz, Variant::Delta));
    envoy.ask(ResourceType::Cluster, &[]);
    envoy.ask(ResourceType::Endpoints, &["a/1"]);
    envoy.ask(ResourceType::RouteConfig, &["edge"]);
    assert_eq!(envoy.hear(), ["clusters: a/1 gatehouse", "endpoints: a/1"]);
    envoy.accept(ResourceType::Cluster, &[]);
    envoy.accept(ResourceType::Endpoints, &["a/1"]);
    assert_eq!(envoy.hear(), Vec::<String>::new(), "it would take the routes for all there are");
    authz.ask(ResourceType::AuthzGuardrail, &["*"]);
    authz.ask(ResourceType::AuthzPolicy, &["*"]);
    authz.follow();
    assert_eq!(envoy.hear(), ["routes: edge"]);
    envoy.accept(ResourceType::RouteConfig, &["edge"]);
    let id = "a".parse().unwrap();
    assert_eq!(world.standing(&id), (1, None));

    // A service whose policy the sidecar has not yet: its old routes stay.
    world.change([service("a", 2)]);
    envoy.update(&world);
    assert_eq!(envoy.hear(), ["clusters: a/1 a/2 gatehouse"]);
    envoy.accept(ResourceType::Cluster, &[]);
    envoy.ask_again(ResourceType::Endpoints, &["a/1", "a/2"]);
    assert_eq!(envoy.hear(), ["endpoints: a/2"]);
    envoy.accept(ResourceType::Endpoints, &["a/1", "a/2"]);
    assert_eq!(envoy.hear(), Vec::<String>::new());
    authz.update(&world);
    authz.follow();
    assert_eq!(envoy.hear().len(), 0, "the composed routes are the same bytes in this test");
}

impl World {
    fn standing(&self, id: &InstanceId) -> (u32, Option<String>) {
        self.hub.publish("edge", &model::node::Selection::default(), self.snapshot.clone());
        let standing = self.hub.standing("edge", [id].into_iter()).remove(id).unwrap();
        (standing.acknowledged, standing.waiting)
    }
}

impl Stream {
    /// A later state-of-the-world request with other names.
    fn ask_again(&mut self, kind: ResourceType, names: &[&str]) {
        let url = kind.url();
        self.session.receive_sotw(&SotwRequest {
            type_url: url,
            names: names.to_vec(),
            nonce: "1",
            ..SotwRequest::default()
        });
    }
}

#[test]
fn a_stream_costs_what_differs_from_the_snapshot() {
    let mut world = World::new(&[]);
    let services = (0..1_000).map(|at| service(&format!("s{at}"), 1)).collect();
    world.snapshot = Arc::new(world.snapshot.next(None, &services).unwrap().snapshot);
    let names: Vec<_> = (0..1_000).map(|at| format!("s{at}/1")).collect();
    let mut names: Vec<_> = names.iter().map(String::as_str).collect();
    names.push("a/1");
    let mut envoy = world.stream(Role::Envoy, Variant::Delta);
    envoy.ask(ResourceType::Cluster, &[]);
    envoy.ask(ResourceType::Endpoints, &names);
    envoy.ask(ResourceType::VirtualHost, &[]);
    envoy.follow();
    let node = envoy.session.node.clone();
    let state = node.state();
    let (held, differs) = state
        .types()
        .fold((0, 0), |(held, differs), (_, told)| (held + told.held_count(), differs + told.differences()));
    assert_eq!((held, differs), (3_005, 0));
}

#[test]
fn a_revocation_goes_at_once_since_no_route_names_it() {
    let mut world = World::new(&[Role::Authn]);
    let kind = ResourceType::AuthnRevocations;
    let id: InstanceId = "r".parse().unwrap();
    let resources = vec![resource(kind, "token:0", "1", Some("r"))];
    world.change([(id.clone(), Some(Arc::new(Bundle { rev: 0, resources })))]);
    let mut authn = world.stream(Role::Authn, Variant::Delta);
    authn.ask(kind, &["*"]);
    assert_eq!(authn.hear(), ["authn_revocations: +token:0"]);
    authn.accept(kind, &[]);
    world.change([(id, None)]);
    authn.update(&world);
    assert_eq!(authn.hear(), ["authn_revocations: -token:0"]);
}
