//! `gatehouse bind` and `gatehouse unbind`: API keys of a service for its clients.

use anyhow::bail;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    broker::{Broker, Ended, Target},
    operators::print,
    service::name_of,
    status::{items, text},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service's name, or its file
    service: String,
    /// Who is to have the key: what the service is told as the subject. Without it the keys are listed
    name: Option<String>,
    /// What the key is good for, for the rules of the service; may be repeated
    #[arg(long = "scope", requires = "name")]
    scopes: Vec<String>,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnbindArgs {
    /// The service's name, or its file
    service: String,
    /// Who has the key
    name: String,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn bind(args: Args) -> anyhow::Result<()> {
    let service = name_of(&args.service)?;
    let broker = Broker::connect(args.target)?;
    let id = broker.instance_id(&service);
    let Some(instance) = broker.instance(&id).await? else {
        bail!("there is no service {service:?} of this tenant, or it is being made");
    };
    let Some(name) = args.name else { return list(&instance, args.json) };
    let binding = binding_id(&id, &name);
    let body = json!({
        "service_id": instance["service_id"],
        "plan_id": instance["plan_id"],
        "parameters": { "name": name, "scopes": args.scopes },
    });
    let path = Broker::binding_path(&id, &binding);
    if let Some(operation) = broker.order(&path, &body).await?
        && let Ended::Failed(cause) = broker.wait(&path, &operation, args.json).await?
    {
        bail!("there is no key: {cause}");
    }
    let given = broker.get(&path).await?;
    let credentials = &given["credentials"];
    let Some(key) = credentials["api_key"].as_str() else {
        bail!(
            "{name:?} has a key already ({}), and its secret was shown; unbind it first, or choose another name",
            text(&credentials["api_key_id"])
        );
    };
    let shown = format!("{}: {key}\n", text(&credentials["header"]));
    print(args.json, &given, &shown)?;
    say(args.json, "That is the only time it is shown: the broker keeps its hash.");
    Ok(())
}

fn list(instance: &Value, json: bool) -> anyhow::Result<()> {
    let line = |binding: &Value| {
        let scopes: Vec<_> = items(&binding["scopes"]).map(text).collect();
        let state = match (text(&binding["kind"]), text(&binding["state"])) {
            ("bind", "succeeded") => String::new(),
            (kind, state) => format!("  ({kind}: {state})"),
        };
        format!(
            "{}  {}  {}{state}\n",
            text(&binding["api_key_id"]),
            text(&binding["subject"]),
            scopes.join(" ")
        )
    };
    let lines: String = items(&instance["bindings"]).map(line).collect();
    print(json, &instance["bindings"], if lines.is_empty() { "no keys\n" } else { &lines })
}

pub(crate) async fn unbind(args: UnbindArgs) -> anyhow::Result<()> {
    let service = name_of(&args.service)?;
    let broker = Broker::connect(args.target)?;
    let id = broker.instance_id(&service);
    let path = Broker::binding_path(&id, &binding_id(&id, &args.name));
    let plan = broker.plan("standard").await?;
    let Some(operation) = broker.withdraw(&path, &plan).await? else {
        bail!("{:?} has no key of the service {service:?}", args.name);
    };
    match broker.wait(&path, &operation, false).await? {
        Ended::Gone | Ended::Succeeded => {
            say(false, &format!("gone: the key of {}", args.name));
            Ok(())
        }
        Ended::Failed(cause) => bail!("the key is not gone everywhere: {cause}; try again"),
    }
}

/// The same name is the same binding, on every machine.
fn binding_id(instance: &str, name: &str) -> String {
    let namespace = Uuid::parse_str(instance).unwrap_or_default();
    Uuid::new_v5(&namespace, name.as_bytes()).to_string()
}

#[allow(clippy::print_stderr)]
fn say(json: bool, line: &str) {
    if !json {
        eprintln!("{line}");
    }
}
