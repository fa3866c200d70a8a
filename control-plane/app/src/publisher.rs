//! Context and templates into snapshots: renders what changed, keeps the last good version of what failed,
//! and publishes a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use ads::Hub;
use imbl::{OrdMap, ordmap::DiffItem};
use model::{
    InstanceId,
    context::{Context, Service},
    fleet::Refusal,
    node::{NodeFacts, Selection},
};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use runtime::{Latch, telemetry::chain};
use serde_json::Value;
use templates::Templates;
use tokio::{sync::watch, time::Instant};

use crate::variant::{Held, Input, Variant, decode_all};

/// What could not be published, for operators and for the services' owners.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Faults {
    /// The templates as a whole, or what they render for the edge.
    pub(crate) edge: Option<String>,
    /// Why nothing is served at all.
    pub(crate) held: Option<String>,
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
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gatehouse_publish");
        registry.register(
            "rendered_services",
            "Services that the last change rendered",
            self.rendered.clone(),
        );
        registry.register("seconds", "How long the last change took, to its snapshot", self.seconds.clone());
    }
}

/// Renders and publishes for one group.
pub(crate) struct Publisher {
    group: String,
    edge: Value,
    folder: Option<PathBuf>,
    hub: Arc<Hub>,
    faults: SharedFaults,
    templates: Option<Arc<Templates>>,
    /// What was rendered last.
    services: OrdMap<InstanceId, Arc<Service>>,
    variants: BTreeMap<Selection, Variant>,
    metrics: Metrics,
    /// Dropped with the first snapshot.
    unready: Option<Latch>,
}

/// A burst of changes becomes a few snapshots, each of which 2,000 proxies acknowledge; the first change of a
/// burst does not wait.
const MIN_GAP: Duration = Duration::from_millis(20);

impl Publisher {
    pub(crate) fn new(
        group: String,
        edge: Value,
        folder: Option<PathBuf>,
        hub: Arc<Hub>,
        faults: SharedFaults,
        metrics: Metrics,
        unready: Latch,
    ) -> Self {
        Self {
            group,
            edge,
            folder,
            hub,
            faults,
            templates: None,
            services: OrdMap::new(),
            variants: BTreeMap::new(),
            metrics,
            unready: Some(unready),
        }
    }

    /// Follows context, templates and what kinds of nodes there are, until one of them ends.
    pub(crate) async fn run(
        mut self,
        mut contexts: watch::Receiver<Arc<Context>>,
        mut templates: watch::Receiver<u64>,
    ) {
        let Some(mut wanted) = self.hub.wanted(&self.group) else { return };
        let mut templates_changed = true;
        loop {
            let context = contexts.borrow_and_update().clone();
            let selections = wanted.borrow_and_update().clone();
            let begun = Instant::now();
            // Renders and reads files: seconds, when all of a fleet's services are rendered anew.
            tokio::task::block_in_place(|| self.publish(&context, &selections, templates_changed));
            tokio::time::sleep_until(begun + MIN_GAP).await;
            templates_changed = false;
            let ended = tokio::select! {
                changed = contexts.changed() => changed.is_err(),
                changed = wanted.changed() => changed.is_err(),
                changed = templates.changed() => {
                    templates_changed = true;
                    changed.is_err()
                }
            };
            if ended {
                return;
            }
        }
    }

    /// Renders what changed, and publishes what came of it.
    fn publish(&mut self, context: &Context, selections: &BTreeSet<Selection>, templates_changed: bool) {
        let mut faults = Faults { edge: self.faults.get().edge.clone(), ..Faults::default() };
        let (mut all, mut rendered, begun) = (false, 0, Instant::now());
        if templates_changed {
            faults.edge = self.reload().err();
            all = faults.edge.is_none();
        }
        if let Some(templates) = self.templates.clone() {
            self.variants.retain(|selection, _| selections.contains(selection));
            let changed = self.changed(context);
            self.services = context.services.clone();
            let input = Input { templates: &templates, edge: &self.edge, group: &self.group, context };
            let mut variants = std::mem::take(&mut self.variants);
            for selection in selections {
                let known = variants.remove(selection);
                let is_new = known.is_none();
                let mut variant = known.unwrap_or_else(|| Variant::new(selection.clone()));
                let mut changed = changed.clone();
                if all || is_new {
                    changed.extend(variant.services().chain(context.services.keys()).cloned());
                    if let Err(error) = variant.render_edge(&input) {
                        tracing::error!(%selection, error, "the edge stays as it was");
                        faults.edge = Some(error);
                    }
                }
                rendered += changed.len();
                for id in &changed {
                    variant.render_service(id, &input, self.variants.values());
                }
                match variant.compose(context, changed) {
                    Ok(true) => serve(&self.hub, &self.group, selection, &variant),
                    Ok(false) => {}
                    Err(Held(why)) => faults.held = Some(why),
                }
                if variant.snapshot().generation() > 0 {
                    self.unready = None;
                }
                self.variants.insert(selection.clone(), variant);
            }
        }
        if rendered > 0 {
            self.metrics.rendered.set(i64::try_from(rendered).unwrap_or(i64::MAX));
            self.metrics.seconds.set(begun.elapsed().as_secs_f64());
        }
        for variant in self.variants.values() {
            for (id, refusal) in variant.refusals() {
                faults.services.entry(id.clone()).or_insert_with(|| refusal.clone());
            }
        }
        self.faults.set(faults);
    }

    /// Reads the templates. A failure leaves them as they were.
    fn reload(&mut self) -> Result<(), String> {
        let templates = Templates::load(self.folder.as_deref()).map_err(|error| {
            let error = chain(&error);
            tracing::error!(error, "the templates stay as they were");
            error
        })?;
        let templates = Arc::new(templates);
        // A set that fails for every node must not take the place of one that works.
        let edge = templates.render_edge(&Selection::default(), &self.edge);
        decode_all(&edge.map_err(|error| error.to_string())?).inspect_err(|error| {
            tracing::error!(error, "the templates stay as they were");
        })?;
        self.templates = Some(templates.clone());
        self.hub.choose_by(&self.group, Arc::new(move |node: &NodeFacts| templates.select(node)));
        Ok(())
    }

    /// The services that are to be rendered, or are gone.
    fn changed(&self, context: &Context) -> BTreeSet<InstanceId> {
        let changed = self.services.diff(&context.services).map(|change| match change {
            DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => id,
        });
        changed.cloned().collect()
    }
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
