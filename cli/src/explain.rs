//! `gatehouse explain`, `gatehouse diff`, `gatehouse catalog`, `gatehouse schema`: what is asked before and after an order.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::Value;
use similar::TextDiff;

use crate::{
    Differs,
    broker::{Broker, Target},
    operators::print,
    service,
    status::{items, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The service's name, or its file
    service: String,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Each step of the newest operation, and where it stands.
pub(crate) async fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    let name = service::name_of(&args.service)?;
    let broker = Broker::connect(args.target)?;
    let id = broker.instance_id(&name);
    let answer = broker.last_operation(&id).await?;
    let Some(answer) = answer else { anyhow::bail!("there is no service {name:?} of this tenant") };
    let mut lines =
        vec![format!("{name} ({id}): {}: {}", text(&answer["state"]), text(&answer["description"]))];
    lines.extend(items(&answer["steps"]).map(|step| {
        let mark = match step["state"].as_str() {
            Some("done") => "✓",
            Some("failed") => "✗",
            Some("active") => "…",
            _ => " ",
        };
        format!("  {mark} {:<12} {}", text(&step["name"]), step["detail"].as_str().unwrap_or_default())
            .trim_end()
            .to_owned()
    }));
    print(args.json, &answer, &(lines.join("\n") + "\n"))
}

#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Service files, or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// What an apply would change. Ends with 2 where it would.
#[allow(clippy::print_stdout)]
pub(crate) async fn diff(args: DiffArgs) -> anyhow::Result<()> {
    let files = service::load_all(&args.paths)?;
    let broker = Broker::connect(args.target)?;
    let mut differs = false;
    for loaded in &files {
        let name = &loaded.service.service;
        let live = broker.instance(&broker.instance_id(name)).await?;
        let live = live.map(|instance| instance["parameters"].clone());
        // Each writes its fields in another order, which means nothing.
        let shown = |value: &Value| {
            let mut sorted = value.clone();
            sorted.sort_all_objects();
            serde_norway::to_string(&sorted).context("writing YAML")
        };
        let before = live.as_ref().map(shown).transpose()?.unwrap_or_default();
        let after = shown(&loaded.parameters)?;
        if before == after {
            continue;
        }
        differs = true;
        let diff = TextDiff::from_lines(&before, &after);
        let head = if live.is_some() { format!("{name}, as it is ordered") } else { "nothing".to_owned() };
        print!("{}", diff.unified_diff().header(&head, name));
    }
    if differs { Err(Differs.into()) } else { Ok(()) }
}

#[derive(Debug, clap::Args)]
pub(crate) struct CatalogArgs {
    /// For machines: as the broker has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// The plans, and what each allows.
pub(crate) async fn catalog(args: CatalogArgs) -> anyhow::Result<()> {
    let catalog = Broker::connect(args.target)?.get("/v2/catalog").await?;
    let mut lines = Vec::new();
    for plan in items(&catalog["services"]).flat_map(|service| items(&service["plans"])) {
        lines.push(format!("{:<10} {}", text(&plan["name"]), text(&plan["description"])));
        lines.extend(
            items(&plan["metadata"]["bullets"]).map(|bullet| format!("{:<10}   {}", "", text(bullet))),
        );
    }
    print(args.json, &catalog, &(lines.join("\n") + "\n"))
}

/// The JSON Schema of service files, for editors: `# yaml-language-server: $schema=service.schema.json`.
pub(crate) fn schema() -> anyhow::Result<()> {
    print(true, model::service_schema(), "")
}
