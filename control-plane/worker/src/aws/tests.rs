//! A service's way through AWS, with each call of it failing once, before or after it had its effect.

use std::{sync::Arc, time::Duration};

use model::{Host, InstanceId, instance::Distribution};

use super::{
    AcmCertificates, CloudFrontCdn, Edge, Origin, Poll, Route53Dns, Zones,
    fake::{Fake, Fault},
    route53::Record,
};
use crate::provider::{Cdn as _, Certificates as _, Dns as _, Proofs, ProviderError, Target};

const ZONE: &str = "Z1";
const PRIVATE: &str = "Z2";

fn zones(text: &str) -> Zones {
    serde_json::from_str(text).unwrap()
}

fn hosts(names: &[&str]) -> Vec<Host> {
    names.iter().map(|name| Host::try_from((*name).to_owned()).unwrap()).collect()
}

fn id() -> InstanceId {
    "i-1".parse().unwrap()
}

fn edge(region: &str) -> Edge {
    let target = format!("{region}.elb.test");
    // As a console shows it.
    let target = target.replace("elb", "ELB");
    Edge { region: region.into(), target, zone: "ZELB".into(), health_check: None }
}

struct Bench {
    fake: Arc<Fake>,
    dns: Route53Dns,
    certificates: AcmCertificates,
    cdn: CloudFrontCdn,
}

fn bench() -> Bench {
    let fake = Arc::new(Fake::with_zone(ZONE, "example.test"));
    let poll = Poll(Duration::ZERO);
    let acm = || AcmCertificates {
        api: fake.clone(),
        dns: fake.clone(),
        zones: zones(r#"{"example.test": "Z1"}"#),
        poll,
    };
    let origin = Origin {
        domain: "origin.example.test".into(),
        port: 10444,
        secret: ("x-gatehouse-origin".into(), "secret".into()),
        web_acl: None,
    };
    Bench {
        dns: Route53Dns {
            api: fake.clone(),
            zones: zones(r#"{"example.test": "Z1"}"#),
            edges: vec![edge("eu-west-1"), edge("us-east-1")],
            private_zones: Zones::default(),
            internal: Vec::new(),
            poll,
        },
        certificates: acm(),
        cdn: CloudFrontCdn { api: fake.clone(), certificates: acm(), origin, poll },
        fake,
    }
}

/// As the worker does: again after what may pass by, and not after what lasts.
async fn tried<T>(mut step: impl AsyncFnMut() -> Result<T, ProviderError>) -> T {
    for _ in 0..3 {
        match step().await {
            Ok(done) => return done,
            Err(error) => assert!(!error.is_lasting, "{error}: {:?}", error.source),
        }
    }
    panic!("still not done")
}

impl Bench {
    /// What an onboarding does, a change of the hosts, and the end of it all. What each leaves is checked.
    async fn life(&self) {
        let first = hosts(&["a.example.test", "b.example.test"]);
        let certificate = tried(async || self.certificates.issue(&id(), 1, &first).await).await;
        let made = tried(async || self.cdn.set(&id(), 1, &first, None).await).await;
        let to = Target::Cdn(made.domain.clone());
        tried(async || self.dns.set(&id(), &first, &to, &[]).await).await;
        let names = |hosts: &[Host]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(self.fake.certificates(), [(names(&first), false), (names(&first), true)]);
        assert_eq!(self.fake.distributions(), [(names(&first), true)]);
        let domain = &made.domain;
        assert_eq!(
            self.fake.records(ZONE),
            [
                "_gatehouse.a.example.test TXT \"instance=i-1\"".to_owned(),
                "_gatehouse.b.example.test TXT \"instance=i-1\"".into(),
                "_proof.a.example.test CNAME proof.acm-validations.test".into(),
                "_proof.b.example.test CNAME proof.acm-validations.test".into(),
                format!("a.example.test A {domain}"),
                format!("b.example.test A {domain}"),
            ]
        );

        let second = hosts(&["a.example.test"]);
        let changed = tried(async || self.cdn.set(&id(), 2, &second, Some(&made)).await).await;
        tried(async || self.dns.set(&id(), &second, &Target::Edge, &hosts(&["b.example.test"])).await).await;
        assert_eq!(changed.id, made.id);
        assert_eq!(self.fake.distributions(), [(names(&second), true)]);
        tried(async || self.certificates.discard(&made.certificate, Proofs::Keep).await).await;
        let addresses: Vec<_> =
            self.fake.records(ZONE).into_iter().filter(|record| !record.starts_with('_')).collect();
        assert_eq!(
            addresses,
            [
                "a.example.test A eu-west-1 eu-west-1.elb.test",
                "a.example.test A us-east-1 us-east-1.elb.test"
            ]
        );

        tried(async || self.dns.set(&id(), &[], &Target::Edge, &second).await).await;
        tried(async || self.cdn.remove(&changed).await).await;
        let arn = certificate.name.unwrap();
        tried(async || self.certificates.discard(&arn, Proofs::DeleteOf(&first)).await).await;
        assert_eq!(self.fake.records(ZONE), Vec::<String>::new());
        assert_eq!(self.fake.certificates(), []);
        assert_eq!(self.fake.distributions(), []);
    }
}

#[tokio::test]
async fn whichever_call_fails_nothing_is_lost_doubled_or_left() {
    let quiet = bench();
    quiet.life().await;
    let calls = quiet.fake.calls();
    assert!(calls > 30, "{calls}");
    for fault in [Fault::Throttled, Fault::AnswerLost] {
        for call in 1..=calls {
            let bench = bench();
            bench.fake.fail(call, fault);
            bench.life().await;
        }
    }
}

#[tokio::test]
async fn what_was_done_is_found_done() {
    let bench = bench();
    bench.life().await;
    let hosts = hosts(&["a.example.test"]);
    bench.certificates.issue(&id(), 3, &hosts).await.unwrap();
    bench.cdn.set(&id(), 3, &hosts, None).await.unwrap();
    bench.dns.set(&id(), &hosts, &Target::Edge, &[]).await.unwrap();
    let before = (bench.fake.records(ZONE), bench.fake.certificates(), bench.fake.distributions());
    // By a worker that knows nothing of it.
    bench.certificates.issue(&id(), 3, &hosts).await.unwrap();
    bench.cdn.set(&id(), 3, &hosts, None).await.unwrap();
    bench.dns.set(&id(), &hosts, &Target::Edge, &[]).await.unwrap();
    assert_eq!((bench.fake.records(ZONE), bench.fake.certificates(), bench.fake.distributions()), before);
}

#[track_caller]
fn refused(result: Result<(), ProviderError>, words: &str) {
    let error = result.unwrap_err();
    assert!(error.is_lasting, "{error:?}");
    let text = error.source.to_string();
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[tokio::test]
async fn a_name_that_somebody_else_made_is_not_overwritten() {
    let bench = bench();
    bench.fake.add(ZONE, Record::plain("www.example.test", "A", "192.0.2.1"));
    let www = hosts(&["www.example.test"]);
    refused(bench.dns.set(&id(), &www, &Target::Edge, &[]).await, "not made by Gatehouse");
    bench.dns.set(&id(), &[], &Target::Edge, &www).await.unwrap();
    assert_eq!(bench.fake.records(ZONE), ["www.example.test A 192.0.2.1"], "nor deleted");
    let elsewhere = hosts(&["a.elsewhere.test"]);
    refused(bench.dns.set(&id(), &elsewhere, &Target::Edge, &[]).await, "in none of the zones");
    let issued = bench.certificates.issue(&id(), 1, &elsewhere).await;
    refused(issued.map(drop), "a.elsewhere.test is in none of the zones");
}

#[tokio::test]
async fn a_name_of_another_instance_that_left_it_behind_is_taken_over() {
    let bench = bench();
    let host = hosts(&["a.example.test"]);
    bench.dns.set(&"gone".parse().unwrap(), &host, &Target::Edge, &[]).await.unwrap();
    bench.dns.set(&id(), &host, &Target::Edge, &[]).await.unwrap();
    assert!(bench.fake.records(ZONE).contains(&"_gatehouse.a.example.test TXT \"instance=i-1\"".to_owned()));
    bench.dns.set(&"gone".parse().unwrap(), &[], &Target::Edge, &host).await.unwrap();
    assert_eq!(bench.fake.records(ZONE).len(), 3, "whoever had it deletes nothing of the other's");
}

#[tokio::test]
async fn a_hand_changed_record_is_mended() {
    let bench = bench();
    let host = hosts(&["a.example.test"]);
    bench.dns.set(&id(), &host, &Target::Edge, &[]).await.unwrap();
    let wanted = bench.fake.records(ZONE);
    bench.fake.add(ZONE, Record::plain("a.example.test", "AAAA", "2001:db8::1"));
    bench.dns.set(&id(), &host, &Target::Edge, &[]).await.unwrap();
    assert_eq!(bench.fake.records(ZONE), wanted);
}

#[tokio::test]
async fn an_adopted_name_stays_as_it_is_until_its_instance_changes_it() {
    let bench = bench();
    bench.fake.add(ZONE, Record::plain("www.example.test", "A", "192.0.2.1"));
    let www = hosts(&["www.example.test"]);
    bench.dns.adopt(&id(), &www[0]).await.unwrap();
    bench.dns.adopt(&id(), &www[0]).await.unwrap();
    refused(bench.dns.adopt(&"another".parse().unwrap(), &www[0]).await, "is the instance i-1's");
    assert_eq!(bench.dns.owned().await.unwrap(), [(id(), "www.example.test".to_owned())]);
    bench.dns.set(&id(), &[], &Target::Edge, &www).await.unwrap();
    assert_eq!(bench.fake.records(ZONE), ["www.example.test A 192.0.2.1"], "only the adoption ended");
    bench.dns.adopt(&id(), &www[0]).await.unwrap();
    bench.dns.set(&id(), &www, &Target::Edge, &[]).await.unwrap();
    assert_eq!(bench.fake.records(ZONE).len(), 3);
    assert!(!bench.fake.records(ZONE).iter().any(|record| record.contains("192.0.2.1")));
}

#[tokio::test]
async fn what_differs_is_told() {
    let bench = bench();
    let host = hosts(&["a.example.test"]);
    let look = async || bench.dns.look(&id(), &host, &Target::Edge).await.unwrap();
    assert_eq!(look().await.len(), 3, "nothing is there");
    bench.dns.set(&id(), &host, &Target::Edge, &[]).await.unwrap();
    assert_eq!(look().await, Vec::<String>::new());
    bench.fake.add(ZONE, Record::plain("a.example.test", "AAAA", "2001:db8::1"));
    assert_eq!(look().await, ["a.example.test AAAA should not be there"]);
    let made = bench.cdn.set(&id(), 1, &host, None).await.unwrap();
    assert_eq!(bench.cdn.look(&id(), &made).await.unwrap(), Vec::<String>::new());
    let other = Distribution { hosts: Vec::new(), ..made.clone() };
    let told = bench.cdn.look(&id(), &other).await.unwrap();
    assert_eq!(told, [format!("the distribution {}: other names", made.id)]);
    bench.cdn.remove(&made).await.unwrap();
    let told = bench.cdn.look(&id(), &made).await.unwrap();
    assert_eq!(told, [format!("the distribution {} is missing", made.id)]);
}

#[tokio::test]
async fn private_names_are_in_private_zones_only_and_move_when_the_plan_does() {
    let mut bench = bench();
    bench.fake.add_zone(PRIVATE, "example.test");
    bench.dns.private_zones = zones(r#"{"example.test": "Z2"}"#);
    bench.dns.internal = vec![edge("eu-west-1")];
    let host = hosts(&["a.example.test"]);
    let records = || (bench.fake.records(ZONE).len(), bench.fake.records(PRIVATE).len());
    bench.dns.set(&id(), &host, &Target::Internal, &[]).await.unwrap();
    assert_eq!(records(), (0, 2));
    bench.dns.set(&id(), &host, &Target::Edge, &[]).await.unwrap();
    assert_eq!(records(), (3, 0));
    bench.dns.set(&id(), &host, &Target::Internal, &[]).await.unwrap();
    assert_eq!(records(), (0, 2));
    bench.dns.set(&id(), &[], &Target::Internal, &host).await.unwrap();
    assert_eq!(records(), (0, 0));
}

#[tokio::test]
async fn an_alias_of_another_distribution_is_told() {
    let bench = bench();
    let host = hosts(&["a.example.test"]);
    bench.cdn.set(&"other".parse().unwrap(), 1, &host, None).await.unwrap();
    refused(bench.cdn.set(&id(), 1, &host, None).await.map(drop), "CNAMEAlreadyExists: a.example.test");
}

#[tokio::test]
async fn a_distribution_that_somebody_deleted_is_made_anew() {
    let bench = bench();
    let host = hosts(&["a.example.test"]);
    let made = bench.cdn.set(&id(), 1, &host, None).await.unwrap();
    bench.cdn.remove(&made).await.unwrap();
    // Its certificate is gone with it.
    let known = Distribution { hosts: Vec::new(), ..made.clone() };
    let again = bench.cdn.set(&id(), 2, &host, Some(&known)).await.unwrap();
    assert_ne!(again.id, made.id);
    assert_eq!(bench.fake.distributions().len(), 1);
}

/// Waits for nobody: an emulator does not throttle.
#[derive(Debug)]
struct NoPace;

#[async_trait::async_trait]
impl super::Pace for NoPace {
    async fn turn(&self) {}
}

/// What the fake cannot show: that AWS understands us, and we it. An emulator speaks its language.
#[tokio::test]
async fn the_same_life_on_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let emulator = lab::aws::Aws::start(&lab::aws::tools_of_checkout(), folder.path()).await.unwrap();
    let config = aws::emulator(emulator.url()).await;
    let route53 = aws_sdk_route53::Client::new(&config);
    let zone = route53.create_hosted_zone().name("example.test").caller_reference("1").send().await.unwrap();
    let zone = zone.hosted_zone.unwrap().id.trim_start_matches("/hostedzone/").to_owned();
    let zones = || zones(&format!("{{\"example.test\": \"{zone}\"}}"));
    let (pace, poll): (Arc<dyn super::Pace>, _) = (Arc::new(NoPace), Poll(Duration::from_millis(50)));
    let dns = Arc::new(super::Route53Client::new(&config, pace.clone()));
    let acm = || AcmCertificates {
        api: Arc::new(super::AcmClient::new(&config, pace.clone())),
        dns: dns.clone(),
        zones: zones(),
        poll,
    };
    let origin = Origin {
        domain: "origin.example.test".into(),
        port: 10444,
        secret: ("x-gatehouse-origin".into(), "secret".into()),
        web_acl: None,
    };
    let cloudfront = Arc::new(super::CloudFrontClient::new(&config, pace.clone()));
    let cdn = CloudFrontCdn { api: cloudfront, certificates: acm(), origin, poll };
    let names = Route53Dns {
        api: dns.clone(),
        zones: zones(),
        edges: vec![edge("eu-west-1"), edge("us-east-1")],
        private_zones: Zones::default(),
        internal: Vec::new(),
        poll,
    };
    let records = async || {
        let list = route53.list_resource_record_sets().hosted_zone_id(&zone).send().await.unwrap();
        let sets = list.resource_record_sets.into_iter();
        let mut all: Vec<_> = sets
            .filter(|set| !["NS", "SOA"].contains(&set.r#type.as_str()))
            .map(|set| {
                format!("{} {} {}", set.name, set.r#type.as_str(), set.set_identifier.unwrap_or_default())
            })
            .collect();
        all.sort();
        all
    };

    let hosts = hosts(&["a.example.test"]);
    let issued = acm().issue(&id(), 1, &hosts).await.unwrap();
    let key = rcgen::KeyPair::from_pem(&issued.key);
    assert!(issued.chain.starts_with("-----BEGIN CERTIFICATE-----"), "{}", issued.chain);
    assert!(key.is_ok() || issued.key.contains("PRIVATE KEY"), "a key in the clear");
    let made = cdn.set(&id(), 1, &hosts, None).await.unwrap();
    assert_eq!(cdn.set(&id(), 1, &hosts, Some(&made)).await.unwrap(), made, "as it is told, it is as wanted");
    let update = cdn.api.get(&made.id).await.unwrap();
    assert_eq!(update.settings.origin, cdn.origin, "nothing is lost on the way");
    names.set(&id(), &hosts, &Target::Edge, &[]).await.unwrap();
    let proof = records().await.into_iter().find(|record| record.contains("CNAME")).unwrap();
    assert_eq!(
        records().await,
        [
            proof.as_str(),
            "_gatehouse.a.example.test. TXT ",
            "a.example.test. A eu-west-1",
            "a.example.test. A us-east-1",
        ]
        .map(str::to_owned)
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    names.set(&id(), &hosts, &Target::Cdn(made.domain.clone()), &[]).await.unwrap();
    assert!(records().await.contains(&"a.example.test. A ".to_owned()));
    names.set(&id(), &[], &Target::Edge, &hosts).await.unwrap();
    cdn.remove(&made).await.unwrap();
    cdn.remove(&made).await.unwrap();
    let back = cdn.set(&id(), 2, &hosts, None).await.unwrap();
    assert_ne!(back.id, made.id);
    cdn.remove(&back).await.unwrap();
    acm().discard(&issued.name.clone().unwrap(), Proofs::DeleteOf(&hosts)).await.unwrap();
    acm().discard(&issued.name.unwrap(), Proofs::DeleteOf(&hosts)).await.unwrap();
    assert_eq!(records().await, Vec::<String>::new());
}
