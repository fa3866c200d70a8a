//! `gatehouse issuers`: whose keys the edge has, and how old they are.

use serde_json::{Value, json};

use crate::{
    operators::{Operators, Target, escaped, print},
    status::{items, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask for the keys of this issuer now; at most every 30 s
    #[arg(long, value_name = "ISSUER")]
    refresh: Option<String>,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let operators = Operators::connect(args.target)?;
    if let Some(issuer) = &args.refresh {
        let path = format!("/api/issuers/refresh?issuer={}", escaped(issuer));
        let answer = operators.post(&path, &json!({})).await?;
        return print(args.json, &answer, "asked; `gatehouse issuers` shows what comes of it\n");
    }
    let answer = operators.get("/api/issuers").await?;
    print(args.json, &answer, &table(&answer["issuers"]))
}

fn table(issuers: &Value) -> String {
    let mut lines = Vec::new();
    for issuer in items(issuers) {
        let age = issuer["age_secs"].as_u64().map_or("never".into(), |secs| format!("{secs} s ago"));
        lines.push(format!(
            "{}  {}  {}",
            text(&issuer["issuer"]),
            text(&issuer["state"]),
            text(&issuer["source"])
        ));
        let kids: Vec<_> = items(&issuer["kids"]).map(text).collect();
        let next = &issuer["next_refresh_secs"];
        let kids = if kids.is_empty() { String::new() } else { format!(" ({})", kids.join(", ")) };
        lines.push(format!("  {} keys{kids}, known to be good {age}, next look in {next} s", issuer["keys"]));
        if let Some(error) = issuer["last_error"].as_str() {
            lines.push(format!("  {error}"));
        }
    }
    if lines.is_empty() {
        lines.push("no issuer is configured".into());
    }
    lines.join("\n") + "\n"
}
