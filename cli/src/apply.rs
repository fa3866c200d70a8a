//! `gatehouse apply`: service files go live.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use crate::{
    broker::{Broker, Ended, Target},
    operators::print,
    service::{self, Loaded},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Service files, or folders of them. All are checked before anything is sent
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Do not wait until they are live: end when they are ordered
    #[arg(long)]
    no_wait: bool,
    /// For machines: a list with a state for each file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// What became of one file.
struct Applied {
    service: String,
    id: String,
    /// `live`, `unchanged`, `ordered`, or `failed`.
    state: &'static str,
    description: String,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let files = service::load_all(&args.paths)?;
    let broker = Broker::connect(args.target)?;
    let mut all = Vec::with_capacity(files.len());
    for loaded in &files {
        let service = loaded.service.service.clone();
        let id = broker.instance_id(&service);
        let (state, description) = match apply(&broker, &id, loaded, args.no_wait, args.json).await {
            Ok(applied) => applied,
            // The others may be well.
            Err(error) => ("failed", format!("{error:#}")),
        };
        say(
            args.json,
            &format!("{service}: {state}{}", if description.is_empty() { "" } else { ": " }),
            &description,
        );
        all.push(Applied { service, id, state, description });
    }
    print(args.json, &listed(&all), "")?;
    let failed: Vec<_> = all.iter().filter(|one| one.state == "failed").collect();
    match failed.as_slice() {
        [] => Ok(()),
        [one] if all.len() == 1 => Err(anyhow!("{} is not live: {}", one.service, one.description)),
        several => bail!("{} of {} are not live", several.len(), all.len()),
    }
}

fn listed(all: &[Applied]) -> Value {
    let one = |one: &Applied| json!({"service": one.service, "id": one.id, "state": one.state, "description": one.description});
    all.iter().map(one).collect()
}

#[allow(clippy::print_stderr)]
fn say(json: bool, head: &str, text: &str) {
    if !json {
        eprintln!("{head}{text}");
    }
}

async fn apply(
    broker: &Broker,
    id: &str,
    loaded: &Loaded,
    no_wait: bool,
    json: bool,
) -> anyhow::Result<(&'static str, String)> {
    let plan = broker.plan(loaded.service.plan.unwrap_or_default().name()).await?;
    say(json, &format!("applying {} ({id})", loaded.service.service), "");
    let Some(operation) = broker.apply(id, &plan, &loaded.parameters).await? else {
        return Ok(("unchanged", "nothing to change".into()));
    };
    if no_wait {
        return Ok(("ordered", format!("operation {operation}")));
    }
    match broker.wait(&Broker::path(id), &operation, json).await? {
        Ended::Succeeded => {
            let hosts: Vec<_> = loaded.service.hosts.iter().map(ToString::to_string).collect();
            Ok(("live", hosts.join(", ")))
        }
        Ended::Failed(cause) => Ok(("failed", cause)),
        Ended::Gone => Ok(("failed", "it was deleted meanwhile".into())),
    }
}
