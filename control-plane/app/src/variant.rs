//! What one selection of templates makes of the services: rendered one by one, and served as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{
    InstanceId,
    context::{Context, Service},
    document::Document,
    fleet::Refusal,
    node::Selection,
};
use resources::{Bundle, Resource, Snapshot};
use serde_json::Value;
use templates::Templates;

/// The snapshots of the nodes with one selection.
pub(crate) struct Variant {
    selection: Selection,
    /// Rendered from the templates, and not yet part of a snapshot.
    new_edge: Option<Vec<Arc<Resource>>>,
    rendered: BTreeMap<InstanceId, Rendered>,
    snapshot: Arc<Snapshot>,
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

/// What is rendered, and from what.
pub(crate) struct Input<'a> {
    pub(crate) templates: &'a Templates,
    pub(crate) edge: &'a Value,
    pub(crate) group: &'a str,
    pub(crate) context: &'a Context,
}

/// Nothing is served rather than less than before.
pub(crate) struct Held(pub(crate) String);

impl Variant {
    pub(crate) fn new(selection: Selection) -> Self {
        Self { selection, new_edge: None, rendered: BTreeMap::new(), snapshot: Arc::default() }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Why services are not served as they should be.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&InstanceId, &Refusal)> {
        self.rendered.iter().filter_map(|(id, rendered)| Some((id, rendered.refusal.as_ref()?)))
    }

    /// The services that were rendered.
    pub(crate) fn services(&self) -> impl Iterator<Item = &InstanceId> {
        self.rendered.keys()
    }

    /// Renders what belongs to no service. A failure leaves it as it was.
    pub(crate) fn render_edge(&mut self, input: &Input<'_>) -> Result<(), String> {
        let documents =
            input.templates.render_edge(&self.selection, input.edge).map_err(|error| error.to_string())?;
        self.new_edge = Some(decode_all(&documents)?);
        Ok(())
    }

    /// Renders a service, or forgets it when it is gone. `twins` are other selections that may have made the same.
    pub(crate) fn render_service<'a>(
        &mut self,
        id: &InstanceId,
        input: &Input<'_>,
        twins: impl Iterator<Item = &'a Self>,
    ) {
        let service = input.context.services.get(id).filter(|service| service.group == input.group);
        let Some(service) = service else {
            self.rendered.remove(id);
            return;
        };
        let render = |service: &Service| render(input.templates, &self.selection, service, input.edge);
        let rendered = match render(service) {
            Ok(bundle) => {
                let bundle = share(bundle, twins.filter_map(|twin| twin.snapshot.bundle(id)));
                Rendered { rev: service.rev, bundle: Some(Arc::new(bundle)), refusal: None }
            }
            Err(cause) => {
                tracing::warn!(instance = %id, rev = service.rev, cause, "refused; its last good version stays");
                let refusal = Some(Refusal { rev: service.rev, cause });
                let last_good = self.rendered.get(id).and_then(|known| known.bundle.clone());
                // After a restart the last good version is the one that the fleet has proven.
                let proven = || render(input.context.proven.get(id)?).ok().map(Arc::new);
                Rendered { rev: service.rev, bundle: last_good.or_else(proven), refusal }
            }
        };
        self.rendered.insert(id.clone(), rendered);
    }

    /// Makes the next snapshot of what was rendered. Whether it is another one.
    pub(crate) fn compose(
        &mut self,
        context: &Context,
        mut changed: BTreeSet<InstanceId>,
    ) -> Result<bool, Held> {
        if self.new_edge.is_none() && (changed.is_empty() || self.snapshot.generation() == 0) {
            return Ok(false);
        }
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
            let cause = &refusal.cause;
            return Err(Held(format!("nothing is served, since service {id} would be lost: {cause}")));
        }
        self.new_edge = None;
        let is_same = next.changed_since(&self.snapshot).is_some_and(|mut keys| keys.next().is_none());
        if self.snapshot.generation() > 0 && is_same {
            return Ok(false);
        }
        self.snapshot = Arc::new(next);
        Ok(true)
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
pub(crate) fn render(
    templates: &Templates,
    selection: &Selection,
    service: &Service,
    edge: &Value,
) -> Result<Bundle, String> {
    let documents = templates.render_service(selection, service, edge).map_err(|error| error.to_string())?;
    let mut resources = decode_all(&documents)?;
    resources.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Bundle { rev: service.rev, resources })
}

/// Identical resources exist once.
fn share<'a>(mut bundle: Bundle, twins: impl Iterator<Item = &'a Arc<Bundle>>) -> Bundle {
    for twin in twins {
        for resource in &mut bundle.resources {
            if let Some(same) = twin.resources.iter().find(|other| *other == resource) {
                *resource = same.clone();
            }
        }
    }
    bundle
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
