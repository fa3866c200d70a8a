//! Context and templates into snapshots: renders what changed, keeps the last good version of what failed,
//! and publishes a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ads::Hub;
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
    edge_resources: Option<Vec<Arc<Resource>>>,
    rendered: BTreeMap<InstanceId, Rendered>,
    snapshot: Arc<Snapshot>,
    /// Dropped with the first snapshot.
    unready: Option<Latch>,
}

/// What became of one service.
struct Rendered {
    /// From which input.
    service: Arc<Service>,
    /// The last good version; `None` if there never was one.
    bundle: Option<Bundle>,
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
            edge_resources: None,
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
        let changed = self.render_services(context, templates_changed && faults.edge.is_none());
        if templates_changed || changed || self.snapshot.generation() == 0 {
            self.serve(context, &mut faults);
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
                self.edge_resources = Some(resources);
                Ok(())
            }
            Err(error) => {
                tracing::error!(error, "the templates stay as they were");
                Err(error)
            }
        }
    }

    /// Renders what is new. Whether anything is served differently now.
    fn render_services(&mut self, context: &Context, all: bool) -> bool {
        let Some(templates) = &self.templates else { return false };
        let before = self.rendered.len();
        self.rendered.retain(|id, _| context.services.contains_key(id));
        let mut changed = self.rendered.len() != before;
        for (id, service) in context.services.iter().filter(|(_, service)| service.group == self.group) {
            let known = self.rendered.get(id);
            if !all && known.is_some_and(|known| Arc::ptr_eq(&known.service, service)) {
                continue;
            }
            let last_good = known.and_then(|known| known.bundle.clone());
            let rendered = match render(templates, service, &self.edge) {
                Ok(bundle) => Rendered { service: service.clone(), bundle: Some(bundle), refusal: None },
                Err(cause) => {
                    tracing::warn!(instance = %id, rev = service.rev, cause, "refused; its last good version stays");
                    let refusal = Some(Refusal { rev: service.rev, cause });
                    // After a restart the last good version is the one that the fleet has proven.
                    let proven = || render(templates, context.proven.get(id)?, &self.edge).ok();
                    Rendered { service: service.clone(), bundle: last_good.or_else(proven), refusal }
                }
            };
            changed = true;
            self.rendered.insert(id.clone(), rendered);
        }
        changed
    }

    fn serve(&mut self, context: &Context, faults: &mut Faults) {
        let Some(edge) = self.edge_resources.clone() else { return };
        let next = loop {
            let bundles =
                self.rendered.iter().filter_map(|(id, one)| Some((id.clone(), one.bundle.clone()?)));
            let (next, duplicates) = self.snapshot.next(&edge, &bundles.collect());
            if duplicates.is_empty() {
                break next;
            }
            // Ends: each turn takes at least one bundle back to what is served now, or away.
            for (id, duplicate) in duplicates {
                self.take_back(&id, duplicate.to_string());
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
        let mut changed = next.changed_since(self.snapshot.generation()).into_iter().flatten();
        if self.snapshot.generation() > 0 && changed.next().is_none() {
            return;
        }
        drop(changed);
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
        rendered.refusal = Some(Refusal { rev: rendered.service.rev, cause });
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
