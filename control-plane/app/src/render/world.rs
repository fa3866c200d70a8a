//! Everything that a render needs: read from files, fetched once, or taken from what is live.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, iter,
    path::Path,
    sync::Arc,
};

use ::keys::{Keys, State};
use ads::node_facts;
use anyhow::{Context as _, bail, ensure};
use api::ResourceType;
use context::Sources;
use model::{
    InstanceId,
    context::{Context, Service, Values},
    document::Document,
    fleet::ServedSizes,
    instance::{Instance, Published, Request},
    node::{NodeFacts, Selection, Transport},
    revocation::LIST,
};
use prometheus_client::registry::Registry;
use resources::Resource;
use runtime::SystemClock;
use serde::Deserialize;
use serde_json::Value;
use templates::{Scope, Templates};

use crate::{
    config::{self, Args},
    issuers::with_keys,
    items::Lists,
    variant::{Input, Settings, Variant},
};

/// What is rendered, from what, and for whom.
#[derive(Clone)]
pub(crate) struct World {
    templates: Arc<Templates>,
    settings: Arc<Settings>,
    context: Context,
    /// The node as its bootstrap describes it.
    pub(crate) node: Value,
    pub(crate) transport: Transport,
}

/// What templates see beside the edge's settings, written down.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Written {
    context: BTreeMap<String, Value>,
    services: Vec<Service>,
}

impl World {
    /// The templates, and what the sources say now. No services yet, and a node without anything special.
    pub(crate) async fn new(args: &Args) -> anyhow::Result<Self> {
        let edge = config::edge(args)?;
        let templates = args.folder().load()?;
        let (folder, registry) = (std::env::temp_dir(), &mut Registry::default());
        let validator = config::validator(&args.validate_with, &edge, &folder, registry)?;
        let settings = Settings::new(&edge, ServedSizes::new(), validator)?;
        let mut values = Values::clone(&*fetched(args).await?);
        // Those of a store come with the context that is written down, where somebody wants them.
        values.entry(LIST.to_owned()).or_insert_with(|| Arc::new(Value::Array(Vec::new())));
        let context = Context { values: Arc::new(values), ..Context::default() };
        Ok(Self {
            templates: Arc::new(templates),
            settings: Arc::new(settings),
            context,
            node: Value::Object(serde_json::Map::new()),
            transport: Transport::Stream,
        })
    }

    /// The node that it is for.
    pub(crate) fn read_node(&mut self, path: &Path) -> anyhow::Result<()> {
        self.node = read(path)?;
        self.facts().with_context(|| path.display().to_string())?;
        Ok(())
    }

    fn facts(&self) -> anyhow::Result<NodeFacts> {
        node_facts(self.node.clone(), self.transport).map_err(anyhow::Error::msg)
    }

    pub(crate) fn read_context(&mut self, path: &Path) -> anyhow::Result<()> {
        self.take(read(path)?);
        Ok(())
    }

    /// Puts values and services beside those that are there, or in their place.
    pub(crate) fn take(&mut self, written: Written) {
        let mut values = Values::clone(&self.context.values);
        values.extend(written.context.into_iter().map(|(name, value)| (name, Arc::new(value))));
        self.context.values = Arc::new(values);
        self.context
            .services
            .extend(written.services.into_iter().map(|service| (service.id.clone(), Arc::new(service))));
    }

    /// Adds what a service file asks for. A service of the same name keeps id, revision and certificate, so that only
    /// what the file says is different.
    pub(crate) fn read_service(&mut self, path: &Path) -> anyhow::Result<()> {
        let service = self.service(read(path)?).with_context(|| path.display().to_string())?;
        self.context.services.insert(service.id.clone(), Arc::new(service));
        Ok(())
    }

    fn service(&self, parameters: Value) -> anyhow::Result<Service> {
        let name = parameters["service"].as_str().unwrap_or_default().to_owned();
        let mut known = self.context.services.values().filter(|service| service.name == name);
        let (live, other) = (known.next(), known.next());
        ensure!(other.is_none(), "service: several services have the name {name:?}");
        let id: InstanceId = match live {
            Some(live) => live.id.clone(),
            // A name that cannot be an id cannot be a name either, which is told next.
            None => name.parse().or_else(|_| "example".parse())?,
        };
        let mut instance = Instance::provision(id, Request::offline(parameters), String::new());
        instance.revision = live.map_or(instance.revision, |live| live.rev);
        let mut service = Service::of(&instance, &Published::wanted_of(&instance)?);
        service.certificate = live.and_then(|live| live.certificate.clone());
        Ok(service)
    }

    /// What the templates write, before anything is checked.
    pub(crate) fn documents(&self) -> anyhow::Result<Vec<Document>> {
        let (selection, scope) = (self.selection()?, self.scope());
        let mut documents = self.templates.render_edge(&selection, &scope)?;
        for service in self.context.services.values() {
            documents.extend(self.templates.render_service(&selection, service, &scope)?);
        }
        for item in self.lists()?.items.values() {
            documents.extend(self.templates.render_item(&selection, item, &scope)?);
        }
        Ok(documents)
    }

    /// All resources that the node would get, in the order of types and names; or every mistake.
    pub(crate) fn render(&self) -> anyhow::Result<Vec<Arc<Resource>>> {
        let (scope, lists) = (self.scope(), self.lists()?);
        let input = Input {
            templates: &self.templates,
            settings: &self.settings,
            context: &self.context,
            scope: &scope,
            items: &lists.items,
        };
        let mut variant = Variant::new(self.selection()?);
        variant.render_edge(&input);
        let units: BTreeSet<_> = input.context.services.keys().chain(lists.items.keys()).cloned().collect();
        for id in &units {
            variant.render_one(id, &input, iter::empty());
        }
        variant.compose(&input, units);
        let refused = variant.refusals().map(|(id, refusal)| format!("{id}: {}", refusal.cause));
        let mistakes: Vec<_> = variant.edge_fault().cloned().into_iter().chain(refused).collect();
        if !mistakes.is_empty() {
            bail!("{}", mistakes.join("\n"));
        }
        if let Some(held) = variant.held() {
            bail!("{}", held.why);
        }
        let snapshot = variant.snapshot();
        Ok(ResourceType::ALL.iter().flat_map(|kind| snapshot.all(*kind)).cloned().collect())
    }

    fn selection(&self) -> anyhow::Result<Selection> {
        Ok(self.templates.select(&self.facts()?))
    }

    fn scope(&self) -> Scope {
        Scope::new(&self.settings.edge, &self.context.values)
    }

    fn lists(&self) -> anyhow::Result<Lists> {
        let mut lists = Lists::default();
        lists.update(&self.templates, &self.context.values, &BTreeSet::new());
        match lists.fault() {
            Some(fault) => bail!("{fault}"),
            None => Ok(lists),
        }
    }
}

/// What the sources say; each of them has to answer.
async fn fetched(args: &Args) -> anyhow::Result<Arc<Values>> {
    // Nothing is kept, and no last good value stands in.
    let kept = tempfile::tempdir()?;
    let (sources, _follow) =
        Sources::start(config::sources(args)?, kept.path(), &mut Registry::default()).await?;
    let failed = sources.all().into_iter().find_map(|state| Some((state.name, state.error?)));
    if let Some((name, error)) = failed {
        bail!("--sources: {name}: {error}");
    }
    let values = sources.values().borrow().clone();
    let folder = tempfile::tempdir()?;
    let (keys, _follow) =
        Keys::start(config::issuers(args)?, folder.path(), Arc::new(SystemClock), &mut Registry::default())
            .await
            .context("the keys of issuers")?;
    let failed = keys.all().into_iter().find(|state| state.state != State::Fresh);
    if let Some(state) = failed {
        bail!("--issuer: {}: {}", state.issuer, state.last_error.as_deref().unwrap_or("no answer yet"));
    }
    let sets = keys.sets().borrow().clone();
    Ok(Arc::new(with_keys(Values::clone(&values), &sets)))
}

/// A YAML file. What is wrong in it is told with its name.
pub(crate) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_norway::from_str(&text).with_context(|| path.display().to_string())
}
