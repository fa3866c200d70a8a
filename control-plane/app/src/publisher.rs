//! Context and templates into snapshots: renders what changed, keeps the last good version of what failed,
//! and publishes a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ads::Hub;
use imbl::{OrdMap, ordmap::DiffItem};
use model::{
    InstanceId,
    context::{Context, Service},
    document::Document,
    fleet::Refusal,
};
use resources::{Bundle, Resource, Snapshot};
use runtime::{Latch, telemetry::chain};
use serde_json::Value;
use templates::Templates;
use tokio::sync::watch;

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

/// Renders and publishes for one group.
pub(crate) struct Publisher {
    group: String,
    edge: Value,
    folder: Option<PathBuf>,
    hub: Arc<Hub>,
    faults: SharedFaults,
    templates: Option<Templates>,
    /// Rendered from the templates, and not yet part of a snapshot.
    new_edge: Option<Vec<Arc<Resource>>>,
    /// What was rendered last.
    services: OrdMap<InstanceId, Arc<Service>>,
    rendered: BTreeMap<InstanceId, Rendered>,
    snapshot: Arc<Snapshot>,
    /// Dropped with the first snapshot.
    unready: Option<Latch>,
}

/// What became of one service.
struct Rendered {
    /// From which revision.
    rev: u64,
    /// The last good version; `None` if there never was one.
    bundle: Option<Arc<Bundle>>,
    /// Why the input did not become one.
    refusal: Option<Refusal>,
}

impl Publisher {
    pub(crate) fn new(
        group: String,
        edge: Value,
        folder: Option<PathBuf>,
        hub: Arc<Hub>,
        faults: SharedFaults,
        unready: Latch,
    ) -> Self {
        Self {
            group,
            edge,
            folder,
            hub,
            faults,
            templates: None,
            new_edge: None,
            services: OrdMap::new(),
            rendered: BTreeMap::new(),
            snapshot: Arc::default(),
            unready: Some(unready),
        }
    }

    /// Follows context and templates until one of them ends.
    pub(crate) async fn run(
        mut self,
        mut contexts: watch::Receiver<Arc<Context>>,
        mut templates: watch::Receiver<u64>,
    ) {
        let mut templates_changed = true;
        loop {
            let context = contexts.borrow_and_update().clone();
            // Renders and reads files: seconds, when all of a fleet's services are rendered anew.
            tokio::task::block_in_place(|| self.publish(&context, templates_changed));
            tokio::select! {
                changed = contexts.changed() => {
                    if changed.is_err() { return }
                    templates_changed = false;
                }
                changed = templates.changed() => {
                    if changed.is_err() { return }
                    templates_changed = true;
                }
            }
        }
    }

    fn publish(&mut self, context: &Context, templates_changed: bool) {
        let mut faults = Faults { edge: self.faults.get().edge.clone(), ..Faults::default() };
        if templates_changed {
            faults.edge = self.reload().err();
        }
        if self.templates.is_some() {
            let changed = self.changed(context, templates_changed && faults.edge.is_none());
            self.services = context.services.clone();
            for id in &changed {
                self.render_service(id, context);
            }
            if self.new_edge.is_some() || !changed.is_empty() {
                self.serve(context, &changed, &mut faults);
            }
        }
        let refusals =
            self.rendered.iter().filter_map(|(id, rendered)| Some((id.clone(), rendered.refusal.clone()?)));
        faults.services.extend(refusals);
        self.faults.set(faults);
    }

    /// Reads the templates, and renders what belongs to no service. A failure leaves everything as it was.
    fn reload(&mut self) -> Result<(), String> {
        let loaded =
            Templates::load(self.folder.as_deref()).map_err(|error| chain(&error)).and_then(|templates| {
                let documents = templates.render_edge(&self.edge).map_err(|error| error.to_string())?;
                Ok((templates, decode_all(&documents)?))
            });
        match loaded {
            Ok((templates, resources)) => {
                self.templates = Some(templates);
                self.new_edge = Some(resources);
                Ok(())
            }
            Err(error) => {
                tracing::error!(error, "the templates stay as they were");
                Err(error)
            }
        }
    }

    /// The services that are to be rendered, or are gone.
    fn changed(&self, context: &Context, all: bool) -> BTreeSet<InstanceId> {
        if all {
            return self.rendered.keys().chain(context.services.keys()).cloned().collect();
        }
        let changed = self.services.diff(&context.services).map(|change| match change {
            DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => id,
        });
        changed.cloned().collect()
    }

    /// Renders a service, or forgets it when it is gone.
    fn render_service(&mut self, id: &InstanceId, context: &Context) {
        let service = context.services.get(id).filter(|service| service.group == self.group);
        let (Some(service), Some(templates)) = (service, &self.templates) else {
            self.rendered.remove(id);
            return;
        };
        let rendered = match render(templates, service, &self.edge) {
            Ok(bundle) => Rendered { rev: service.rev, bundle: Some(Arc::new(bundle)), refusal: None },
            Err(cause) => {
                tracing::warn!(instance = %id, rev = service.rev, cause, "refused; its last good version stays");
                let refusal = Some(Refusal { rev: service.rev, cause });
                let last_good = self.rendered.get(id).and_then(|known| known.bundle.clone());
                // After a restart the last good version is the one that the fleet has proven.
                let proven = || render(templates, context.proven.get(id)?, &self.edge).ok().map(Arc::new);
                Rendered { rev: service.rev, bundle: last_good.or_else(proven), refusal }
            }
        };
        self.rendered.insert(id.clone(), rendered);
    }

    fn serve(&mut self, context: &Context, changed: &BTreeSet<InstanceId>, faults: &mut Faults) {
        let mut changed = changed.clone();
        if self.snapshot.generation() == 0 {
            // What was held back until now comes along.
            changed.extend(self.rendered.keys().cloned());
        }
        let next = loop {
            let bundle = |id: &InstanceId| self.rendered.get(id).and_then(|one| one.bundle.clone());
            let services = changed.iter().map(|id| (id.clone(), bundle(id))).collect();
            let (next, duplicates) = self.snapshot.next(self.new_edge.as_deref(), &services);
            if duplicates.is_empty() {
                break next;
            }
            // Ends: each turn takes at least one bundle back to what is served now, or away.
            for (id, duplicate) in duplicates {
                self.take_back(&id, duplicate.to_string());
                changed.insert(id);
            }
        };
        if self.snapshot.generation() == 0
            && let Some((id, refusal)) = self.lost(context)
        {
            // Nothing is served yet, so the nodes still run the good version: rather serve nothing than take
            // a service away that worked before this start.
            tracing::error!(instance = %id, cause = refusal.cause, "nothing is served: a service would be lost");
            faults.held =
                Some(format!("nothing is served, since service {id} would be lost: {}", refusal.cause));
            return;
        }
        self.new_edge = None;
        let nothing_changed =
            next.changed_since(self.snapshot.generation()).is_some_and(|mut keys| keys.next().is_none());
        if self.snapshot.generation() > 0 && nothing_changed {
            return;
        }
        self.snapshot = Arc::new(next);
        tracing::info!(
            generation = self.snapshot.generation(),
            services = self.snapshot.bundles().len(),
            "published"
        );
        self.hub.publish(&self.group, Arc::clone(&self.snapshot));
        self.unready = None;
    }

    /// A service whose resources collide with others' keeps what is served of it now.
    fn take_back(&mut self, id: &InstanceId, cause: String) {
        let Some(rendered) = self.rendered.get_mut(id) else { return };
        tracing::warn!(instance = %id, cause, "refused; its last good version stays");
        let served = self.snapshot.bundle(id).cloned();
        // If even that collides, since the others have changed, it has to go.
        rendered.bundle = served.filter(|served| rendered.bundle.as_ref() != Some(served));
        rendered.refusal = Some(Refusal { rev: rendered.rev, cause });
    }

    /// A service that was live before this process started, and cannot be rendered now.
    fn lost(&self, context: &Context) -> Option<(&InstanceId, &Refusal)> {
        let was_live = |id| !context.unsettled.contains_key(id) || context.proven.contains_key(id);
        let mut missing =
            self.rendered.iter().filter(|(id, rendered)| rendered.bundle.is_none() && was_live(*id));
        missing.find_map(|(id, rendered)| Some((id, rendered.refusal.as_ref()?)))
    }
}

/// One service, from its context to checked resources.
pub(crate) fn render(templates: &Templates, service: &Service, edge: &Value) -> Result<Bundle, String> {
    let documents = templates.render_service(service, edge).map_err(|error| error.to_string())?;
    let mut resources = decode_all(&documents)?;
    resources.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Bundle { rev: service.rev, resources })
}

/// All documents, or the first mistake.
pub(crate) fn decode_all(documents: &[Document]) -> Result<Vec<Arc<Resource>>, String> {
    let (mut all, mut keys) = (Vec::new(), BTreeSet::new());
    for document in documents {
        for resource in resources::decode(document).map_err(|error| error.to_string())? {
            if !keys.insert(resource.key.clone()) {
                return Err(format!("{}: {} is made twice", document.template, resource.key));
            }
            all.push(Arc::new(resource));
        }
    }
    Ok(all)
}
