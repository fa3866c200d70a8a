//! `gatehouse status`: what is live, what is not, and why.

use console::style;
use serde_json::Value;

use crate::{
    broker::{Broker, Target},
    operators::print,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let status = Broker::connect(args.target)?.get("/api/status").await?;
    print(args.json, &status, &table(&status))
}

pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// For people: services, then nodes, then what was refused.
fn table(status: &Value) -> String {
    let mut lines = vec![style("services").bold().to_string()];
    let mut services = items(&status["services"]).peekable();
    if services.peek().is_none() {
        lines.push("  none yet; try `gatehouse apply examples/hello.yaml`".into());
    }
    lines.extend(services.map(service));
    lines.push(style("nodes").bold().to_string());
    lines.extend(items(&status["nodes"]).flat_map(node));
    if let Some(fault) = status["templates"]["fault"].as_str() {
        lines.push(style("templates").bold().to_string());
        lines.push(format!("  {} {fault}", style("refused").red()));
    }
    lines.extend(waiting(status));
    let mut refused = items(&status["refused"]).peekable();
    if refused.peek().is_some() {
        lines.push(style("refused by the gate").bold().to_string());
    }
    lines.extend(refused.map(|one| {
        format!("  {} revision {}: {}", text(&one["instance"]), one["revision"], text(&one["cause"]))
    }));
    lines.join("\n") + "\n"
}

/// What does not go live although nothing is wrong with it.
pub(crate) fn waiting(status: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let pause = &status["pause"];
    if pause.is_object() {
        let (by, since, reason) = (text(&pause["by"]), text(&pause["since"]), text(&pause["reason"]));
        lines.push(format!("{} by {by} since {since}: {reason}", style("paused").yellow().bold()));
    }
    let mut held = items(&status["held"]).peekable();
    if held.peek().is_some() {
        lines.push(style("held").bold().to_string());
    }
    lines.extend(held.flat_map(|held| {
        let confirm =
            held["id"].as_str().map(|id| format!("  if that is meant: gatehouse fleet confirm {id}"));
        [Some(format!("  {}", text(&held["why"]))), confirm].into_iter().flatten()
    }));
    lines
}

fn service(service: &Value) -> String {
    let operation = &service["operation"];
    let state = text(&operation["state"]);
    let state = match state {
        "succeeded" => style(state).green(),
        "failed" => style(state).red(),
        _ => style(state).yellow(),
    };
    let hosts: Vec<_> = items(&service["hosts"]).map(text).collect();
    let live =
        service["live_revision"].as_u64().map_or("not live".to_owned(), |rev| format!("revision {rev} live"));
    format!(
        "  {}  {}  {live}; last {}: {state}: {}",
        style(text(&service["service"])).cyan(),
        hosts.join(", "),
        text(&operation["kind"]),
        text(&operation["description"])
    )
}

fn node(node: &Value) -> Vec<String> {
    let mut lines = vec![format!("  {}", style(text(&node["node"])).cyan())];
    for (role, view) in node["roles"].as_object().into_iter().flatten() {
        let connected =
            if view["connected"] == true { style("connected").green() } else { style("away").red() };
        lines.push(format!("    {role:<10} {connected}, {} resources acknowledged", view["acknowledged"]));
        for (resource, message) in view["refused"].as_object().into_iter().flatten() {
            lines.push(format!("      {} {resource}: {}", style("refused").red(), text(message)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_shown_where_it_happened() {
        let status = json!({
            "services": [{"service": "hello", "hosts": ["a.test"], "live_revision": 1, "operation":
                {"kind": "update", "state": "failed", "description": "envoy of edge/local refused it"}}],
            "nodes": [{"node": "edge/local", "roles": {"envoy":
                {"connected": true, "acknowledged": 3, "refused": {"virtual_hosts edge/i-1": "bad regex"}}}}],
            "templates": {"fault": "routes.yaml, line 3"},
            "pause": {"by": "ann", "since": "2026-11-22T08:00:00Z", "reason": "incident"},
            "held": [{"id": "abc", "why": "clusters: 0 instead of 9"}],
            "refused": [{"instance": "i-1", "revision": 2, "cause": "clusters.yaml"}]
        });
        let shown = console::strip_ansi_codes(&table(&status)).into_owned();
        for expected in [
            "hello  a.test  revision 1 live; last update: failed: envoy of edge/local refused it",
            "refused virtual_hosts edge/i-1: bad regex",
            "refused routes.yaml, line 3",
            "i-1 revision 2: clusters.yaml",
            "paused by ann since 2026-11-22T08:00:00Z: incident",
            "clusters: 0 instead of 9",
            "if that is meant: gatehouse fleet confirm abc",
        ] {
            assert!(shown.contains(expected), "{shown}");
        }
    }
}
