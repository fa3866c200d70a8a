//! Redis as people run it: behind sentinels that change the master, as a cluster, and over TLS.

use std::{fs, time::Instant};

use lab::redis::Redis as Server;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use super::{
    super::{store::conformance, tests::settings},
    *,
};

/// Longer than any failover takes on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

async fn adds(store: &Redis) -> Result<i64, StoreError> {
    let op = Op { key: "k".into(), act: Act::Add { amount: 1, live_secs: Some(60) } };
    store.run(&[op]).await.map(|answers| answers[0])
}

#[tokio::test]
async fn behind_sentinels_the_next_master_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut master = Server::start(folder.path()).await.unwrap();
    let port = master.port().to_string();
    let _replica = Server::start_with(folder.path(), &["--replicaof", "127.0.0.1", &port]).await.unwrap();
    let sentinel = Server::sentinel(folder.path(), &master).await.unwrap();
    let store = Redis::new(&RedisSettings {
        redis_url: Some(format!("master,{}", sentinel.address())),
        redis_type: RedisType::Sentinel,
        ..settings(&master)
    })
    .unwrap();
    let end = Instant::now() + DEADLINE;
    // The sentinel asks the master for its replicas only every ten seconds, and there must be one to take over.
    while !sentinel.ask("SENTINEL replicas master").await.unwrap().contains("slave") {
        assert!(Instant::now() < end, "the replica is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(adds(&store).await.unwrap(), 1);
    master.kill().await;
    while adds(&store).await.is_err() {
        assert!(Instant::now() < end, "no other master takes over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    conformance::check(&store).await;
}

#[tokio::test]
async fn a_cluster_does_what_every_store_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        let file = format!("{name}.conf");
        let args = ["--cluster-enabled", "yes", "--cluster-config-file", &file];
        nodes.push(Server::start_with(folder.path(), &args).await.unwrap());
    }
    nodes[0].ask("CLUSTER ADDSLOTSRANGE 0 8191").await.unwrap();
    nodes[1].ask("CLUSTER ADDSLOTSRANGE 8192 16383").await.unwrap();
    nodes[0].ask(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port())).await.unwrap();
    let end = Instant::now() + DEADLINE;
    for node in &nodes {
        while !node.ask("CLUSTER INFO").await.unwrap().contains("cluster_state:ok") {
            assert!(Instant::now() < end, "the nodes do not meet");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let store = Redis::new(&RedisSettings {
        redis_url: Some(format!("{},{}", nodes[0].address(), nodes[1].address())),
        redis_type: RedisType::Cluster,
        ..settings(&nodes[0])
    })
    .unwrap();
    conformance::check(&store).await;
    for node in &nodes {
        assert!(!node.ask("DBSIZE").await.unwrap().starts_with(":0"), "keys lie on both");
    }
}

#[tokio::test]
async fn over_tls_both_sides_prove_who_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let (key, mut leaf) = (KeyPair::generate().unwrap(), CertificateParams::default());
    // With its issuer's name OpenSSL takes it for one that signs itself.
    leaf.distinguished_name.push(DnType::CommonName, "redis");
    leaf.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    let certificate = leaf.signed_by(&key, &issuer).unwrap().pem();
    let path = |name: &str| folder.path().join(name);
    for (name, text) in [("ca", ca), ("certificate", certificate), ("key", key.serialize_pem())] {
        fs::write(path(name), text).unwrap();
    }
    let shown = |name: &str| path(name).display().to_string();
    let port = lab::Ports::free().unwrap().http;
    let (tls_port, ca, certificate, key) =
        (port.to_string(), shown("ca"), shown("certificate"), shown("key"));
    let args = [
        "--tls-port",
        &tls_port,
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
    ];
    let server = Server::start_with(folder.path(), &args).await.unwrap();
    let nobody = RedisSettings {
        redis_url: Some(format!("127.0.0.1:{port}")),
        redis_tls: true,
        redis_ca: Some(path("ca")),
        ..settings(&server)
    };
    assert!(adds(&Redis::new(&nobody).unwrap()).await.is_err(), "without a certificate");
    let ours =
        RedisSettings { redis_cert: Some(path("certificate")), redis_key: Some(path("key")), ..nobody };
    conformance::check(&Redis::new(&ours).unwrap()).await;
    let of_nobody = RedisSettings { redis_ca: None, ..ours };
    assert!(adds(&Redis::new(&of_nobody).unwrap()).await.is_err(), "a server that nobody vouches for");
}
