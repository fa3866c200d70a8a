//! Changes under load, and a control plane that dies: what clients of the edge see of them, which is nothing.

use std::time::Duration;

use lab::Ports;
use serde_json::{Value, json};
use tests::{Balancer, Lab, Load, Service, eventually};

const SERVICES: usize = 100;
/// Longer than the changes take, by far.
const LOAD: Duration = Duration::from_secs(30);

/// Floods are cut off before any sidecar is asked; a load is one.
fn without_flood_limit() -> Value {
    let most = 1_000_000_000;
    json!({"flood": {
        "address_per_second": most, "address_burst": most, "total_per_second": most, "total_burst": most,
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_hundred_services_change_under_load_no_request_fails() {
    let lab = Lab::with(|layout| layout.edge = without_flood_limit()).await;
    let services: Vec<Service> = (0..SERVICES).map(|number| lab.service(&format!("s{number}"))).collect();
    for service in &services {
        let answer = lab.provision(service).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    for service in &services {
        let (state, description) = lab.ended(service).await;
        assert_eq!(state, "succeeded", "{description}");
    }
    let hosts: Vec<&str> = services.iter().map(Service::host).collect();
    let mut load = Load::start(lab.folder(), lab.stack.layout.ports.http, &hosts, "/healthz", LOAD).await;
    // Another upstream for each: a new cluster, its endpoints, a changed virtual host, and then the old cluster goes.
    let changed: Vec<Service> = services
        .iter()
        .map(|service| service.clone().with("/routes/0/upstream/health_check", json!("/healthz")))
        .collect();
    for service in &changed {
        let answer = lab.update(service).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    for service in &changed {
        let (state, description) = lab.ended(service).await;
        assert_eq!(state, "succeeded", "{description}");
    }
    assert!(load.is_running(), "all of it happened under load");
    let seen = load.end().await;
    let failed: Vec<_> = lab.access_log().into_iter().filter(|record| record["status"] != 200).collect();
    assert_eq!(
        (seen.bad, seen.errors.as_str()),
        (0, "connect=0,read=0,write=0,timeout=0"),
        "{seen:?} {failed:?}"
    );
    assert!(seen.good > 1_000, "{seen:?}");
    let removed = lab.envoy_stat("cluster_manager.cluster_removed").await;
    assert!(removed >= SERVICES as u64, "the old clusters are gone: {removed}");
}

/// Responses that Envoy took in: clusters and listeners.
async fn taken(lab: &Lab) -> (u64, u64) {
    (
        lab.envoy_stat("cluster_manager.cds.update_success").await,
        lab.envoy_stat("listener_manager.lds.update_success").await,
    )
}

#[tokio::test]
async fn when_a_replica_dies_its_proxies_move_and_nothing_is_sent_again() {
    let other = Ports::free().expect("free ports");
    let mut lab = Lab::prepare(|_| ()).await;
    let balancer = Balancer::start(&[lab.stack.layout.ports.xds, other.xds]).await;
    lab.stack.layout.xds_balancer = Some(balancer.port());
    lab.stack.start(|_| ()).await.expect("it starts");
    let hello = lab.service("hello");
    lab.live(&hello).await;
    lab.stack.start_replica(&other).await.expect("a second one on the same store");
    let token = lab.good_token(&hello).await;
    let before = taken(&lab).await;

    lab.stack.control_plane.take().expect("it runs").kill().await;
    // The other one serves broker and operators now.
    lab.stack.layout.ports.control_plane = other.control_plane;
    eventually("node and sidecars have moved", || async {
        let roles = lab.status().await["nodes"][0]["roles"].clone();
        let is_there = |role: &str| roles[role]["connected"] == true;
        ["envoy", "authn", "authz", "ratelimit"].into_iter().all(is_there).then_some(())
    })
    .await;
    assert_eq!(lab.get(hello.host(), "/", Some(&token)).await.status, 200);
    let in_sync = || async {
        let types = lab.status().await["nodes"][0]["roles"]["envoy"]["types"].clone();
        types
            .as_object()
            .is_some_and(|types| types.len() >= 4 && types.values().all(|of_kind| of_kind["in_sync"] == true))
    };
    eventually("it is known to hold everything", || async { in_sync().await.then_some(()) }).await;
    // An answer without resources completes each subscription; no listener and no cluster came again.
    let after = taken(&lab).await;
    assert!(after.0 <= before.0 + 1 && after.1 <= before.1 + 1, "{before:?} became {after:?}");
    assert_eq!(lab.envoy_stat("listener_manager.listener_modified").await, 0);
    assert_eq!(lab.envoy_stat("cluster_manager.cluster_modified").await, 0);

    let late = lab.service("late");
    lab.live(&late).await;
    assert_eq!(lab.get(late.host(), "/", Some(&lab.good_token(&late).await)).await.status, 200);
}

/// What the client prints.
async fn told(lab: &Lab, args: &[&str]) -> String {
    let output = lab.gatehouse(&[&["fleet"], args].concat()).await;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{errors}")
}

#[tokio::test]
async fn operators_see_what_is_served_what_changed_and_where_a_node_differs() {
    let (lab, folder) = Lab::with_templates(&[]).await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let host = format!("edge/{}", hello.id());
    lab.change(&hello.clone().with("/routes/0/timeout", json!("7s"))).await;
    let shown = told(&lab, &["show", "virtual_hosts", &host]).await;
    assert!(shown.contains("timeout: 7s") && shown.contains("is served"), "{shown}");
    let before = shown.lines().last().and_then(|line| line.split(' ').nth(1)).unwrap().to_owned();
    let diff = told(&lab, &["show", "virtual_hosts", &host, "--since", &before[..8]]).await;
    assert!(diff.contains("-    timeout: 15s") && diff.contains("+    timeout: 7s"), "{diff}");
    let older = told(&lab, &["show", "virtual_hosts", &host, "--version", &before]).await;
    assert!(older.contains("timeout: 15s"), "{older}");
    // A certificate is shown, its key is not.
    let secret = told(&lab, &["show", "secrets", hello.host()]).await;
    assert!(secret.contains("BEGIN CERTIFICATE") && secret.contains("[redacted]"), "{secret}");
    assert!(!secret.contains("PRIVATE KEY"), "{secret}");
    let all = told(&lab, &["resources", "clusters"]).await;
    assert!(all.contains("gatehouse_authn") && all.contains(&format!("of {}", hello.id())), "{all}");
    for (args, words) in [
        (&["show", "clusters", "nothing"][..], "name: clusters has never had \"nothing\""),
        (&["show", "klusters", "x"], "kind: one of"),
        (&["diff", "edge/nobody"], "node: none of the 1 nodes of this replica has the id \"edge/nobody\""),
        (&["resources", "--token", "wrong"], "the token of an operator is needed"),
    ] {
        let refusal = told(&lab, args).await;
        assert!(refusal.contains(words), "{refusal}");
    }
    assert_eq!(told(&lab, &["diff", "edge/local"]).await, "edge/local holds everything as it should\n");

    // Envoy refuses what no proto forbids: two listeners on one address.
    let clash = "{# kind: listeners #}\nresources:\n- name: clash\n  address: {socket_address: {address: 127.0.0.1, \
                 port_value: {{ edge.http.port }}}}\n  filter_chains: [{filters: [{name: t, typed_config: {'@type': \
                 type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: \
                 gatehouse_authn}}]}]\n";
    std::fs::write(folder.join("clash.yaml"), clash).unwrap();
    let diff = eventually("the node differs", || async {
        let diff = told(&lab, &["diff", "edge/local"]).await;
        diff.contains("refused listeners clash").then_some(diff)
    })
    .await;
    assert!(diff.contains("+++ listeners clash@") && diff.contains("+name: clash"), "{diff}");
    assert!(diff.contains("edge/local: 1 resources differ"), "{diff}");
    let table = told(&lab, &[]).await;
    assert!(table.contains("NACK") && table.contains("refused listeners clash"), "{table}");
}
