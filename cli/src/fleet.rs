//! `gatehouse fleet`: which node runs what, and the few things that operators decide.

use console::style;
use serde_json::{Value, json};

use crate::{
    operators::{Operators, Target},
    status::{items, text, waiting},
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
    /// Let a change go live that was held
    Confirm {
        /// As `gatehouse fleet` shows it
        id: String,
    },
    /// Push nothing until `resume`
    Pause {
        /// Why, for the others
        reason: String,
    },
    /// Push again, at once what came in the meantime
    Resume,
}

#[allow(clippy::print_stdout)]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let operators = Operators::connect(args.target)?;
    let (answer, shown) = match &args.command {
        None => {
            let status = operators.get("/api/status").await?;
            let shown = table(&status);
            (status, shown)
        }
        Some(Command::Confirm { id }) => {
            let answer = operators.post(&format!("/api/held/{id}/confirm"), &json!({})).await?;
            (answer, format!("{id} goes live\n"))
        }
        Some(Command::Pause { reason }) => {
            let answer = operators.post("/api/pause", &json!({ "reason": reason })).await?;
            (answer, "pushes are paused; `gatehouse fleet resume` ends it\n".to_owned())
        }
        Some(Command::Resume) => {
            (operators.post("/api/resume", &json!({})).await?, "pushes go on\n".to_owned())
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{shown}");
    }
    Ok(())
}

/// A line a process, with a line for each type that is not as it should be.
fn table(status: &Value) -> String {
    let mut lines = waiting(status);
    let nodes: Vec<_> = items(&status["nodes"]).collect();
    lines.push(style(format!("{} nodes", nodes.len())).bold().to_string());
    for node in nodes {
        let agent = text(&node["user_agent"]);
        lines.push(format!("  {}  {agent}", style(text(&node["node"])).cyan()));
        for (role, view) in node["roles"].as_object().into_iter().flatten() {
            lines.extend(process(role, view));
        }
    }
    lines.join("\n") + "\n"
}

fn process(role: &str, view: &Value) -> Vec<String> {
    let connected = if view["connected"] == true { style("connected").green() } else { style("away").red() };
    let mut lines = vec![format!("    {role:<10} {connected}")];
    for (kind, of_kind) in view["types"].as_object().into_iter().flatten() {
        let age = of_kind["last_ack_secs"]
            .as_u64()
            .map_or("never".to_owned(), |secs| format!("{} ago", span(secs)));
        let in_sync =
            if of_kind["in_sync"] == true { style("in sync").green() } else { style("behind").yellow() };
        let version: String = text(&of_kind["version"]).chars().take(VERSION_CHARS).collect();
        let held = of_kind["held"].to_string();
        lines.push(format!("      {kind:<18} {in_sync:<7}  {held:>6} held  {version}  last ACK {age}"));
        if let Some(words) = of_kind["last_nack"][1].as_str() {
            let secs = of_kind["last_nack"][0].as_u64().unwrap_or_default();
            lines.push(format!("        {} {} ago: {words}", style("NACK").red(), span(secs)));
        }
    }
    for (resource, message) in view["refused"].as_object().into_iter().flatten() {
        lines.push(format!("      {} {resource}: {}", style("refused").red(), text(message)));
    }
    lines
}

/// Enough to tell versions apart by eye.
const VERSION_CHARS: usize = 12;

fn span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min", secs / 60),
        _ => format!("{} h", secs / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_behind_and_one_that_refused_are_seen() {
        let of_kind = |in_sync: bool| json!({"version": "0123456789abcdef", "in_sync": in_sync, "held": 2, "desired": 3, "last_ack_secs": 61});
        let mut refusing = of_kind(false);
        refusing["last_nack"] = json!([5, "no such filter"]);
        let status = json!({
            "pause": null,
            "held": [],
            "nodes": [{"node": "edge/local", "user_agent": "envoy 1.40.0", "roles": {
                "authn": {"connected": false, "types": {"authn_policies": of_kind(true)}},
                "envoy": {"connected": true, "types": {"listeners": refusing},
                    "refused": {"listeners http": "no such filter"}},
            }}],
        });
        assert_eq!(
            console::strip_ansi_codes(&table(&status)),
            "1 nodes
  edge/local  envoy 1.40.0
    authn      away
      authn_policies     in sync       2 held  0123456789ab  last ACK 1 min ago
    envoy      connected
      listeners          behind        2 held  0123456789ab  last ACK 1 min ago
        NACK 5 s ago: no such filter
      refused listeners http: no such filter
"
        );
    }
}
