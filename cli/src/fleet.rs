//! `gatehouse fleet`: which node runs what, and the few things that operators decide.

use console::style;
use serde_json::{Value, json};

use crate::{
    operators::{Operators, Target, escaped, print},
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
    /// What a node does not hold as it should, and how that differs
    Diff {
        /// `<group>/<instance>`
        node: String,
    },
    /// The resources that are served
    Resources {
        /// listeners, clusters, …; all, when there is nothing here
        kind: Option<String>,
    },
    /// One resource as YAML, with the versions before
    Show {
        /// listeners, clusters, …
        kind: String,
        /// Its xDS name
        name: String,
        /// An earlier version, or the beginning of it
        #[arg(long)]
        version: Option<String>,
        /// Show only what changed since this version
        #[arg(long)]
        since: Option<String>,
    },
    /// Where the context comes from, and how fresh it is
    Sources,
    /// What templates see, as YAML for `gatehouse-control-plane render --context`: the services without their keys, and
    /// the sources with `shown: true`
    Context,
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

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let operators = Operators::connect(args.target)?;
    let (answer, shown) = match &args.command {
        None => {
            let status = operators.get("/api/status").await?;
            let shown = table(&status);
            (status, shown)
        }
        Some(Command::Diff { node }) => {
            let answer = operators.get(&format!("/api/diff/{}", escaped(node))).await?;
            let shown = differences(&answer);
            (answer, shown)
        }
        Some(Command::Resources { kind }) => {
            let query = kind.as_ref().map(|kind| format!("?kind={}", escaped(kind))).unwrap_or_default();
            let answer = operators.get(&format!("/api/resources{query}")).await?;
            let shown = items(&answer["resources"]).map(resource).collect();
            (answer, shown)
        }
        Some(Command::Show { kind, name, version, since }) => {
            let path = format!("/api/resources/{}/{}", escaped(kind), escaped(name));
            let answer = operators.query(&path, &[("version", version), ("from", since)]).await?;
            let shown = one(&answer);
            (answer, shown)
        }
        Some(Command::Sources) => {
            let answer = operators.get("/api/sources").await?;
            let shown = items(&answer["sources"]).map(source).collect();
            (answer, shown)
        }
        Some(Command::Context) => {
            let answer = operators.get("/api/context").await?;
            let shown = serde_norway::to_string(&answer)?;
            (answer, shown)
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
    print(args.json, &answer, &shown)
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

fn differences(answer: &Value) -> String {
    let mut lines = Vec::new();
    for difference in items(&answer["shown"]) {
        let state = match text(&difference["state"]) {
            "refused" => style("refused").red(),
            other => style(other).yellow(),
        };
        lines.push(format!("{state} {} {}", text(&difference["kind"]), text(&difference["name"])));
        if let Some(why) = difference["refused"].as_str() {
            lines.push(format!("  {why}"));
        }
        lines.push(text(&difference["diff"]).trim_end().to_owned());
    }
    let count = answer["differences"].as_u64().unwrap_or_default();
    let node = text(&answer["node"]);
    lines.push(match (count, items(&answer["shown"]).count()) {
        (0, _) => format!("{node} holds everything as it should"),
        (count, shown) if shown as u64 == count => format!("{node}: {count} resources differ"),
        (count, shown) => format!("{node}: {count} resources differ; the first {shown} are shown"),
    });
    lines.join("\n") + "\n"
}

fn resource(resource: &Value) -> String {
    let versions: Vec<_> =
        resource["versions"].as_object().into_iter().flatten().map(|(_, version)| version).collect();
    let first: String =
        versions.first().map_or("-", |version| text(version)).chars().take(VERSION_CHARS).collect();
    let differs = versions.iter().any(|version| *version != versions[0]);
    let more = if differs { format!(" and {} others", versions.len() - 1) } else { String::new() };
    let owner = resource["owner"].as_str().map(|owner| format!("  of {owner}")).unwrap_or_default();
    format!("{:<18} {}  {first}{more}{owner}\n", text(&resource["kind"]), text(&resource["name"]))
}

fn one(answer: &Value) -> String {
    let mut shown = answer["diff"].as_str().unwrap_or_else(|| text(&answer["yaml"])).to_owned();
    if answer["diff"] == "" {
        "nothing changed\n".clone_into(&mut shown);
    }
    for version in items(&answer["history"]) {
        let until =
            version["until"].as_str().map_or("is served".to_owned(), |until| format!("until {until}"));
        shown.push_str(&format!("# {} {until}\n", text(&version["version"])));
    }
    shown
}

fn source(source: &Value) -> String {
    let freshness = match text(&source["freshness"]) {
        "fresh" => style("fresh").green(),
        "stale" => style("stale").yellow(),
        other => style(other).red(),
    };
    let why = source["error"].as_str().map(|why| format!("\n  {why}")).unwrap_or_default();
    format!("{:<20} {freshness:<7}  {}{why}\n", text(&source["name"]), text(&source["origin"]))
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
