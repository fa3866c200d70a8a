//! `gatehouse audit`: who changed what, and what became of it.

use std::collections::BTreeSet;

use console::style;
use serde_json::{Value, json};

use crate::{
    operators::{Operators, Target, print},
    revoke,
    status::{items, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only of this service instance
    #[arg(long)]
    instance: Option<String>,
    /// Only of this platform
    #[arg(long)]
    platform: Option<String>,
    /// At most so many entries, the newest
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let operators = Operators::connect(args.target)?;
    let mut entries: Vec<Value> = Vec::new();
    while entries.len() < args.limit {
        let before = entries.last().map(|entry| entry["position"].to_string());
        let chosen = [("instance", &args.instance), ("platform", &args.platform), ("before", &before)];
        let page = operators.query("/api/audit", &chosen).await?;
        let found = items(&page["entries"]).cloned();
        let known = entries.len();
        entries.extend(found);
        if entries.len() == known {
            break;
        }
    }
    entries.truncate(args.limit);
    let shown: String = entries.iter().map(|entry| line(entry) + "\n").collect();
    print(args.json, &json!({ "entries": entries }), &shown)
}

fn line(entry: &Value) -> String {
    let owner = format!("{}/{}", text(&entry["owner"]["platform"]), text(&entry["owner"]["tenant"]));
    let what = match entry["event"].as_str() {
        Some("asked") => asked(entry),
        Some("revoked") => {
            let wider = items(&entry["widened"]).count();
            let wider = if wider > 0 { format!(", and {wider} wider for others") } else { String::new() };
            format!("{}{wider}: {}", style("revoked").bold(), revoke::line(&entry["revocation"]).trim_end())
        }
        Some("restored") => {
            format!("{}: {}", style("taken back").bold(), revoke::line(&entry["revocation"]).trim_end())
        }
        Some("shown") => format!("{}{}", style("secret shown").bold(), by(entry)),
        _ => format!("{}: {}", style(text(&entry["state"])).bold(), text(&entry["description"])),
    };
    let binding = entry["binding"].as_str().map(|id| format!(" binding {id}")).unwrap_or_default();
    format!("{}  {owner}  {}{binding}  {what}", text(&entry["at"]), text(&entry["instance"]))
}

/// Who asked, for whom, and in which request.
fn by(entry: &Value) -> String {
    let by = &entry["by"];
    let subject = by["subject"].as_str().map(|subject| format!(" as {subject}")).unwrap_or_default();
    let identity = match &by["identity"] {
        Value::Null => String::new(),
        identity => format!(" for {identity}"),
    };
    let request = by["request"].as_str().map(|id| format!(" in request {id}")).unwrap_or_default();
    format!("{subject}{identity}{request}")
}

fn asked(entry: &Value) -> String {
    let changed = changed(&entry["before"], &entry["after"]);
    format!("{}{}{changed}", style(text(&entry["kind"])).bold(), by(entry))
}

/// The fields of the service file that differ, for an update.
fn changed(before: &Value, after: &Value) -> String {
    let (Some(old), Some(new)) = (before["parameters"].as_object(), after["parameters"].as_object()) else {
        return String::new();
    };
    let fields: BTreeSet<_> =
        old.keys().chain(new.keys()).filter(|field| old.get(*field) != new.get(*field)).collect();
    let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
    fields
        .into_iter()
        .map(|field| format!("\n    {field}: {} → {}", shown(old.get(field)), shown(new.get(field))))
        .collect()
}
