//! AWS for a lab: an emulator with what a company has before it starts Gatehouse.

use aws_sdk_route53::types::{
    Change, ChangeAction, ChangeBatch, HostedZoneConfig, ResourceRecord, ResourceRecordSet, RrType, Vpc,
    VpcRegion,
};
use lab::{Layout, Ports, aws::Aws};
use serde_json::{Value, json};

use crate::{Lab, aws};

/// Where distributions, and the company's networks, come in.
#[derive(Debug, Clone, Copy)]
pub struct Doors {
    /// For the plan `edge`.
    pub cdn: u16,
    /// For the plan `internal`.
    pub internal: u16,
}

/// What Gatehouse is configured to use, and what it has made there.
pub struct Cloud {
    /// The emulator.
    pub emulator: Aws,
    /// Its listeners in a lab.
    pub doors: Doors,
    config: ::aws::SdkConfig,
    zone: String,
    proofs_zone: String,
    private_zone: String,
    _folder: tempfile::TempDir,
}

/// What shows that a request came through the CDN: the newest, and the one before.
pub const ORIGIN_SECRETS: [&str; 2] =
    ["the-newest-secret-of-the-origin-0001", "the-former-secret-of-the-origin-0000"];
const DOMAIN: &str = "example.test";
/// In development names below it are private.
const PRIVATE_DOMAIN: &str = "internal.test";

impl Cloud {
    /// A table, a queue, a bucket and a key of our template; a public zone, and a private one.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let emulator = aws(folder.path()).await;
        let template = std::fs::read_to_string(crate::project().join("cfn/data.yaml")).expect("our template");
        emulator.stack("data", &template, &[("Prefix", "gatehouse")]).await.expect("a stack");
        let config = ::aws::emulator(emulator.url()).await;
        let route53 = aws_sdk_route53::Client::new(&config);
        let zone =
            |name: &str, reference: &str| route53.create_hosted_zone().name(name).caller_reference(reference);
        let public = zone(DOMAIN, "public").send().await.expect("a zone");
        // A private name is proven to ACM in public, where nothing else of it stands.
        let proofs = zone(PRIVATE_DOMAIN, "proofs").send().await.expect("a zone for proofs");
        let vpc = Vpc::builder().vpc_region(VpcRegion::UsEast1).vpc_id("vpc-1").build();
        let private = zone(PRIVATE_DOMAIN, "private").vpc(vpc);
        let private = private.hosted_zone_config(HostedZoneConfig::builder().private_zone(true).build());
        let private = private.send().await.expect("a private zone");
        let id = |zone: Option<aws_sdk_route53::types::HostedZone>| {
            let id = zone.map(|zone| zone.id).unwrap_or_default();
            id.trim_start_matches("/hostedzone/").to_owned()
        };
        let ports = Ports::free().expect("free ports");
        let doors = Doors { cdn: ports.https, internal: ports.http };
        Self {
            emulator,
            doors,
            zone: id(public.hosted_zone),
            proofs_zone: id(proofs.hosted_zone),
            private_zone: id(private.hosted_zone),
            config,
            _folder: folder,
        }
    }

    /// Makes a lab use it: by configuration alone.
    pub fn configure(&self, layout: &mut Layout) {
        let write = |name: &str, text: String| {
            let path = layout.data_dir.join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let edge =
            |region: &str| json!({"region": region, "target": format!("{region}.elb.test"), "zone": "ZELB"});
        let settings = json!({
            "table": "gatehouse",
            "queue": format!("{}/123456789012/gatehouse.fifo", self.emulator.url()),
            "key": "alias/gatehouse",
            "poll_secs": 0.1,
            "calls_per_second": {"route53": 100, "acm": 100, "cloudfront": 100},
            "dns": {
                "zones": {DOMAIN: self.zone, PRIVATE_DOMAIN: self.proofs_zone},
                "edges": [edge("eu-west-1"), edge("us-east-1")],
                "private_zones": {PRIVATE_DOMAIN: self.private_zone},
                "internal": [edge("eu-west-1")],
            },
            "cdn": {"origin": format!("origin.{DOMAIN}"), "port": 443},
        });
        let secrets = ORIGIN_SECRETS.join("\n");
        layout.control_plane_args.push(format!("--aws={}", write("aws.yaml", settings.to_string())));
        layout.control_plane_args.push(format!("--origin-secrets={}", write("origin.secrets", secrets)));
        layout.control_plane_env.extend(self.emulator.environment());
        let listen = |port: u16| json!({"address": "127.0.0.1", "port": port});
        layout.edge = json!({"cdn": listen(self.doors.cdn), "internal": listen(self.doors.internal)});
    }

    async fn records_of(&self, zone: &str) -> Vec<String> {
        let route53 = aws_sdk_route53::Client::new(&self.config);
        let mut all = Vec::new();
        let mut next = None;
        loop {
            let list = route53.list_resource_record_sets().hosted_zone_id(zone).set_start_record_name(next);
            let list = list.send().await.expect("records");
            let sets = list.resource_record_sets.into_iter();
            let own = sets.filter(|set| !["NS", "SOA"].contains(&set.r#type.as_str()));
            all.extend(own.map(|set| {
                let target = set.alias_target.map(|alias| alias.dns_name);
                let values = set.resource_records.unwrap_or_default().into_iter().map(|record| record.value);
                let value = target.unwrap_or_else(|| values.collect::<Vec<_>>().join(" "));
                format!(
                    "{} {} {}",
                    set.name.trim_end_matches('.'),
                    set.r#type.as_str(),
                    value.trim_end_matches('.')
                )
            }));
            next = list.next_record_name;
            if next.is_none() {
                all.sort();
                all.dedup();
                return all;
            }
        }
    }

    /// What stands in the public zones: name, type and value.
    pub async fn records(&self) -> Vec<String> {
        [self.records_of(&self.zone).await, self.records_of(&self.proofs_zone).await].concat()
    }

    /// What stands in the private zone.
    pub async fn private_records(&self) -> Vec<String> {
        self.records_of(&self.private_zone).await
    }

    /// A record that somebody makes by hand.
    pub async fn add_record(&self, name: &str, kind: &str, value: &str) {
        let value = ResourceRecord::builder().value(value).build().expect("a value");
        let set = ResourceRecordSet::builder().name(name).r#type(RrType::from(kind)).ttl(60);
        let set = set.resource_records(value).build().expect("a record");
        let change = Change::builder().action(ChangeAction::Create).resource_record_set(set).build();
        let batch = ChangeBatch::builder().changes(change.expect("a change")).build().expect("a batch");
        let route53 = aws_sdk_route53::Client::new(&self.config);
        let made = route53.change_resource_record_sets().hosted_zone_id(&self.zone).change_batch(batch);
        made.send().await.expect("a record is made");
    }

    /// Certificates: the first name of each.
    pub async fn certificates(&self) -> Vec<String> {
        let acm = aws_sdk_acm::Client::new(&self.config);
        let list = acm.list_certificates().max_items(1_000).send().await.expect("certificates");
        let names = list.certificate_summary_list.unwrap_or_default().into_iter();
        let mut names: Vec<_> = names.filter_map(|one| one.domain_name).collect();
        names.sort();
        names
    }

    /// Distributions: their names.
    pub async fn distributions(&self) -> Vec<Value> {
        let cloudfront = aws_sdk_cloudfront::Client::new(&self.config);
        let list = cloudfront.list_distributions().send().await.expect("distributions");
        let items = list.distribution_list.and_then(|list| list.items).unwrap_or_default().into_iter();
        items
            .map(|one| {
                let headers = one.origins.and_then(|origins| origins.items.into_iter().next());
                let header = headers.and_then(|origin| origin.custom_headers?.items?.into_iter().next());
                json!({
                    "domain": one.domain_name,
                    "hosts": one.aliases.and_then(|aliases| aliases.items).unwrap_or_default(),
                    "secret": header.map(|header| header.header_value),
                })
            })
            .collect()
    }

    /// What lies in the table, in words.
    pub async fn rows(&self, partition: &str) -> Vec<String> {
        let table = ::aws::Table::new(&self.config, "gatehouse");
        let rows = table.read(::aws::Page::all(partition)).await.expect("rows");
        rows.iter().map(|row| format!("{row:?}")).collect()
    }
}

impl Lab {
    /// The whole edge on AWS.
    pub async fn on(cloud: &Cloud) -> Self {
        Self::with(|layout| cloud.configure(layout)).await
    }

    /// A GET through another listener than the usual ones, over TLS with whatever certificate; `None` when the handshake
    /// fails.
    pub async fn get_through(
        &self,
        port: u16,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<u16> {
        let client = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(true)
            .resolve(host, std::net::SocketAddr::from(([127, 0, 0, 1], port)))
            .build()
            .expect("a client");
        let mut request = client.get(format!("https://{host}:{port}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Some(request.send().await.ok()?.status().as_u16())
    }
}
