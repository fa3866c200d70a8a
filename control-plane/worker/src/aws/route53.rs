//! Names in Route 53: an alias for each region, chosen by latency, and beside them a record that says whose they are.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use aws::SdkConfig;
use aws_sdk_route53::{
    Client,
    error::SdkError,
    operation::change_resource_record_sets::ChangeResourceRecordSetsError,
    types::{
        AliasTarget, Change as SdkChange, ChangeAction, ChangeBatch, ChangeStatus, ResourceRecord,
        ResourceRecordSet, ResourceRecordSetRegion, RrType,
    },
};
use model::{Host, InstanceId};
use serde::Deserialize;

use runtime::telemetry::chain;

use super::{ApiError, Pace, Poll};
use crate::provider::{Dns, Owned, ProviderError, Target};

/// The zone that all distributions' names are in (Route 53 "Alias target").
const CLOUDFRONT_ZONE: &str = "Z2FDTNDATAQYW2";
/// Seconds.
const TTL_SECS: i64 = 300;
/// What the record that says whose a name is begins with.
const OWNER: &str = "_gatehouse.";
/// How one ends that was adopted: what it stands beside is somebody else's until the instance changes it.
const ADOPTED: &str = " adopted";

/// A record set, as far as we make any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Without the dot at the end.
    pub name: String,
    /// `A`, `AAAA`, `CNAME`, `TXT`; others are somebody else's.
    pub kind: String,
    /// Of several with one name, the one of the nearest region.
    pub region: Option<Latency>,
    /// What it says.
    pub value: Value,
}

/// Which of several is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// Also its identifier.
    pub region: String,
    /// Takes it out while it fails.
    pub health_check: Option<String>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Whatever another name of AWS says.
    Alias {
        /// Its zone.
        zone: String,
        /// The name.
        name: String,
        /// Whether it is only told while what it leads to is well.
        watched: bool,
    },
    /// These.
    Plain {
        /// Seconds.
        ttl: i64,
        /// In the form of a zone file.
        values: Vec<String>,
    },
}

/// One change of a batch, which is made whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Refused, if there is one.
    Create(Record),
    /// Whatever there is.
    Upsert(Record),
    /// Refused, unless it is just this one.
    Delete(Record),
}

/// Of Route 53, what we need.
#[async_trait]
pub trait Route53Api: fmt::Debug + Send + Sync {
    /// Makes changes in a zone; a name for them.
    async fn change(&self, zone: &str, changes: &[Change]) -> Result<String, ApiError>;
    /// Whether all name servers have the changes.
    async fn is_in_sync(&self, change: &str) -> Result<bool, ApiError>;
    /// All records of one name.
    async fn list(&self, zone: &str, name: &str) -> Result<Vec<Record>, ApiError>;
    /// All records of a zone.
    async fn all(&self, zone: &str) -> Result<Vec<Record>, ApiError>;
}

/// Which zone holds which names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Zones(BTreeMap<String, String>);

/// The edge of one region.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edge {
    /// Of AWS: `eu-west-1`.
    pub region: String,
    /// The name of its load balancer.
    pub target: String,
    /// The zone of that name.
    pub zone: String,
    /// Of Route 53; without it the alias asks the load balancer.
    #[serde(default)]
    pub health_check: Option<String>,
}

/// Names of services.
#[derive(Debug)]
pub struct Route53Dns {
    /// The service.
    pub api: Arc<dyn Route53Api>,
    /// Where names can be.
    pub zones: Zones,
    /// Where they lead to.
    pub edges: Vec<Edge>,
    /// The same for names within the company's networks.
    pub private_zones: Zones,
    /// Where those lead to.
    pub internal: Vec<Edge>,
    /// Between two looks.
    pub poll: Poll,
}

impl Zones {
    /// The zone with the most of the name.
    pub fn of(&self, name: &str) -> Option<&str> {
        let holds = |domain: &str| {
            name == domain || name.strip_suffix(domain).is_some_and(|below| below.ends_with('.'))
        };
        let found = self.0.iter().filter(|(domain, _)| holds(domain)).max_by_key(|(domain, _)| domain.len());
        found.map(|(_, zone)| zone.as_str())
    }

    /// All of them.
    fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn owner_of(host: &Host, id: &InstanceId) -> Record {
    Record::plain(format!("{OWNER}{host}"), "TXT", format!("\"instance={id}\""))
}

fn addresses(host: &Host, edges: &[Edge], to: &Target) -> Vec<Record> {
    let record = |region, zone: &str, name: &str| {
        // As Route 53 writes names; load balancers' own are in both cases.
        // Distributions are always well, as far as Route 53 knows.
        let watched = zone != CLOUDFRONT_ZONE;
        let value = Value::Alias { zone: zone.to_owned(), name: name.to_ascii_lowercase(), watched };
        Record { name: host.to_string(), kind: "A".into(), region, value }
    };
    if let Target::Cdn(name) = to {
        return vec![record(None, CLOUDFRONT_ZONE, name)];
    }
    let of = |edge: &Edge| {
        let latency = Latency { region: edge.region.clone(), health_check: edge.health_check.clone() };
        record(Some(latency), &edge.zone, &edge.target)
    };
    edges.iter().map(of).collect()
}

/// Both are the same record set, whatever it says.
fn is_same(one: &Record, other: &Record) -> bool {
    let identifier = |record: &Record| record.region.as_ref().map(|latency| latency.region.clone());
    one.name == other.name && one.kind == other.kind && identifier(one) == identifier(other)
}

impl Route53Dns {
    /// What has to change for a host; nothing, where it is as wanted.
    async fn changes(
        &self,
        zone: &str,
        host: &Host,
        wanted: &[Record],
        owner: &Record,
    ) -> Result<Vec<Change>, ProviderError> {
        let reading = |error: ApiError| error.of("looking names up in Route 53");
        let found = self.api.list(zone, host.as_str()).await.map_err(reading)?;
        let found = found.into_iter().filter(|record| ["A", "AAAA", "CNAME"].contains(&record.kind.as_str()));
        let found: Vec<_> = found.collect();
        let marks = self.api.list(zone, &owner.name).await.map_err(reading)?;
        let mark = marks.into_iter().find(|record| record.kind == "TXT");
        if wanted.is_empty() {
            // What another instance has made of it meanwhile, or a person, is theirs.
            let is_ours = mark.as_ref() == Some(owner);
            // Adopted, and never changed: only the adoption ends.
            let is_adopted = !is_ours && mark.as_ref().and_then(Record::owned) == owner.owned();
            let own = found.into_iter().filter(|_| is_ours).chain(mark);
            let deletes = own.map(Change::Delete).collect();
            return Ok(if is_ours || is_adopted { deletes } else { Vec::new() });
        }
        if mark.is_none() && !found.is_empty() {
            return Err(ProviderError::lasting(
                "publishing names in Route 53",
                format!(
                    "{host} has records in the zone {zone} that were not made by Gatehouse; adopt or delete them"
                ),
            ));
        }
        let mut changes: Vec<_> = (found.iter())
            .filter(|record| !wanted.iter().any(|one| is_same(one, record)))
            .cloned()
            .map(Change::Delete)
            .collect();
        for record in wanted {
            match found.iter().find(|one| is_same(one, record)) {
                None => changes.push(Change::Create(record.clone())),
                Some(one) if one != record => changes.push(Change::Upsert(record.clone())),
                Some(_) => {}
            }
        }
        match mark {
            None => changes.push(Change::Create(owner.clone())),
            Some(mark) if mark != *owner => changes.push(Change::Upsert(owner.clone())),
            Some(_) => {}
        }
        Ok(changes)
    }
}

/// Waits until all name servers have the changes.
pub(super) async fn in_sync(
    api: &dyn Route53Api,
    changes: &[String],
    poll: Poll,
) -> Result<(), ProviderError> {
    for change in changes {
        while !api.is_in_sync(change).await.map_err(|error| error.of("waiting for Route 53"))? {
            poll.rest().await;
        }
    }
    Ok(())
}

#[async_trait]
impl Dns for Route53Dns {
    async fn set(
        &self,
        id: &InstanceId,
        hosts: &[Host],
        to: &Target,
        no_more: &[Host],
    ) -> Result<(), ProviderError> {
        let by_zone = self.all_changes(id, hosts, to, no_more).await?;
        let mut pending = Vec::new();
        for (zone, changes) in by_zone.into_iter().filter(|(_, changes)| !changes.is_empty()) {
            let change = self.api.change(zone, &changes).await;
            pending.push(change.map_err(|error| error.of("publishing names in Route 53"))?);
        }
        in_sync(&*self.api, &pending, self.poll).await
    }

    async fn look(&self, id: &InstanceId, hosts: &[Host], to: &Target) -> Result<Vec<String>, ProviderError> {
        let by_zone = self.all_changes(id, hosts, to, &[]).await?;
        Ok(by_zone.into_values().flatten().map(|change| change.difference()).collect())
    }

    async fn owned(&self) -> Result<Vec<Owned>, ProviderError> {
        let mut owned = Vec::new();
        for zone in self.zones.ids().chain(self.private_zones.ids()) {
            let all = self.api.all(zone).await.map_err(|error| error.of("listing names in Route 53"))?;
            owned.extend(all.iter().filter_map(Record::owned));
        }
        Ok(owned)
    }

    async fn adopt(&self, id: &InstanceId, host: &Host) -> Result<(), ProviderError> {
        let zones = [self.zones.of(host.as_str()), self.private_zones.of(host.as_str())];
        let mut pending = Vec::new();
        for zone in zones.into_iter().flatten() {
            // Refused where it is an instance's already: the words say whose.
            let marks = self.api.list(zone, &format!("{OWNER}{host}")).await;
            let marks = marks.map_err(|error| error.of("looking names up in Route 53"))?;
            if let Some((other, _)) = marks.iter().find_map(Record::owned).filter(|(other, _)| other != id) {
                let why = format!("{host} is the instance {other}'s");
                return Err(ProviderError::lasting("adopting a name in Route 53", why));
            }
            if !marks.is_empty() {
                continue;
            }
            let adopted = format!("\"instance={id}{ADOPTED}\"");
            let mark = Record::plain(format!("{OWNER}{host}"), "TXT", adopted);
            let change = self.api.change(zone, &[Change::Create(mark)]).await;
            pending.push(change.map_err(|error| error.of("adopting a name in Route 53"))?);
        }
        if zones.iter().all(Option::is_none) {
            let why = format!("{host} is in none of the zones that are configured");
            return Err(ProviderError::lasting("adopting a name in Route 53", why));
        }
        in_sync(&*self.api, &pending, self.poll).await
    }
}

impl Route53Dns {
    /// What has to change, by zone.
    async fn all_changes<'a>(
        &'a self,
        id: &InstanceId,
        hosts: &[Host],
        to: &Target,
        no_more: &[Host],
    ) -> Result<BTreeMap<&'a str, Vec<Change>>, ProviderError> {
        let mut by_zone: BTreeMap<&str, Vec<Change>> = BTreeMap::new();
        for (host, is_wanted) in
            hosts.iter().map(|host| (host, true)).chain(no_more.iter().map(|host| (host, false)))
        {
            // Names that are to go may be in either.
            let is_internal = *to == Target::Internal && is_wanted;
            let zones = [(&self.zones, !is_internal), (&self.private_zones, is_internal)];
            let mut is_placed = false;
            for (zones, is_here) in zones {
                let Some(zone) = zones.of(host.as_str()) else { continue };
                let edges = if is_internal { &self.internal } else { &self.edges };
                let wanted = if is_wanted && is_here { addresses(host, edges, to) } else { Vec::new() };
                is_placed |= !wanted.is_empty();
                let changes = self.changes(zone, host, &wanted, &owner_of(host, id)).await?;
                by_zone.entry(zone).or_default().extend(changes);
            }
            if is_wanted && !is_placed {
                let why = format!("{host} is in none of the zones that are configured");
                return Err(ProviderError::lasting("publishing names in Route 53", why));
            }
        }
        Ok(by_zone)
    }
}

impl Change {
    /// How what is there differs, for people.
    fn difference(&self) -> String {
        let (Self::Create(record) | Self::Upsert(record) | Self::Delete(record)) = self;
        let region = record.region.as_ref().map(|latency| format!(" {}", latency.region)).unwrap_or_default();
        let what = match self {
            Self::Create(_) => "is missing",
            Self::Upsert(_) => "says something else",
            Self::Delete(_) => "should not be there",
        };
        format!("{} {}{region} {what}", record.name, record.kind)
    }
}

/// The service itself.
#[derive(Debug)]
pub struct Route53Client {
    client: Client,
    pace: Arc<dyn Pace>,
}

impl Route53Client {
    /// Calls in turn.
    pub fn new(config: &SdkConfig, pace: Arc<dyn Pace>) -> Self {
        Self { client: Client::new(config), pace }
    }
}

fn passing<E: std::error::Error + 'static>(error: &E) -> ApiError {
    ApiError::Passing(chain(error))
}

fn refused_change(error: &SdkError<ChangeResourceRecordSetsError>) -> ApiError {
    let text = chain(error);
    match error.as_service_error() {
        Some(ChangeResourceRecordSetsError::NoSuchHostedZone(_)) => ApiError::Refused(text),
        // What was read has changed since, or is not true: whoever made the batch looks again.
        _ => ApiError::Passing(text),
    }
}

impl Record {
    /// With one value.
    pub fn plain(name: impl Into<String>, kind: &str, value: impl Into<String>) -> Self {
        let value = Value::Plain { ttl: TTL_SECS, values: vec![value.into()] };
        Self { name: name.into(), kind: kind.to_owned(), region: None, value }
    }

    /// The instance and the host, of a record that says whose a name is.
    fn owned(&self) -> Option<Owned> {
        let Value::Plain { values, .. } = &self.value else { return None };
        let host = self.name.strip_prefix(OWNER).filter(|_| self.kind == "TXT")?;
        let id = values.first()?.trim_matches('"').strip_prefix("instance=")?;
        let id = id.strip_suffix(ADOPTED).unwrap_or(id);
        Some((id.parse().ok()?, host.to_owned()))
    }

    fn written(&self) -> Result<ResourceRecordSet, ApiError> {
        let wrong = |error| passing::<aws_sdk_route53::error::BuildError>(&error);
        let mut set = ResourceRecordSet::builder().name(&self.name).r#type(RrType::from(self.kind.as_str()));
        if let Some(Latency { region, health_check }) = &self.region {
            set = set
                .set_identifier(region)
                .region(ResourceRecordSetRegion::from(region.as_str()))
                .set_health_check_id(health_check.clone());
        }
        set = match &self.value {
            Value::Alias { zone, name, watched } => {
                let alias = AliasTarget::builder().hosted_zone_id(zone).dns_name(name);
                set.alias_target(alias.evaluate_target_health(*watched).build().map_err(wrong)?)
            }
            Value::Plain { ttl, values } => {
                let records = values.iter().map(|value| ResourceRecord::builder().value(value).build());
                let records = records.collect::<Result<_, _>>().map_err(wrong)?;
                set.ttl(*ttl).set_resource_records(Some(records))
            }
        };
        set.build().map_err(wrong)
    }

    fn read(set: ResourceRecordSet) -> Self {
        // A wildcard is asked for as `*` and listed as its code ("Domain name format").
        let plain = |name: &str| name.trim_end_matches('.').replacen("\\052", "*", 1).to_ascii_lowercase();
        let region = set
            .region
            .map(|region| Latency { region: region.as_str().to_owned(), health_check: set.health_check_id });
        let value = match set.alias_target {
            Some(alias) => Value::Alias {
                zone: alias.hosted_zone_id,
                name: plain(&alias.dns_name),
                watched: alias.evaluate_target_health,
            },
            None => Value::Plain {
                ttl: set.ttl.unwrap_or_default(),
                values: (set.resource_records.unwrap_or_default().into_iter())
                    .map(|record| record.value)
                    .collect(),
            },
        };
        Self { name: plain(&set.name), kind: set.r#type.as_str().to_owned(), region, value }
    }
}

#[async_trait]
impl Route53Api for Route53Client {
    async fn change(&self, zone: &str, changes: &[Change]) -> Result<String, ApiError> {
        let mut batch = ChangeBatch::builder().comment("Gatehouse");
        for change in changes {
            let (action, record) = match change {
                Change::Create(record) => (ChangeAction::Create, record),
                Change::Upsert(record) => (ChangeAction::Upsert, record),
                Change::Delete(record) => (ChangeAction::Delete, record),
            };
            let change = SdkChange::builder().action(action).resource_record_set(record.written()?).build();
            batch = batch.changes(change.map_err(|error| passing(&error))?);
        }
        let batch = batch.build().map_err(|error| passing(&error))?;
        self.pace.turn().await;
        let change = self.client.change_resource_record_sets().hosted_zone_id(zone).change_batch(batch);
        let answer = change.send().await.map_err(|error| refused_change(&error))?;
        Ok(answer.change_info.map(|info| info.id).unwrap_or_default())
    }

    async fn is_in_sync(&self, change: &str) -> Result<bool, ApiError> {
        self.pace.turn().await;
        let answer = self.client.get_change().id(change).send().await.map_err(|error| passing(&error))?;
        Ok(answer.change_info.is_some_and(|info| info.status == ChangeStatus::Insync))
    }

    async fn list(&self, zone: &str, name: &str) -> Result<Vec<Record>, ApiError> {
        self.listed(zone, Some(name)).await
    }

    async fn all(&self, zone: &str) -> Result<Vec<Record>, ApiError> {
        self.listed(zone, None).await
    }
}

impl Route53Client {
    /// The records of one name, or all of them.
    async fn listed(&self, zone: &str, name: Option<&str>) -> Result<Vec<Record>, ApiError> {
        let mut records = Vec::new();
        let mut start = (name.map(str::to_owned), None, None);
        loop {
            self.pace.turn().await;
            let (start_name, kind, identifier) = start;
            let list = self
                .client
                .list_resource_record_sets()
                .hosted_zone_id(zone)
                .set_start_record_name(start_name)
                .set_start_record_type(kind)
                .set_start_record_identifier(identifier);
            let answer = list.send().await.map_err(|error| match error.as_service_error() {
                Some(service) if service.is_no_such_hosted_zone() => ApiError::Refused(chain(&error)),
                _ => passing(&error),
            })?;
            let read: Vec<_> = answer.resource_record_sets.into_iter().map(Record::read).collect();
            let is_asked_for = |record: &Record| name.is_none_or(|name| record.name == name);
            let is_over = !read.iter().all(is_asked_for);
            records.extend(read.into_iter().filter(is_asked_for));
            match answer.next_record_name {
                Some(next) if answer.is_truncated && !is_over => {
                    start = (Some(next), answer.next_record_type, answer.next_record_identifier);
                }
                _ => return Ok(records),
            }
        }
    }
}
