//! What templates see beside the services: files, HTTP, S3 and values, each followed on its own.
//!
//! A source that fails keeps its last good value, over restarts too; the others go on. Nothing here can hold up
//! anything else: each fetch has a time-out, each body a bound.

mod fetch;
mod format;
mod kept;
mod s3;
mod settings;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::{context::Values, guardrail};
use prometheus_client::registry::Registry;
use runtime::files::FileWatch;
use tokio::{sync::watch, task::JoinSet};

pub use settings::{InvalidSources, Source, read};
pub use state::{Freshness, SourceState};

use self::{
    fetch::{Fetched, Fetcher},
    kept::Kept,
    settings::Origin,
    state::Metrics,
};

/// All sources, and what became of them.
#[derive(Debug, Clone)]
pub struct Sources {
    values: watch::Sender<Arc<Values>>,
    shown: Arc<BTreeSet<String>>,
    states: Arc<Mutex<BTreeMap<String, SourceState>>>,
    metrics: Metrics,
}

impl Sources {
    /// Fetches each source once, all at the same time, and follows them from then on. What cannot be fetched now
    /// comes from the folder of last good values, if it ever was.
    pub async fn start(
        sources: Vec<Source>,
        kept: &Path,
        registry: &mut Registry,
    ) -> std::io::Result<(Self, impl Future<Output = ()> + use<>)> {
        let metrics = Metrics::default();
        metrics.register(registry.sub_registry_with_prefix("gatehouse_context"));
        let shown = sources.iter().filter(|source| source.is_shown).map(|source| source.name.clone());
        // Nobody has any where there is no source of them; where there is one, none are known until it was read.
        let none = || (guardrail::LIST.to_owned(), Arc::new(serde_json::json!([])));
        let has_guardrails = sources.iter().any(|source| source.name == guardrail::LIST);
        let first: Values = (!has_guardrails).then(none).into_iter().collect();
        let all = Self {
            values: watch::Sender::new(Arc::new(first)),
            shown: Arc::new(shown.collect()),
            states: Arc::default(),
            metrics,
        };
        let kept = Kept::open(kept)?;
        let mut firsts = JoinSet::new();
        for source in sources {
            all.states().insert(source.name.clone(), SourceState::of(&source));
            let mut follower = Follower {
                // Before the first look, so that nothing is missed after it.
                watch: watch_file(&source),
                fetcher: Fetcher::new(&source).map_err(std::io::Error::other)?,
                source,
                kept: kept.clone(),
                all: all.clone(),
            };
            firsts.spawn(async move {
                follower.begin().await;
                follower
            });
        }
        let followers = firsts.join_all().await;
        let follow = async move {
            let mut tasks: JoinSet<_> = followers.into_iter().map(Follower::run).collect();
            while tasks.join_next().await.is_some() {}
            // Without sources there is nothing to follow, which is no reason to end.
            std::future::pending::<()>().await;
        };
        Ok((all, follow))
    }

    /// The values, as they change.
    pub fn values(&self) -> watch::Receiver<Arc<Values>> {
        self.values.subscribe()
    }

    /// The values of the sources whose settings say that operators may see them.
    pub fn shown(&self) -> Values {
        let values = self.values.borrow().clone();
        let shown = values.iter().filter(|(name, _)| self.shown.contains(*name));
        shown.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// How each source does, for operators.
    pub fn all(&self) -> Vec<SourceState> {
        self.states().values().cloned().collect()
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<String, SourceState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, name: &str, change: impl FnOnce(&mut SourceState)) {
        let mut states = self.states();
        if let Some(state) = states.get_mut(name) {
            change(state);
            self.metrics.note(state);
        }
    }

    /// Puts a value in force. Whether it is another one.
    fn put(&self, name: &str, value: serde_json::Value) -> bool {
        self.values.send_if_modified(|values| {
            if values.get(name).is_some_and(|known| **known == value) {
                return false;
            }
            let mut next = Values::clone(values);
            next.insert(name.to_owned(), Arc::new(value));
            *values = Arc::new(next);
            true
        })
    }
}

/// Follows one source.
struct Follower {
    source: Source,
    fetcher: Fetcher,
    kept: Kept,
    all: Sources,
    watch: Option<FileWatch>,
}

/// A file is looked at when it changes; its interval is for file systems that tell nothing.
fn watch_file(source: &Source) -> Option<FileWatch> {
    let Origin::File(path) = &source.origin else { return None };
    let path = std::path::absolute(path).ok()?;
    let folder = path.parent()?.to_owned();
    // A link in the folder may be what changes.
    FileWatch::new(&[folder], move |changed| changed == path || changed.is_symlink()).ok()
}

async fn changed(watch: &mut Option<FileWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

impl Follower {
    async fn begin(&mut self) {
        if let Some(text) = self.kept.load(&self.source.name)
            && let Ok(value) = self.read(&text)
        {
            self.all.put(&self.source.name, value);
            self.all.note(&self.source.name, |state| state.freshness = Freshness::Stale);
        }
        self.look().await;
    }

    async fn run(mut self) {
        if matches!(self.source.origin, Origin::Inline(_)) {
            return;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.source.next_interval()) => {}
                () = changed(&mut self.watch) => {}
            }
            self.look().await;
        }
    }

    /// Fetches, and takes what came.
    async fn look(&mut self) {
        let name = self.source.name.clone();
        let fetched = tokio::time::timeout(self.source.timeout, self.fetcher.fetch(&self.source)).await;
        let fetched = fetched
            .unwrap_or_else(|_| Err(format!("no answer within {} s", self.source.timeout.as_secs_f64())));
        let taken = match fetched {
            Ok(Fetched::Unchanged) => Ok(()),
            Ok(Fetched::Changed(text)) => self.take(&text),
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => self.all.note(&name, SourceState::succeed),
            Err(error) => {
                // What was fetched counts for nothing, so it is asked for as a whole the next time.
                self.fetcher.forget();
                let mut is_news = false;
                self.all.note(&name, |state| is_news = state.fail(&error));
                self.all.metrics.fail(&name);
                if is_news {
                    tracing::error!(source = name, error, "the source keeps its last good value");
                }
            }
        }
    }

    /// The value of a text. Guardrails are read as such: a list with a mistake leaves in force what was there before.
    fn read(&self, text: &str) -> Result<serde_json::Value, String> {
        let value = self.source.format.parse(text)?;
        if self.source.name == guardrail::LIST { guardrail::shown(&value) } else { Ok(value) }
    }

    fn take(&self, text: &str) -> Result<(), String> {
        let value = self.read(text)?;
        let name = &self.source.name;
        self.all.note(name, |state| state.bytes = text.len());
        if self.all.put(name, value) {
            self.all.note(name, |state| state.changed = Some(state::now()));
            tracing::info!(source = name, "a new value");
            if !matches!(self.source.origin, Origin::Inline(_))
                && let Err(error) = self.kept.keep(name, text)
            {
                tracing::error!(source = name, %error, "keeping the value for a restart");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
