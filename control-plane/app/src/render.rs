//! `render`: what the templates make of a service file, checked like everything that is served.

use std::{collections::BTreeSet, fs};

use anyhow::Context as _;
use model::{
    context::{Service, Values},
    instance::{Instance, Published, Request},
    node::Selection,
};
use templates::Scope;

use crate::{
    config::{self, Args, RenderArgs},
    variant::decode_all,
};

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args, render: &RenderArgs) -> anyhow::Result<()> {
    let settings = config::edge(args)?;
    let edge = serde_json::to_value(&settings)?;
    let templates = args.folder().load()?;
    let selection = Selection::default();
    let scope = Scope::new(&edge, &Values::new());
    let mut documents = templates.render_edge(&selection, &scope)?;
    if let Some(path) = &render.service {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let parameters: serde_json::Value =
            serde_norway::from_str(&text).with_context(|| path.display().to_string())?;
        let service = example(parameters).with_context(|| path.display().to_string())?;
        documents.extend(templates.render_service(&selection, &service, &scope)?);
    }
    for document in &documents {
        println!("# {}\n{}", document.template, document.text.trim());
    }
    let resources = decode_all(&documents, &settings.bootstrap()).map_err(anyhow::Error::msg)?;
    let kinds: BTreeSet<_> = resources.iter().map(|resource| resource.key.kind).collect();
    tracing::info!(resources = resources.len(), kinds = kinds.len(), "valid");
    Ok(())
}

/// The service as revision 1 of an instance that does not exist.
fn example(parameters: serde_json::Value) -> anyhow::Result<Service> {
    let request = Request::offline(parameters);
    let instance = Instance::provision("example".parse()?, request, String::new());
    Ok(Service::of(&instance, &Published::wanted_of(&instance)?))
}
