//! Context and templates into snapshots: renders what changed, keeps the last good version of what failed,
//! and publishes a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use ads::Hub;
use imbl::ordmap::DiffItem;
use model::{
    InstanceId,
    context::{Context, Values},
    fleet::Refusal,
    node::{NodeFacts, Selection},
};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use resources::History;
use runtime::{Latch, telemetry::chain};
use templates::{ForEach, Scope, Templates};
use tokio::{sync::watch, time::Instant};

use crate::{
    folder::Folder,
    items::Lists,
    variant::{Held, Input, Settings, Variant, decode_all},
};

/// What could not be published, for operators and for the services' owners.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Faults {
    /// The templates as a whole, or what they render for the edge.
    pub(crate) edge: Option<String>,
    /// What is not served yet.
    pub(crate) held: Vec<Held>,
    /// One service each.
    pub(crate) services: BTreeMap<InstanceId, Refusal>,
}

/// Shared with the reporter and the operators' API.
#[derive(Debug, Clone)]
pub(crate) struct SharedFaults {
    faults: Arc<Mutex<Faults>>,
    changes: watch::Sender<u64>,
}

impl SharedFaults {
    pub(crate) fn new() -> Self {
        Self { faults: Arc::default(), changes: watch::Sender::new(0) }
    }

    pub(crate) fn get(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn set(&self, faults: Faults) {
        if *self.get() == faults {
            return;
        }
        *self.get() = faults;
        self.changes.send_modify(|count| *count += 1);
    }
}

/// What publishing costs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    rendered: Gauge,
    seconds: Gauge<f64, AtomicU64>,
    held: Gauge,
    refused: Gauge,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_publish");
        registry.register(
            "rendered_services",
            "Services and items that the last change rendered, and the edge, for each kind of nodes",
            self.rendered.clone(),
        );
        registry.register("held", "Changes that wait for an operator", self.held.clone());
        registry.register(
            "refused_services",
            "Services whose last change the gate refused",
            self.refused.clone(),
        );
        registry.register("seconds", "How long the last change took, to its snapshot", self.seconds.clone());
    }
}

/// Renders and publishes for one group.
pub(crate) struct Publisher {
    settings: Settings,
    folder: Folder,
    hub: Arc<Hub>,
    faults: SharedFaults,
    templates: Option<Arc<Templates>>,
    /// Why the templates as a whole are not those of the folder.
    load_fault: Option<String>,
    /// What was rendered last.
    context: Arc<Context>,
    scope: Scope,
    lists: Lists,
    /// The templates changed, and were not read yet.
    is_stale: bool,
    variants: BTreeMap<Selection, Variant>,
    metrics: Metrics,
    history: Arc<Mutex<History>>,
    /// Dropped with the first snapshot.
    unready: Option<Latch>,
}

/// A burst of changes becomes a few snapshots, each of which 2,000 proxies acknowledge; the first change of a
/// burst does not wait.
const MIN_GAP: Duration = Duration::from_millis(20);

impl Publisher {
    pub(crate) fn new(
        settings: Settings,
        folder: Folder,
        hub: Arc<Hub>,
        faults: SharedFaults,
        metrics: Metrics,
        history: Arc<Mutex<History>>,
        unready: Latch,
    ) -> Self {
        Self {
            scope: Scope::new(&settings.edge, &Values::new()),
            lists: Lists::default(),
            settings,
            folder,
            hub,
            faults,
            templates: None,
            load_fault: None,
            context: Arc::default(),
            is_stale: true,
            variants: BTreeMap::new(),
            metrics,
            history,
            unready: Some(unready),
        }
    }

    /// Follows context, templates and what kinds of nodes there are, until one of them ends.
    pub(crate) async fn run(
        mut self,
        mut contexts: watch::Receiver<Arc<Context>>,
        mut templates: watch::Receiver<u64>,
    ) {
        let Some(mut wanted) = self.hub.wanted(&self.settings.group) else { return };
        loop {
            let context = contexts.borrow_and_update().clone();
            let selections = wanted.borrow_and_update().clone();
            let begun = Instant::now();
            // Renders and reads files: seconds, when all of a fleet's services are rendered anew.
            let rendered = tokio::task::block_in_place(|| self.publish(context, &selections));
            // An operation's progress is written often, and renders nothing: what comes of it is not to wait for that.
            if rendered > 0 {
                tokio::time::sleep_until(begun + MIN_GAP).await;
            }
            let ended = tokio::select! {
                changed = contexts.changed() => changed.is_err(),
                changed = wanted.changed() => changed.is_err(),
                changed = templates.changed() => {
                    self.is_stale = true;
                    changed.is_err()
                }
            };
            if ended {
                return;
            }
        }
    }

    /// Renders what changed, and publishes what came of it. How many renders that took.
    fn publish(&mut self, context: Arc<Context>, selections: &BTreeSet<Selection>) -> usize {
        let begun = Instant::now();
        // Nodes of a kind that was not here before get what all others have.
        let is_paused = context.controls.pause.is_some();
        if is_paused && self.templates.is_none() {
            let why = "nothing is served: pushes were paused before this process started".to_owned();
            self.faults.set(Faults { held: vec![Held { id: None, why }], ..Faults::default() });
            return 0;
        }
        let before = self.context.clone();
        if !is_paused {
            self.context = context;
        }
        let sources = changed_sources(&before.values, &self.context.values);
        if !sources.is_empty() {
            self.scope = Scope::new(&self.settings.edge, &self.context.values);
            // What was missing may have come.
            self.is_stale |= self.load_fault.is_some();
        }
        let is_new = !is_paused && std::mem::take(&mut self.is_stale) && self.reload();
        let rendered = match self.templates.clone() {
            Some(templates) => self.render(&templates, is_new, &before, &sources, selections),
            None => 0,
        };
        if rendered > 0 {
            self.metrics.rendered.set(i64::try_from(rendered).unwrap_or(i64::MAX));
            self.metrics.seconds.set(begun.elapsed().as_secs_f64());
        }
        self.tell();
        rendered
    }

    /// Brings every kind of nodes up to date: all of it when the templates are new, else what the context has
    /// changed. How many renders that took.
    fn render(
        &mut self,
        templates: &Templates,
        is_new: bool,
        before: &Context,
        sources: &BTreeSet<String>,
        selections: &BTreeSet<Selection>,
    ) -> usize {
        let mut changed = changed_services(before, &self.context);
        if is_new || !sources.is_empty() {
            changed.append(&mut self.lists.update(templates, &self.context.values, sources));
        }
        if templates.reads(&ForEach::Service, sources) {
            changed.extend(self.context.services.keys().cloned());
        }
        let input = Input {
            templates,
            settings: &self.settings,
            context: &self.context,
            scope: &self.scope,
            items: &self.lists.items,
        };
        let mut rendered = 0;
        let mut before = std::mem::take(&mut self.variants);
        for selection in selections {
            let known = before.remove(selection);
            let is_all = is_new || known.is_none();
            let mut variant = known.unwrap_or_else(|| Variant::new(selection.clone()));
            let mut changed = changed.clone();
            if is_all {
                changed.extend(variant.units().cloned());
                changed.extend(input.context.services.keys().chain(input.items.keys()).cloned());
            }
            let is_edge = is_all || templates.reads(&ForEach::Edge, sources);
            if is_edge {
                variant.render_edge(&input);
            }
            rendered += changed.len() + usize::from(is_edge);
            for id in &changed {
                variant.render_one(id, &input, self.variants.values());
            }
            let served = variant.snapshot().clone();
            if variant.compose(&input, changed) {
                let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
                history.note(&served, variant.snapshot(), SystemTime::now());
                drop(history);
                serve(&self.hub, &self.settings.group, selection, &variant);
            }
            if variant.snapshot().generation() > 0 {
                self.unready = None;
            }
            self.variants.insert(selection.clone(), variant);
        }
        rendered
    }

    /// What went wrong, for whoever looks.
    fn tell(&self) {
        let edge = self.variants.values().find_map(Variant::edge_fault).cloned();
        let edge = self.load_fault.clone().or_else(|| self.lists.fault().cloned()).or(edge);
        let mut faults = Faults { edge, ..Faults::default() };
        for variant in self.variants.values() {
            let held = variant.held().filter(|held| !faults.held.contains(held));
            faults.held.extend(held.cloned());
            for (id, refusal) in variant.refusals() {
                faults.services.entry(id.clone()).or_insert_with(|| refusal.clone());
            }
        }
        self.metrics.held.set(i64::try_from(faults.held.len()).unwrap_or(i64::MAX));
        self.metrics.refused.set(i64::try_from(faults.services.len()).unwrap_or(i64::MAX));
        self.faults.set(faults);
    }

    /// Reads the templates. A failure leaves them as they were. Whether there are new ones.
    fn reload(&mut self) -> bool {
        let loaded = self.load();
        if let Err(error) = &loaded {
            tracing::error!(error, "the templates stay as they were");
        }
        self.load_fault = loaded.as_ref().err().cloned();
        let Ok(templates) = loaded else { return false };
        self.templates = Some(templates.clone());
        let select = move |node: &NodeFacts| templates.select(node);
        self.hub.choose_by(&self.settings.group, Arc::new(select));
        true
    }

    fn load(&self) -> Result<Arc<Templates>, String> {
        let templates = self.folder.load().map_err(|error| chain(&error))?;
        // A set that fails for every node must not take the place of one that works.
        let edge = templates.render_edge(&Selection::default(), &self.scope);
        decode_all(&edge.map_err(|error| error.to_string())?, &self.settings.bootstrap)?;
        Ok(Arc::new(templates))
    }
}

/// The sources with another value, or none any more.
fn changed_sources(before: &Values, after: &Values) -> BTreeSet<String> {
    let is_other = |name: &&String| match (before.get(*name), after.get(*name)) {
        (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
        _ => true,
    };
    before.keys().chain(after.keys()).filter(is_other).cloned().collect()
}

/// The services that are to be rendered, or are gone.
fn changed_services(before: &Context, after: &Context) -> BTreeSet<InstanceId> {
    let changed = before.services.diff(&after.services).map(|change| match change {
        DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => id,
    });
    changed.cloned().collect()
}

fn serve(hub: &Hub, group: &str, selection: &Selection, variant: &Variant) {
    let snapshot = variant.snapshot();
    tracing::info!(
        %selection,
        generation = snapshot.generation(),
        services = snapshot.bundles().len(),
        "published"
    );
    hub.publish(group, selection, Arc::clone(snapshot));
}
