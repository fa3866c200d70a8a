//! Route 53, ACM and `CloudFront` in memory, as strict as AWS and as slow as a test wants. It refuses what AWS refuses
//! and what emulators let through: a CREATE of what is there, a DELETE of what is not, an outdated ETag, an alias of
//! another distribution, a distribution that is deleted while it answers, a certificate nobody has proven.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use model::InstanceId;
use time::{Duration, OffsetDateTime};

use super::{
    AcmApi, ApiError, CloudFrontApi, DistributionSettings, Route53Api,
    acm::{Described, Exported, State, Wanted},
    cloudfront::Found,
    route53::{Change, Record},
};
use crate::provider::Owned;

/// What a call that is to fail does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing: it is throttled.
    Throttled,
    /// All, and the answer is lost.
    AnswerLost,
}

#[derive(Debug, Default)]
pub(super) struct Fake {
    world: Mutex<World>,
}

#[derive(Debug, Default)]
struct World {
    calls: usize,
    /// Which call fails, from 1, and how.
    fault: Option<(usize, Fault)>,
    /// Records, by zone.
    zones: BTreeMap<String, Zone>,
    /// Looks until a change is in sync.
    changes: BTreeMap<String, u32>,
    certificates: BTreeMap<String, Kept>,
    tokens: BTreeMap<String, String>,
    distributions: BTreeMap<String, Made>,
    /// References of distributions, those that are gone too.
    references: Vec<String>,
    made: usize,
}

#[derive(Debug)]
struct Zone {
    domain: String,
    records: Vec<Record>,
}

#[derive(Debug, Clone)]
struct Kept {
    of: InstanceId,
    hosts: Vec<String>,
    exportable: bool,
    /// The records to prove its names are told from the second look on.
    looks: u32,
}

#[derive(Debug, Clone)]
struct Made {
    settings: DistributionSettings,
    etag: u32,
    /// Looks until it is deployed.
    busy: u32,
}

/// Looks until a change has come everywhere.
const LOOKS: u32 = 2;

fn proof(host: &str) -> (String, Record) {
    (host.to_owned(), Record::plain(format!("_proof.{host}"), "CNAME", "proof.acm-validations.test"))
}

fn is_same_set(one: &Record, other: &Record) -> bool {
    let identifier = |record: &Record| record.region.as_ref().map(|latency| latency.region.clone());
    (&one.name, &one.kind, identifier(one)) == (&other.name, &other.kind, identifier(other))
}

impl Zone {
    /// One change of a batch.
    fn make(&mut self, change: &Change) -> Result<(), ApiError> {
        let wrong = |rule: &str, record: &Record| {
            Err(ApiError::Passing(format!("InvalidChangeBatch: {rule}: {record:?}")))
        };
        let (Change::Create(record) | Change::Upsert(record) | Change::Delete(record)) = change;
        if record.name != self.domain && !record.name.ends_with(&format!(".{}", self.domain)) {
            return wrong("not in this zone", record);
        }
        let at = self.records.iter().position(|one| is_same_set(one, record));
        match (change, at) {
            (Change::Create(_), Some(_)) => return wrong("it already exists", record),
            (Change::Delete(_), None) => return wrong("it was not found", record),
            (Change::Delete(_), Some(at)) if self.records[at] != *record => {
                return wrong("the values do not match", record);
            }
            (Change::Delete(_), Some(at)) => {
                self.records.remove(at);
                return Ok(());
            }
            (Change::Upsert(_), Some(at)) => self.records[at] = record.clone(),
            (Change::Create(_) | Change::Upsert(_), None) => self.records.push(record.clone()),
        }
        // RFC 1034 section 3.6.2: beside a CNAME there is nothing; and a latency record stands beside no simple one.
        let beside = |one: &&Record| one.name == record.name && *one != record;
        let clashes = |one: &Record| {
            one.kind == "CNAME"
                || record.kind == "CNAME"
                || (one.kind == record.kind && one.region.is_some() != record.region.is_some())
        };
        if self.records.iter().filter(beside).any(clashes) {
            return wrong("another record is in its place", record);
        }
        Ok(())
    }
}

impl World {
    fn proven(&self, host: &str) -> bool {
        let (_, wanted) = proof(host);
        self.zones.values().any(|zone| zone.records.contains(&wanted))
    }

    fn state(&self, kept: &Kept) -> State {
        if kept.hosts.iter().all(|host| self.proven(host)) {
            State::Issued(OffsetDateTime::now_utc() + Duration::days(395))
        } else {
            State::Pending
        }
    }

    fn named(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}", self.made)
    }

    /// What `CloudFront` checks of a configuration.
    fn check(&self, id: &str, settings: &DistributionSettings) -> Result<(), ApiError> {
        let refused = |why: String| Err(ApiError::Refused(why));
        for (other, made) in &self.distributions {
            if let Some(taken) =
                settings.hosts.iter().find(|host| other != id && made.settings.hosts.contains(host))
            {
                return Err(ApiError::Exists(format!("CNAMEAlreadyExists: {taken} is an alias of {other}")));
            }
        }
        let Some(kept) = self.certificates.get(&settings.certificate) else {
            return refused(format!("InvalidViewerCertificate: {} is not there", settings.certificate));
        };
        if self.state(kept) == State::Pending {
            return refused("InvalidViewerCertificate: it is not issued".into());
        }
        match settings.hosts.iter().find(|host| !kept.hosts.contains(host)) {
            Some(host) => refused(format!("InvalidViewerCertificate: it does not cover {host}")),
            None => Ok(()),
        }
    }
}

impl Fake {
    /// With this zone and nothing in it.
    pub(super) fn with_zone(id: &str, domain: &str) -> Self {
        let fake = Self::default();
        fake.add_zone(id, domain);
        fake
    }

    /// One more.
    pub(super) fn add_zone(&self, id: &str, domain: &str) {
        let zone = Zone { domain: domain.to_owned(), records: Vec::new() };
        self.world().zones.insert(id.to_owned(), zone);
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call of this number, counted from now, fails.
    pub(super) fn fail(&self, call: usize, fault: Fault) {
        let mut world = self.world();
        world.fault = Some((world.calls + call, fault));
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> usize {
        self.world().calls
    }

    /// A record that somebody else makes.
    pub(super) fn add(&self, zone: &str, record: Record) {
        self.world().zones.get_mut(zone).unwrap().records.push(record);
    }

    /// All records of a zone, sorted, in words.
    pub(super) fn records(&self, zone: &str) -> Vec<String> {
        let world = self.world();
        let shown = |record: &Record| {
            let region = record.region.as_ref().map(|latency| latency.region.as_str()).unwrap_or_default();
            let value = match &record.value {
                super::route53::Value::Alias { name, .. } => name.clone(),
                super::route53::Value::Plain { values, .. } => values.join(" "),
            };
            format!("{} {} {region} {value}", record.name, record.kind).replace("  ", " ")
        };
        let mut all: Vec<_> = world.zones[zone].records.iter().map(shown).collect();
        all.sort();
        all
    }

    /// The hosts of each certificate.
    pub(super) fn certificates(&self) -> Vec<(Vec<String>, bool)> {
        let world = self.world();
        let mut all: Vec<_> =
            world.certificates.values().map(|kept| (kept.hosts.clone(), kept.exportable)).collect();
        all.sort();
        all
    }

    /// The hosts of each distribution, and whether it answers.
    pub(super) fn distributions(&self) -> Vec<(Vec<String>, bool)> {
        let world = self.world();
        let shown = |made: &Made| (made.settings.hosts.clone(), made.settings.enabled);
        world.distributions.values().map(shown).collect()
    }

    /// One call: throttled, or made, or made with its answer lost.
    fn call<T>(&self, make: impl FnOnce(&mut World) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut world = self.world();
        world.calls += 1;
        let fault = world.fault.filter(|(at, _)| *at == world.calls).map(|(_, fault)| fault);
        match fault {
            Some(Fault::Throttled) => Err(ApiError::Passing("Throttling: rate exceeded".into())),
            Some(Fault::AnswerLost) => {
                let _lost = make(&mut world);
                Err(ApiError::Passing("the connection was reset".into()))
            }
            None => make(&mut world),
        }
    }
}

#[async_trait]
impl Route53Api for Fake {
    async fn change(&self, zone: &str, changes: &[Change]) -> Result<String, ApiError> {
        self.call(|world| {
            let id = world.named("change");
            let Some(zone) = world.zones.get_mut(zone) else {
                return Err(ApiError::Refused(format!("NoSuchHostedZone: {zone}")));
            };
            let before = zone.records.clone();
            for change in changes {
                if let Err(refused) = zone.make(change) {
                    zone.records = before;
                    return Err(refused);
                }
            }
            world.changes.insert(id.clone(), LOOKS);
            Ok(id)
        })
    }

    async fn is_in_sync(&self, change: &str) -> Result<bool, ApiError> {
        self.call(|world| {
            let Some(left) = world.changes.get_mut(change) else {
                return Err(ApiError::Missing(format!("NoSuchChange: {change}")));
            };
            *left = left.saturating_sub(1);
            Ok(*left == 0)
        })
    }

    async fn list(&self, zone: &str, name: &str) -> Result<Vec<Record>, ApiError> {
        self.call(|world| {
            let Some(zone) = world.zones.get(zone) else {
                return Err(ApiError::Refused(format!("NoSuchHostedZone: {zone}")));
            };
            Ok(zone.records.iter().filter(|record| record.name == name).cloned().collect())
        })
    }

    async fn all(&self, zone: &str) -> Result<Vec<Record>, ApiError> {
        self.call(|world| {
            let found = world.zones.get(zone).map(|zone| zone.records.clone());
            found.ok_or_else(|| ApiError::Refused(format!("NoSuchHostedZone: {zone}")))
        })
    }
}

#[async_trait]
impl AcmApi for Fake {
    async fn request(&self, wanted: &Wanted<'_>) -> Result<String, ApiError> {
        self.call(|world| {
            let hosts: Vec<_> = wanted.hosts.iter().map(ToString::to_string).collect();
            if let Some(arn) = world.tokens.get(wanted.token)
                && let Some(kept) = world.certificates.get(arn)
            {
                if kept.hosts != hosts || kept.exportable != wanted.exportable {
                    return Err(ApiError::Refused("the token was another request's".into()));
                }
                return Ok(arn.clone());
            }
            let arn = world.named("certificate");
            let kept = Kept { of: wanted.id.clone(), hosts, exportable: wanted.exportable, looks: 0 };
            world.certificates.insert(arn.clone(), kept);
            world.tokens.insert(wanted.token.to_owned(), arn.clone());
            Ok(arn)
        })
    }

    async fn describe(&self, arn: &str) -> Result<Described, ApiError> {
        self.call(|world| {
            let Some(kept) = world.certificates.get_mut(arn) else {
                return Err(ApiError::Missing(format!("ResourceNotFoundException: {arn}")));
            };
            kept.looks += 1;
            let kept = kept.clone();
            let proofs = if kept.looks < LOOKS {
                Vec::new()
            } else {
                kept.hosts.iter().map(|host| proof(host)).collect()
            };
            Ok(Described { state: world.state(&kept), proofs })
        })
    }

    async fn export(&self, arn: &str) -> Result<Exported, ApiError> {
        self.call(|world| match world.certificates.get(arn) {
            None => Err(ApiError::Missing(format!("ResourceNotFoundException: {arn}"))),
            Some(kept) if !kept.exportable => Err(ApiError::Refused("it is not exportable".into())),
            Some(kept) if world.state(kept) == State::Pending => {
                Err(ApiError::Passing("RequestInProgressException".into()))
            }
            Some(kept) => Ok(Exported { chain: kept.hosts.join(" "), key: format!("key of {arn}") }),
        })
    }

    async fn list(&self, exportable: bool) -> Result<Vec<Owned>, ApiError> {
        self.call(|world| {
            let own = world.certificates.iter().filter(|(_, kept)| kept.exportable == exportable);
            Ok(own.map(|(arn, kept)| (kept.of.clone(), arn.clone())).collect())
        })
    }

    async fn delete(&self, arn: &str) -> Result<(), ApiError> {
        self.call(|world| {
            if world.distributions.values().any(|made| made.settings.certificate == arn) {
                return Err(ApiError::Passing(format!("ResourceInUseException: {arn}")));
            }
            let gone = world.certificates.remove(arn).map(drop);
            gone.ok_or_else(|| ApiError::Missing(format!("ResourceNotFoundException: {arn}")))
        })
    }
}

fn found(id: &str, made: &Made) -> Found {
    Found {
        id: id.to_owned(),
        domain: format!("{id}.cloudfront.test"),
        etag: made.etag.to_string(),
        deployed: made.busy == 0,
        settings: made.settings.clone(),
    }
}

fn missing(id: &str) -> ApiError {
    ApiError::Missing(format!("NoSuchDistribution: {id}"))
}

#[async_trait]
impl CloudFrontApi for Fake {
    async fn create(&self, settings: &DistributionSettings) -> Result<Found, ApiError> {
        self.call(|world| {
            // Whichever CloudFront looks at first.
            world.check("", settings)?;
            if world.references.contains(&settings.reference) {
                return Err(ApiError::Exists(format!("DistributionAlreadyExists: {}", settings.reference)));
            }
            let id = world.named("distribution");
            let made = Made { settings: settings.clone(), etag: 1, busy: LOOKS };
            world.references.push(settings.reference.clone());
            world.distributions.insert(id.clone(), made.clone());
            Ok(found(&id, &made))
        })
    }

    async fn get(&self, id: &str) -> Result<Found, ApiError> {
        self.call(|world| {
            let made = world.distributions.get_mut(id).ok_or_else(|| missing(id))?;
            made.busy = made.busy.saturating_sub(1);
            Ok(found(id, made))
        })
    }

    async fn list(&self) -> Result<Vec<(String, String)>, ApiError> {
        self.call(|world| {
            let all = world.distributions.iter();
            Ok(all.map(|(id, made)| (id.clone(), made.settings.comment.clone())).collect())
        })
    }

    async fn update(&self, id: &str, etag: &str, settings: &DistributionSettings) -> Result<(), ApiError> {
        self.call(|world| {
            let made = world.distributions.get(id).ok_or_else(|| missing(id))?.clone();
            if made.etag.to_string() != etag {
                return Err(ApiError::Passing("PreconditionFailed".into()));
            }
            if made.settings.reference != settings.reference {
                return Err(ApiError::Refused("IllegalUpdate: CallerReference".into()));
            }
            world.check(id, settings)?;
            let made = Made { settings: settings.clone(), etag: made.etag + 1, busy: LOOKS };
            world.distributions.insert(id.to_owned(), made);
            Ok(())
        })
    }

    async fn delete(&self, id: &str, etag: &str) -> Result<(), ApiError> {
        self.call(|world| {
            let made = world.distributions.get(id).ok_or_else(|| missing(id))?;
            match made {
                made if made.etag.to_string() != etag => Err(ApiError::Passing("PreconditionFailed".into())),
                made if made.settings.enabled || made.busy > 0 => {
                    Err(ApiError::Passing("DistributionNotDisabled".into()))
                }
                _ => {
                    world.distributions.remove(id);
                    Ok(())
                }
            }
        })
    }
}
