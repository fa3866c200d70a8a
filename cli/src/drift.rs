//! `gatehouse drift`: how what exists differs from what is wanted.

use serde_json::{Value, json};

use crate::{
    operators::{Operators, Target, print},
    status::{items, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look now; without this, what the last look found is shown
    #[arg(long)]
    look: bool,
    /// Look now, and put right what differs
    #[arg(long)]
    mend: bool,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let operators = Operators::connect(args.target)?;
    let answer = if args.look || args.mend {
        operators.post("/api/drift", &json!({"mend": args.mend})).await?
    } else {
        operators.get("/api/drift").await?
    };
    print(args.json, &answer, &table(&answer["drift"]))
}

fn table(drift: &Value) -> String {
    if drift.is_null() {
        return "nobody has looked yet; --look does\n".into();
    }
    let mut lines: Vec<_> = items(&drift["findings"])
        .map(|finding| {
            let state = match &finding["state"] {
                Value::Object(failed) => format!("not mended: {}", text(&failed["failed"])),
                state => text(state).to_owned(),
            };
            format!("{}  {}  {state}", text(&finding["instance"]), text(&finding["what"]))
        })
        .collect();
    let found = lines.len();
    lines.push(format!("{found} differences at {} services, {}", drift["instances"], text(&drift["at"])));
    lines.join("\n") + "\n"
}
