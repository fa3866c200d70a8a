//! `render`: what the templates make of a context, through the same gate as everything that is served. For people and
//! for CI: it tells by its exit code, and prints text.

mod golden;
mod live;
mod world;

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use ::resources::{Key, Resource};
use anyhow::{Context as _, ensure};
use model::node::Transport;
use similar::TextDiff;

use self::{live::Live, world::World};
use crate::config::{Args, RenderArgs};

/// Something is wrong.
const MISTAKE: u8 = 1;
/// All is well, and other than expected: as `terraform plan -detailed-exitcode` tells it.
const DIFFERENT: u8 = 2;
/// Unchanged lines around a change.
const CONTEXT_LINES: usize = 3;

#[allow(clippy::print_stderr)]
pub(crate) fn run(args: &Args, render: &RenderArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.context("starting").and_then(|runtime| runtime.block_on(by(args, render)));
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DIFFERENT),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(MISTAKE)
        }
    }
}

/// Whether everything is as expected.
async fn by(args: &Args, render: &RenderArgs) -> anyhow::Result<bool> {
    let mut world = World::new(args).await?;
    world.transport = if render.polling { Transport::Rest } else { Transport::Stream };
    if let Some(folder) = &render.golden {
        return golden::check(&world, folder, render.update);
    }
    if let Some(path) = &render.node {
        world.read_node(path)?;
    }
    if render.diff {
        return compare(world, render).await;
    }
    if let Some(path) = &render.context {
        world.read_context(path)?;
    }
    for path in &render.services {
        world.read_service(path)?;
    }
    print(&world)
}

/// The text first: its lines are what mistakes name.
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn print(world: &World) -> anyhow::Result<bool> {
    for document in world.documents()? {
        println!("# {}\n{}", document.template, document.text.trim());
    }
    let resources = world.render()?;
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for resource in &resources {
        *kinds.entry(resource.key.kind.label()).or_default() += 1;
    }
    let counts: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    eprintln!("valid: {}", counts.join(", "));
    Ok(true)
}

/// What would change if these templates and this context were live.
#[allow(clippy::print_stdout, clippy::print_stderr)]
async fn compare(mut world: World, render: &RenderArgs) -> anyhow::Result<bool> {
    let live = Live::new(render)?;
    world.take(live.context().await?);
    if let Some(path) = &render.context {
        world.read_context(path)?;
    }
    for path in &render.services {
        world.read_service(path)?;
    }
    let mut before = live.versions(&world).await?;
    // Drawn from a secret that no context shows.
    before.retain(|key, _| key.kind != api::ResourceType::AuthnIdentityKey);
    let (mut new, mut changed, mut same) = (0, 0, 0);
    for resource in world.render()? {
        match before.remove(&resource.key) {
            Some(version) if *version == *resource.version => same += 1,
            Some(version) => {
                let diff = difference(&live.yaml(&resource.key, &version).await?, &resource)?;
                // Keys are redacted in what the control plane tells, so a certificate has another version here.
                if diff.is_empty() {
                    same += 1;
                } else {
                    changed += 1;
                    print!("{diff}");
                }
            }
            None => {
                new += 1;
                print!("{}", difference("", &resource)?);
            }
        }
    }
    for key in before.keys() {
        println!("--- {key}\n+++ nothing");
    }
    eprintln!("{changed} changed, {new} new, {} gone, {same} the same", before.len());
    Ok(changed + new + before.len() == 0)
}

/// From a text to what is rendered now; empty where nothing differs.
fn difference(before: &str, resource: &Resource) -> anyhow::Result<String> {
    let after = resource.yaml().map_err(anyhow::Error::msg)?;
    let (old, new) = (name(&resource.key, before.is_empty()), resource.key.to_string());
    Ok(unified(before, &after, &old, &new))
}

fn name(key: &Key, is_nothing: bool) -> String {
    if is_nothing { "nothing".into() } else { key.to_string() }
}

fn unified(before: &str, after: &str, old: &str, new: &str) -> String {
    TextDiff::from_lines(before, after)
        .unified_diff()
        .context_radius(CONTEXT_LINES)
        .header(old, new)
        .to_string()
}

/// All resources as YAML documents, each under its name; secrets are redacted.
fn text(resources: &[std::sync::Arc<Resource>]) -> anyhow::Result<String> {
    let mut text = String::new();
    for resource in resources {
        let yaml = resource.yaml().map_err(anyhow::Error::msg)?;
        write!(text, "--- # {}\n{yaml}", resource.key)?;
    }
    ensure!(!text.is_empty(), "nothing is rendered");
    Ok(text)
}
