//! What one selection of templates makes of the services: rendered one by one, and served as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::ResourceType;
use model::{
    InstanceId,
    context::{Context, Item, Service},
    document::Document,
    fleet::{Refusal, ServedSizes},
    node::Selection,
};
use resources::{Bootstrap, Bundle, Guard, Next, Resource, Snapshot, id_of_losses};
use serde_json::Value;
use templates::{Scope, Templates};
use validator::{Unit as Examined, Validator};

use crate::{edge::Edge, items::Items};

/// The snapshots of the nodes with one selection.
pub(crate) struct Variant {
    selection: Selection,
    /// Rendered from the templates, and not yet part of a snapshot.
    new_edge: Option<Vec<Arc<Resource>>>,
    edge_fault: Option<String>,
    rendered: BTreeMap<InstanceId, Rendered>,
    /// Changes that wait for an operator, since they would take too much away.
    withheld: BTreeSet<InstanceId>,
    held: Option<Held>,
    /// Services that stay, though what they name is gone.
    bereft: BTreeMap<InstanceId, Refusal>,
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

/// What does not change while the process runs.
pub(crate) struct Settings {
    pub(crate) group: String,
    /// The variable `edge`.
    pub(crate) edge: Value,
    pub(crate) bootstrap: Bootstrap,
    pub(crate) guard: Guard,
    /// What was served before this process started.
    pub(crate) before: ServedSizes,
    /// Asks Envoy itself, where operators want it.
    pub(crate) validator: Option<Validator>,
}

impl Settings {
    pub(crate) fn new(
        edge: &Edge,
        before: ServedSizes,
        validator: Option<Validator>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            group: edge.group.clone(),
            edge: serde_json::to_value(edge)?,
            bootstrap: edge.bootstrap(),
            guard: edge.guard,
            before,
            validator,
        })
    }
}

/// What is rendered, and from what.
pub(crate) struct Input<'a> {
    pub(crate) templates: &'a Templates,
    pub(crate) settings: &'a Settings,
    pub(crate) context: &'a Context,
    pub(crate) scope: &'a Scope,
    pub(crate) items: &'a Items,
}

/// What has resources of its own.
enum Unit<'a> {
    Service(&'a Service),
    Item(&'a Item),
}

impl Unit<'_> {
    fn rev(&self) -> u64 {
        match self {
            Self::Service(service) => service.rev,
            // Its content is all that it is.
            Self::Item(_) => 0,
        }
    }
}

impl<'a> Input<'a> {
    fn unit(&self, id: &InstanceId) -> Option<Unit<'a>> {
        let service = self.context.services.get(id).filter(|service| service.group == self.settings.group);
        let item = || self.items.get(id).map(|item| Unit::Item(item));
        service.map(|service| Unit::Service(service)).or_else(item)
    }
}

/// Something that is not served yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// What an operator confirms; `None` where that would not help.
    pub(crate) id: Option<String>,
    pub(crate) why: String,
}

impl Variant {
    pub(crate) fn new(selection: Selection) -> Self {
        Self {
            selection,
            new_edge: None,
            edge_fault: None,
            rendered: BTreeMap::new(),
            withheld: BTreeSet::new(),
            held: None,
            bereft: BTreeMap::new(),
            snapshot: Arc::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Why services are not served as they should be.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&InstanceId, &Refusal)> {
        let refused =
            self.rendered.iter().filter_map(|(id, rendered)| Some((id, rendered.refusal.as_ref()?)));
        refused.chain(&self.bereft)
    }

    /// Why the edge is not served as it should be.
    pub(crate) fn edge_fault(&self) -> Option<&String> {
        self.edge_fault.as_ref()
    }

    /// What waits.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// What was rendered beside the edge.
    pub(crate) fn units(&self) -> impl Iterator<Item = &InstanceId> {
        self.rendered.keys()
    }

    /// Renders what belongs to no service. A failure leaves it as it was.
    pub(crate) fn render_edge(&mut self, input: &Input<'_>) {
        let bootstrap = &input.settings.bootstrap;
        let documents = input.templates.render_edge(&self.selection, input.scope);
        let documents = documents.map_err(|error| error.to_string());
        match documents.and_then(|documents| decode_all(&documents, bootstrap)) {
            Ok(resources) => {
                self.new_edge = Some(resources);
                self.edge_fault = None;
            }
            Err(error) => self.fail_edge(error),
        }
    }

    fn fail_edge(&mut self, error: String) {
        if self.edge_fault.as_ref() != Some(&error) {
            tracing::error!(selection = %self.selection, error, "the edge stays as it was");
        }
        self.edge_fault = Some(error);
    }

    /// Renders a service or an item, or forgets it when it is gone. `twins` are other selections that may have made
    /// the same.
    pub(crate) fn render_one<'a>(
        &mut self,
        id: &InstanceId,
        input: &Input<'_>,
        twins: impl Iterator<Item = &'a Self>,
    ) {
        let Some(unit) = input.unit(id) else {
            self.rendered.remove(id);
            return;
        };
        let rev = unit.rev();
        let rendered = match render(input, &self.selection, &unit) {
            Ok(bundle) => {
                let bundle = share(bundle, twins.filter_map(|twin| twin.snapshot.bundle(id)));
                Rendered { rev, bundle: Some(Arc::new(bundle)), refusal: None }
            }
            Err(cause) => {
                tracing::warn!(instance = %id, rev, cause, "refused; its last good version stays");
                let refusal = Some(Refusal { rev, cause });
                let last_good = self.rendered.get(id).and_then(|known| known.bundle.clone());
                // After a restart the last good version is the one that the fleet has proven.
                let proven = || {
                    let proven = Unit::Service(input.context.proven.get(id)?);
                    render(input, &self.selection, &proven).ok().map(Arc::new)
                };
                Rendered { rev, bundle: last_good.or_else(proven), refusal }
            }
        };
        self.rendered.insert(id.clone(), rendered);
    }

    /// Makes the next snapshot of what was rendered. Whether it is another one.
    pub(crate) fn compose(&mut self, input: &Input<'_>, mut changed: BTreeSet<InstanceId>) -> bool {
        changed.append(&mut self.withheld);
        let is_first = self.snapshot.generation() == 0;
        if is_first {
            // What was held back until now comes along.
            changed.extend(self.rendered.keys().cloned());
        }
        let held_before = self.held.take();
        if self.new_edge.is_none() && (changed.is_empty() || is_first) {
            return false;
        }
        let is_edge_good = self.ask_envoy(input, &changed);
        if is_first && !is_edge_good {
            let why = self.edge_fault.iter().map(|fault| format!("nothing is served: {fault}")).collect();
            self.hold(Held { id: None, why }, held_before.as_ref());
            return false;
        }
        let has_edge = is_edge_good && self.new_edge.is_some();
        let Some((mut next, mut has_edge)) = self.next(&mut changed, has_edge) else { return false };
        if let Some(held) = self.too_much(input, &next.snapshot) {
            self.hold(held, held_before.as_ref());
            if is_first {
                return false;
            }
            // What would be lost stays; everything else goes on.
            self.withheld = self.losing(&changed);
            changed.retain(|id| !self.withheld.contains(id));
            let Some(without) = self.next(&mut changed, false) else { return false };
            (next, has_edge) = without;
        }
        if is_first && let Some((id, refusal)) = self.lost(input.context) {
            // Nothing is served yet, so the nodes still run the good version: rather serve nothing than take
            // a service away that worked before this start.
            let why = format!("nothing is served, since service {id} would be lost: {}", refusal.cause);
            self.hold(Held { id: None, why }, held_before.as_ref());
            return false;
        }
        self.take(next, has_edge)
    }

    /// Takes back what Envoy itself refuses. Whether the new edge passes, if there is one.
    fn ask_envoy(&mut self, input: &Input<'_>, changed: &BTreeSet<InstanceId>) -> bool {
        let Some(validator) = &input.settings.validator else { return true };
        let concerns = |version: &str| input.templates.may_run(&self.selection, version);
        let edge = self.new_edge.as_deref();
        let refused = edge.and_then(|edge| {
            validator.refusals(concerns, &[], &[Examined { id: (), resources: edge }]).remove(&())
        });
        let bundle = |id| Some((id, self.rendered.get(id)?.bundle.as_ref()?));
        let units: Vec<_> = (changed.iter().filter_map(bundle))
            .map(|(id, bundle)| Examined { id, resources: &bundle.resources })
            .collect();
        if !units.is_empty() {
            let served =
                || self.snapshot.all(ResourceType::Cluster).filter(|one| one.owner.is_none()).cloned();
            let base = match edge {
                Some(edge) if refused.is_none() => edge.to_vec(),
                _ => served().collect(),
            };
            for (id, words) in validator.refusals(concerns, &base, &units) {
                self.take_back(id, words);
            }
        }
        let is_good = refused.is_none();
        if let Some(words) = refused {
            self.fail_edge(words);
        }
        is_good
    }

    /// The next snapshot, without what does not fit; and whether it has the new edge. `None` when nothing can be
    /// served at all.
    fn next(&mut self, changed: &mut BTreeSet<InstanceId>, mut has_edge: bool) -> Option<(Next, bool)> {
        loop {
            let bundle = |id: &InstanceId| self.rendered.get(id).and_then(|one| one.bundle.clone());
            let services = changed.iter().map(|id| (id.clone(), bundle(id))).collect();
            let edge = self.new_edge.as_deref().filter(|_| has_edge);
            match self.snapshot.next(edge, &services) {
                Ok(next) if next.refused.is_empty() => return Some((next, has_edge)),
                // Ends: each turn takes at least one bundle back to what is served now, or away.
                Ok(next) => {
                    for (id, conflict) in next.refused {
                        self.take_back(&id, conflict.to_string());
                        changed.insert(id);
                    }
                }
                // It stays in waiting: what it lacks may come.
                Err(conflict) => {
                    self.fail_edge(conflict.to_string());
                    if self.snapshot.generation() == 0 {
                        let why = format!("nothing is served, since the edge does not fit: {conflict}");
                        self.held = Some(Held { id: None, why });
                        return None;
                    }
                    has_edge = false;
                }
            }
        }
    }

    /// What may not be lost at once, unless an operator has confirmed it.
    fn too_much(&self, input: &Input<'_>, next: &Snapshot) -> Option<Held> {
        let before = match input.settings.before.get(&self.selection.to_string()) {
            Some(before) if self.snapshot.generation() == 0 => before,
            _ => &self.snapshot.sizes(),
        };
        let losses = input.settings.guard.losses(before, &next.sizes());
        if losses.is_empty() {
            return None;
        }
        let id = id_of_losses(&losses, &self.snapshot, next);
        if input.context.controls.confirmed.as_ref() == Some(&id) {
            return None;
        }
        let losses: Vec<_> = losses.iter().map(ToString::to_string).collect();
        let why = format!("too much would be lost at once: {}", losses.join(", "));
        Some(Held { id: Some(id), why })
    }

    /// Tells it once, however often it is found again.
    fn hold(&mut self, held: Held, before: Option<&Held>) {
        if before != Some(&held) {
            tracing::error!(selection = %self.selection, id = held.id, why = held.why, "held");
        }
        self.held = Some(held);
    }

    /// The changed services of which something guarded would go.
    fn losing(&self, changed: &BTreeSet<InstanceId>) -> BTreeSet<InstanceId> {
        let is_losing = |id: &&InstanceId| {
            let next = self.rendered.get(id).and_then(|one| one.bundle.as_deref());
            self.snapshot.bundle(id).is_some_and(|bundle| bundle.would_lose(next))
        };
        changed.iter().filter(is_losing).cloned().collect()
    }

    fn take(&mut self, next: Next, has_edge: bool) -> bool {
        let Next { snapshot, bereft, .. } = next;
        let rev = |id: &InstanceId| snapshot.bundle(id).map_or(0, |bundle| bundle.rev);
        self.bereft = bereft
            .iter()
            .map(|(id, conflict)| (id.clone(), Refusal { rev: rev(id), cause: conflict.to_string() }))
            .collect();
        if has_edge {
            self.new_edge = None;
            self.edge_fault = None;
        }
        let is_same = snapshot.changed_since(&self.snapshot).is_some_and(|mut keys| keys.next().is_none());
        if self.snapshot.generation() > 0 && is_same {
            return false;
        }
        self.snapshot = Arc::new(snapshot);
        true
    }

    /// A service whose resources do not fit those of others keeps what is served of it now.
    fn take_back(&mut self, id: &InstanceId, cause: String) {
        let Some(rendered) = self.rendered.get_mut(id) else { return };
        tracing::warn!(instance = %id, cause, "refused; its last good version stays");
        let served = self.snapshot.bundle(id).cloned();
        // If even that does not fit, since the others have changed, it has to go.
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

/// One service or item, from its context to checked resources.
fn render(input: &Input<'_>, selection: &Selection, unit: &Unit<'_>) -> Result<Bundle, String> {
    let documents = match unit {
        Unit::Service(service) => input.templates.render_service(selection, service, input.scope),
        Unit::Item(item) => input.templates.render_item(selection, item, input.scope),
    };
    let documents = documents.map_err(|error| error.to_string())?;
    let mut resources = decode_all(&documents, &input.settings.bootstrap)?;
    resources.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Bundle { rev: unit.rev(), resources })
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

/// All documents, or every mistake in them.
pub(crate) fn decode_all(
    documents: &[Document],
    bootstrap: &Bootstrap,
) -> Result<Vec<Arc<Resource>>, String> {
    let (mut all, mut keys, mut mistakes) = (Vec::new(), BTreeSet::new(), Vec::new());
    for document in documents {
        match resources::decode(document, bootstrap) {
            Ok(resources) => {
                for resource in resources {
                    if !keys.insert(resource.key.clone()) {
                        mistakes.push(format!("{}: {} is made twice", document.template, resource.key));
                    }
                    all.push(Arc::new(resource));
                }
            }
            Err(invalid) => mistakes.push(invalid.to_string()),
        }
    }
    if mistakes.is_empty() { Ok(all) } else { Err(mistakes.join("; ")) }
}
