//! `gatehouse jobs`: what workers have to do, and what they have given up.

use console::style;
use serde_json::{Value, json};

use crate::{
    operators::{Operators, Target, escaped, print},
    status::{items, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// For machines
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Hand a job out again that was given up
    Retry {
        /// As `gatehouse jobs` shows it
        id: String,
    },
    /// Throw a job away that was given up; its operation has failed then
    Drop {
        /// As `gatehouse jobs` shows it
        id: String,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let operators = Operators::connect(args.target)?;
    let post = async |id: &str, what: &str| {
        operators.post(&format!("/api/jobs/{}/{what}", escaped(id)), &json!({})).await
    };
    let (answer, shown) = match &args.command {
        None => {
            let jobs = operators.get("/api/jobs").await?;
            let shown = table(&jobs);
            (jobs, shown)
        }
        Some(Command::Retry { id }) => (post(id, "retry").await?, format!("{id} is handed out again\n")),
        Some(Command::Drop { id }) => (post(id, "drop").await?, format!("{id} is thrown away\n")),
    };
    print(args.json, &answer, &shown)
}

fn table(jobs: &Value) -> String {
    let depth = &jobs["depth"];
    let mut lines = vec![format!("{} to do, {} under way or resting", depth["visible"], depth["hidden"])];
    let mut dead = items(&jobs["dead"]).peekable();
    if dead.peek().is_some() {
        lines.push(style("given up").bold().to_string());
    }
    lines.extend(dead.map(|letter| {
        let instance = letter["job"]["instance"].as_str().unwrap_or("unknown instance");
        let since = text(&letter["since"]);
        format!("  {}  {instance}  since {since}: {}", text(&letter["id"]), text(&letter["cause"]))
    }));
    lines.join("\n") + "\n"
}
