//! What the control plane stands on: SQLite and files on one machine, or AWS.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use aws::{SdkConfig, Table};
use model::plan::Plan;
use queue::{Queue, SqliteQueue, SqsQueue};
use serde::Deserialize;
use sqlite::Database;
use store::{DynamoStore, KmsKeys, Sealing, SqliteStore, Store};
use worker::{
    Cdn, Certificates, Dns, NoCdn,
    aws::{
        AcmCertificates, AcmClient, CloudFrontCdn, CloudFrontClient, Edge, Limiter, Origin, Poll, Route53Api,
        Route53Client, Route53Dns, Zones,
    },
    certificates::LocalCa,
    dns::LocalZone,
};

use crate::config::Config;

/// What is configured of AWS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AwsSettings {
    /// A DynamoDB table, as `cfn/data.yaml` makes it.
    table: String,
    /// The URL of an SQS queue, as `cfn/data.yaml` makes it.
    queue: String,
    /// Of KMS: it wraps the keys of what the table keeps secret. Without it they are in the file of `--store-keys`.
    #[serde(default)]
    key: Option<String>,
    /// Names in Route 53 and certificates of ACM; without it a local zone and a local CA, in development.
    #[serde(default)]
    pub(crate) dns: Option<DnsSettings>,
    /// Distributions of `CloudFront`; without it the plan `edge` is not offered.
    #[serde(default)]
    pub(crate) cdn: Option<CdnSettings>,
    /// Seconds between two looks at what AWS is busy with.
    #[serde(default = "poll_secs")]
    poll_secs: f64,
    /// Of all workers together.
    #[serde(default)]
    calls_per_second: CallsPerSecond,
}

/// Where names are, and where they lead.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsSettings {
    /// Domains, and the ids of their hosted zones.
    zones: Zones,
    /// The load balancers of each region.
    edges: Vec<Edge>,
    /// The same for names of the plan `internal`.
    #[serde(default)]
    private_zones: Zones,
    #[serde(default)]
    internal: Vec<Edge>,
}

/// What distributions have in common.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CdnSettings {
    /// A name of the load balancers.
    origin: String,
    /// Where they take what comes through the CDN.
    #[serde(default = "https_port")]
    port: u16,
    /// ARN of a web ACL of scope CLOUDFRONT.
    #[serde(default)]
    web_acl: Option<String>,
}

/// A bit below what AWS allows an account, for people have calls to make too.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CallsPerSecond {
    route53: u64,
    acm: u64,
    cloudfront: u64,
}

impl Default for CallsPerSecond {
    fn default() -> Self {
        Self { route53: 4, acm: 4, cloudfront: 4 }
    }
}

fn poll_secs() -> f64 {
    5.0
}

fn https_port() -> u16 {
    443
}

/// The header that shows that a request came through the CDN; the default listeners know it.
const ORIGIN_HEADER: &str = "x-gatehouse-origin";
/// Where distributions find their certificates.
const CDN_REGION: &str = "us-east-1";

impl AwsSettings {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let settings: Self = serde_norway::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(
            settings.poll_secs.is_finite() && settings.poll_secs > 0.0,
            "poll_secs: more than 0, got {}",
            settings.poll_secs
        );
        ensure!(
            settings.queue.strip_suffix(".fifo").is_some(),
            "queue: the URL of a queue that is first in, first out (it ends with .fifo), got {:?}",
            settings.queue
        );
        let calls = settings.calls_per_second;
        for (api, most) in [("route53", calls.route53), ("acm", calls.acm), ("cloudfront", calls.cloudfront)]
        {
            ensure!(most > 0, "calls_per_second.{api}: at least 1, got 0");
        }
        if let Some(dns) = &settings.dns {
            ensure!(!dns.zones.is_empty(), "dns.zones: at least one");
            ensure!(!dns.edges.is_empty(), "dns.edges: at least one");
            ensure!(
                dns.private_zones.is_empty() == dns.internal.is_empty(),
                "dns: private_zones and internal belong together"
            );
        }
        ensure!(
            settings.cdn.is_none() || settings.dns.is_some(),
            "cdn: needs dns, to prove its certificates"
        );
        Ok(settings)
    }
}

/// Where instances and jobs are.
pub(crate) struct Engines {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
}

/// What publishes services outside of the fleet.
pub(crate) struct Providers {
    pub(crate) certificates: Arc<dyn Certificates>,
    pub(crate) dns: Arc<dyn Dns>,
    pub(crate) cdn: Arc<dyn Cdn>,
}

impl Engines {
    pub(crate) async fn open(config: &mut Config) -> anyhow::Result<Self> {
        let Some(settings) = config.aws.clone() else {
            let keys = std::mem::take(&mut config.store_keys);
            let shown = || config.database.display().to_string();
            let database = Database::open(&config.database).with_context(shown)?;
            let store = Arc::new(SqliteStore::on(database.clone(), keys).with_context(shown)?);
            return Ok(Self { store, queue: Arc::new(SqliteQueue::on(database).with_context(shown)?) });
        };
        let sdk = aws::connect(None).await;
        let table = Table::new(&sdk, &settings.table);
        let queue = Arc::new(SqsQueue::new(&sdk, &settings.queue, table));
        let store = dynamodb(&sdk, &settings, config).await?;
        Ok(Self { store: Arc::new(store), queue })
    }
}

async fn dynamodb(
    sdk: &SdkConfig,
    settings: &AwsSettings,
    config: &mut Config,
) -> anyhow::Result<DynamoStore> {
    let table = Table::new(sdk, &settings.table);
    let sealing = match &settings.key {
        Some(key) => Sealing::Kms(KmsKeys::new(sdk, key, table.clone())),
        None => Sealing::With(std::mem::take(&mut config.store_keys)),
    };
    DynamoStore::open(table, sealing).await.with_context(|| format!("--aws: table {}", settings.table))
}

/// The store alone, with a new key that seals from now on, where one can be made here.
pub(crate) async fn store_with_new_key(config: &mut Config) -> anyhow::Result<Arc<dyn Store>> {
    let Some(settings) = config.aws.clone() else { return Ok(Engines::open(config).await?.store) };
    let sdk = aws::connect(None).await;
    let store = dynamodb(&sdk, &settings, config).await?;
    store.add_key().await.context("--aws: key")?;
    Ok(Arc::new(store))
}

impl Providers {
    pub(crate) async fn new(config: &Config) -> anyhow::Result<Self> {
        let Some((settings, dns)) = config.aws.as_ref().and_then(|aws| Some((aws, aws.dns.as_ref()?))) else {
            return Self::local(config);
        };
        let sdk = aws::connect(None).await;
        let pace = |api, per_second| {
            Arc::new(Limiter::new(Table::new(&sdk, &settings.table), api, per_second)) as Arc<_>
        };
        let calls = settings.calls_per_second;
        let poll = Poll(Duration::from_secs_f64(settings.poll_secs));
        let route53: Arc<dyn Route53Api> = Arc::new(Route53Client::new(&sdk, pace("route53", calls.route53)));
        let acm = |sdk: &SdkConfig, name| AcmCertificates {
            api: Arc::new(AcmClient::new(sdk, pace(name, calls.acm))),
            dns: route53.clone(),
            zones: dns.zones.clone(),
            poll,
        };
        let cdn: Arc<dyn Cdn> = match &settings.cdn {
            None => Arc::new(NoCdn),
            Some(cdn) => {
                let secret =
                    config.edge.origin_secrets.newest().context("--origin-secrets: needed for cdn")?;
                Arc::new(CloudFrontCdn {
                    api: Arc::new(CloudFrontClient::new(&sdk, pace("cloudfront", calls.cloudfront))),
                    certificates: acm(&aws::connect(Some(CDN_REGION)).await, "acm-us-east-1"),
                    origin: Origin {
                        domain: cdn.origin.clone(),
                        port: cdn.port,
                        secret: (ORIGIN_HEADER.into(), secret.to_owned()),
                        web_acl: cdn.web_acl.clone(),
                    },
                    poll,
                })
            }
        };
        Ok(Self {
            certificates: Arc::new(acm(&sdk, "acm")),
            dns: Arc::new(Route53Dns {
                api: route53.clone(),
                zones: dns.zones.clone(),
                edges: dns.edges.clone(),
                private_zones: dns.private_zones.clone(),
                internal: dns.internal.clone(),
                poll,
            }),
            cdn,
        })
    }

    fn local(config: &Config) -> anyhow::Result<Self> {
        let address = config.edge.http.address.parse::<IpAddr>().ok();
        let edge = address.filter(|address| !address.is_unspecified());
        let edge = edge.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Self {
            certificates: Arc::new(LocalCa::open(&config.data_dir.join("dev-ca"))?),
            dns: Arc::new(LocalZone::new(&config.data_dir.join("zone"), edge)),
            cdn: Arc::new(NoCdn),
        })
    }
}

/// The plans that can be kept here.
pub(crate) fn plans(config: &Config) -> Vec<Plan> {
    let aws = config.aws.as_ref();
    let has_private_names = aws.and_then(|aws| aws.dns.as_ref()).is_none_or(|dns| !dns.internal.is_empty());
    let has = |plan: &Plan| match plan {
        Plan::Standard => true,
        Plan::Edge => config.edge.cdn.is_some() && aws.is_some_and(|aws| aws.cdn.is_some()),
        Plan::Internal => config.edge.internal.is_some() && has_private_names,
    };
    Plan::ALL.into_iter().filter(has).collect()
}
