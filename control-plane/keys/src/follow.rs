//! Looks at each set when it is time, one look at a time, and tells everybody what is in force.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fetch::{FetchError, Fetcher, InvalidCa, Url};
use prometheus_client::registry::Registry;
use runtime::{
    Clock,
    files::{FileWatch, folder_of},
    jitter,
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{
    bucket::Bucket,
    kept::Kept,
    look::{self, Found, Looker},
    metrics::{Metrics, Outcome},
    moment::{Moment, Timeline},
    record::{Record, Turn},
    set::Set,
    sets::{IssuerState, KeySets, State},
    settings::{Origin, Settings, Source},
};

/// Follows all sets. A copy is the same.
#[derive(Debug, Clone)]
pub struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slots: BTreeMap<String, Slot>,
    /// Key servers, as templates see them.
    servers: Value,
    fetcher: Fetcher,
    kept: Kept,
    time: Timeline,
    wishes: Mutex<Bucket>,
    sets: watch::Sender<Arc<KeySets>>,
    /// Counts looks that have ended.
    looks: watch::Sender<u64>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Slot {
    source: Source,
    record: Mutex<Record>,
    wake: Notify,
    /// Until whoever follows it takes it.
    watch: Mutex<Option<FileWatch>>,
}

/// Why nothing can be followed. An issuer that is away is no reason.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error("ca: reading {path}")]
    ReadCa {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("ca: {path}: {rule}")]
    Ca { path: String, rule: InvalidCa },
    #[error("issuers: {issuer}: {rule}")]
    Place { issuer: String, rule: FetchError },
    #[error("issuers: {issuer}: {rule}")]
    File { issuer: String, rule: String },
    #[error("{folder}")]
    Folder {
        folder: String,
        #[source]
        source: io::Error,
    },
}

/// Why a wish is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody configured it.
    #[error("issuer: one that is configured")]
    Unknown,
    /// There was one for this issuer just now.
    #[error("issuer: refreshed early at most every 30 s; again in {secs} s")]
    TooSoon {
        /// Rounded up.
        secs: u64,
    },
    /// There were too many for all of them.
    #[error("too many issuers are refreshed early just now")]
    Busy,
}

/// How long a start waits for sets that it does not have: longer than a look at an issuer with discovery may take.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// How often ages are looked at when nothing else happens: a wall clock may jump.
const TICK: Duration = Duration::from_secs(15);

impl Keys {
    /// Takes what is in files and in the folder of last good sets, and asks for the rest, which is waited for for a while.
    /// The future follows them all from then on; it never ends.
    ///
    /// # Errors
    /// The settings cannot be used: a file of them has no keys, a URL is one that is denied, the CA is none.
    pub async fn start(
        settings: Settings,
        folder: &Path,
        clock: Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), StartError> {
        let keys = Self::new(settings, folder, clock, registry)?;
        let all = keys.clone();
        let mut follow = Box::pin(async move {
            let mut tasks: JoinSet<_> =
                all.0.slots.keys().map(|name| all.clone().follow_one(name.clone())).collect();
            while tasks.join_next().await.is_some() {}
            // Without issuers there is nobody to follow, which is no reason to end.
            std::future::pending::<()>().await;
        });
        let first = tokio::time::timeout(FIRST_WAIT, keys.first_looks());
        tokio::select! {
            () = &mut follow => {}
            _may_be_late = first => {}
        }
        for issuer in keys.0.sets.borrow().missing() {
            tracing::error!(issuer, "there are no keys yet; its tokens are refused until there are");
        }
        Ok((keys, follow))
    }

    fn new(
        settings: Settings,
        folder: &Path,
        clock: Arc<dyn Clock>,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        let fetcher = new_fetcher(&settings)?;
        let shown = || folder.display().to_string();
        let kept = Kept::open(folder).map_err(|source| StartError::Folder { folder: shown(), source })?;
        let metrics = Metrics::default();
        metrics.register(registry);
        let time = Timeline::new(clock);
        let now = time.now();
        let mut slots = BTreeMap::new();
        for source in settings.sources {
            let mut record = Record::new(source.ages);
            // Before the first look, so that nothing is missed after it.
            let watch = Mutex::new(watch_file(&source));
            begin(&source, &mut record, &fetcher, &kept, now)?;
            slots.insert(
                source.name.clone(),
                Slot { source, record: Mutex::new(record), wake: Notify::new(), watch },
            );
        }
        let servers = slots.values().filter_map(|slot| match &slot.source.origin {
            Origin::Servers { urls, .. } => {
                let urls: Vec<_> = urls.iter().map(Url::as_str).collect();
                Some(json!({"name": slot.source.name, "urls": urls}))
            }
            _ => None,
        });
        let keys = Self(Arc::new(Inner {
            servers: Value::Array(servers.collect()),
            slots,
            fetcher,
            kept,
            time,
            wishes: Mutex::new(Bucket::full(now)),
            sets: watch::Sender::default(),
            looks: watch::Sender::default(),
            metrics,
        }));
        keys.0.sets.send_replace(Arc::new(keys.gathered()));
        Ok(keys)
    }

    /// The sets, as they change.
    pub fn sets(&self) -> watch::Receiver<Arc<KeySets>> {
        self.0.sets.subscribe()
    }

    /// Looks at a set now, if nobody wished that just before. It does not wait for what comes of it.
    ///
    /// # Errors
    /// Why not.
    pub fn refresh(&self, issuer: &str) -> Result<(), Refused> {
        let slot = self.0.slots.get(issuer).ok_or(Refused::Unknown)?;
        let now = self.0.time.now();
        let mut record = slot.record();
        let too_soon =
            |left: Duration| Refused::TooSoon { secs: left.as_secs() + u64::from(left.subsec_nanos() > 0) };
        if let Some(left) = record.wish_in(now) {
            return Err(too_soon(left));
        }
        // Asked for last, so that a wish that is not heard takes nothing from others.
        if !self.0.wishes.lock().unwrap_or_else(PoisonError::into_inner).take(now) {
            return Err(Refused::Busy);
        }
        record.wish(now).map_err(too_soon)?;
        drop(record);
        slot.wake.notify_one();
        Ok(())
    }

    /// Looks at the clock now and not only when it is time: for one that was set.
    pub fn look_at_clock(&self) {
        for slot in self.0.slots.values() {
            slot.wake.notify_one();
        }
    }

    /// How each set does.
    pub fn all(&self) -> Vec<IssuerState> {
        let now = self.0.time.now();
        self.0.slots.values().map(|slot| slot.state(now)).collect()
    }

    /// Until each set is there, or was looked at.
    async fn first_looks(&self) {
        let mut looks = self.0.looks.subscribe();
        let is_ready = |slot: &Slot| {
            let record = slot.record();
            record.was_looked_at() || record.in_force(self.0.time.now()).is_some()
        };
        while !self.0.slots.values().all(is_ready) {
            if looks.changed().await.is_err() {
                return;
            }
        }
    }

    async fn follow_one(self, name: String) {
        let Some(slot) = self.0.slots.get(&name) else { return };
        let mut looker = Looker::new(self.0.fetcher.clone());
        let mut watch = slot.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        loop {
            self.tell(slot);
            let wait = slot.record().wait(self.0.time.now());
            if wait.is_zero() {
                self.look(slot, &mut looker).await;
            } else {
                let is_news = tokio::select! {
                    () = tokio::time::sleep(wait.min(TICK)) => false,
                    () = slot.wake.notified() => false,
                    () = changed(&mut watch) => true,
                };
                if is_news {
                    slot.record().want();
                }
            }
        }
    }

    async fn look(&self, slot: &Slot, looker: &mut Looker) {
        let name = slot.source.name.as_str();
        slot.record().begin();
        let found = looker.look(&slot.source).await;
        let now = self.0.time.now();
        let share = jitter::share();
        let outcome = match found {
            Ok(Found::Set(set, max_age)) => Ok(slot.record().succeed(now, set, max_age, share)),
            Ok(Found::Same(max_age)) => {
                let confirmed = slot.record().confirm(now, max_age, share);
                if confirmed {
                    Ok(false)
                } else {
                    Err("nothing was changed, and nothing is there".to_owned())
                }
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(is_new) => {
                self.0.metrics.looked(name, if is_new { Outcome::Changed } else { Outcome::Unchanged });
                let in_force = slot.record().in_force(now).cloned();
                if let Some(set) = in_force {
                    if is_new {
                        tracing::info!(issuer = name, kids = ?set.kids, "new keys");
                    }
                    self.keep(slot, &set, now);
                }
            }
            Err(error) => {
                // What was seen counts for nothing, so it is asked for as a whole the next time.
                looker.forget();
                self.0.metrics.looked(name, Outcome::Failed);
                if slot.record().fail(now, error.clone(), share) {
                    tracing::warn!(issuer = name, error, "the keys stay as they were");
                }
            }
        }
        // Before anybody hears that the look has ended.
        self.tell(slot);
        self.0.looks.send_modify(|looks| *looks += 1);
    }

    /// A file is its own last good set.
    fn keep(&self, slot: &Slot, set: &Set, now: Moment) {
        let Source { name, origin, .. } = &slot.source;
        if matches!(origin, Origin::File(_)) {
            return;
        }
        if let Err(error) = self.0.kept.keep(name, &origin.identity(), set, now) {
            tracing::error!(issuer = name, %error, "keeping the keys for a restart");
        }
    }

    /// Tells what has become of a set, if anything has.
    fn tell(&self, slot: &Slot) {
        let now = self.0.time.now();
        let (turn, age, keys) = {
            let mut record = slot.record();
            (record.turn(now), record.age(now), record.in_force(now).map_or(0, |set| set.count))
        };
        let issuer = slot.source.name.as_str();
        self.0.metrics.show(issuer, age, keys);
        match turn {
            Turn::None => {}
            Turn::Withdrawn => tracing::error!(issuer, "the keys are past their hard age and withdrawn"),
            Turn::Back => tracing::info!(issuer, "the keys are in force again"),
        }
        self.0.sets.send_if_modified(|sets| {
            // Gathered in here: of two that tell at the same time, the later one has seen what the other has.
            let next = self.gathered();
            let is_other = sets.in_force != next.in_force;
            if is_other {
                *sets = Arc::new(next);
            }
            is_other
        });
    }

    fn gathered(&self) -> KeySets {
        let now = self.0.time.now();
        let (mut issuers, mut in_force) = (BTreeMap::new(), BTreeMap::new());
        for (name, slot) in &self.0.slots {
            let set = slot.record().in_force(now).cloned();
            if !matches!(slot.source.origin, Origin::Servers { .. }) {
                issuers.insert(name.clone(), set.as_ref().map(|set| set.keys.clone()));
            }
            in_force.extend(set.map(|set| (name.clone(), set)));
        }
        KeySets::new(issuers, in_force, &self.0.servers)
    }
}

impl Slot {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self, now: Moment) -> IssuerState {
        let record = self.record();
        let (age, set) = (record.age(now), record.in_force(now));
        let state = match (set, age, record.error()) {
            (Some(_), _, None) if record.was_looked_at() => State::Fresh,
            (Some(_), ..) => State::Stale,
            (None, Some(_), _) => State::Withdrawn,
            (None, None, _) => State::Missing,
        };
        IssuerState {
            issuer: self.source.name.clone(),
            source: self.source.origin.to_string(),
            state,
            keys: set.map_or(0, |set| set.count),
            kids: set.map(|set| set.kids.clone()).unwrap_or_default(),
            age_secs: age.map(|age| age.as_secs()),
            last_success: age.map(|age| now.wall.saturating_sub(age).as_secs()),
            last_error: record.error().map(str::to_owned),
            next_refresh_secs: record.wait(now).as_secs(),
            hard_age_secs: self.source.ages.hard.as_secs(),
        }
    }
}

fn new_fetcher(settings: &Settings) -> Result<Fetcher, StartError> {
    let path = || settings.ca.as_deref().unwrap_or(Path::new("")).display().to_string();
    let ca = settings.ca.as_ref().map(std::fs::read).transpose();
    let ca = ca.map_err(|source| StartError::ReadCa { path: path(), source })?;
    Fetcher::new(settings.allowed.clone(), ca.as_deref())
        .map_err(|rule| StartError::Ca { path: path(), rule })
}

/// What is known before anybody is asked.
fn begin(
    source: &Source,
    record: &mut Record,
    fetcher: &Fetcher,
    kept: &Kept,
    now: Moment,
) -> Result<(), StartError> {
    let issuer = || source.name.clone();
    for url in source.origin.urls() {
        fetcher.check(url).map_err(|rule| StartError::Place { issuer: issuer(), rule })?;
    }
    if let Origin::File(path) = &source.origin {
        let set = look::read_file(path).and_then(|text| Set::read(&source.name, &text, None));
        let set = set.map_err(|rule| StartError::File { issuer: issuer(), rule })?;
        record.succeed(now, set, None, jitter::share());
    } else if let Some((set, age)) = kept.load(&source.name, &source.origin.identity(), now) {
        record.restore(set, age, now);
    }
    Ok(())
}

/// A file is looked at when it changes; its age is for file systems that tell nothing.
fn watch_file(source: &Source) -> Option<FileWatch> {
    let Origin::File(path) = &source.origin else { return None };
    let path: PathBuf = std::path::absolute(path).ok()?;
    // A link in the folder may be what changes.
    let folder = folder_of(&path).to_owned();
    FileWatch::new(&[folder], move |changed| changed == path || changed.is_symlink()).ok()
}

async fn changed(watch: &mut Option<FileWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
