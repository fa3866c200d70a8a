//! `gatehouse adopt` and `gatehouse purge`: for operators, where the usual way is barred.

use anyhow::ensure;
use serde_json::json;

use crate::operators::{Operators, Target, escaped, print};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service's instance id, as `gatehouse status` shows it
    id: String,
    /// A name whose records were not made by Gatehouse; the service's next change makes them what it wants
    #[arg(long = "host")]
    hosts: Vec<String>,
    /// A distribution that was not made by Gatehouse, by the CDN's name for it
    #[arg(long)]
    distribution: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PurgeArgs {
    /// The service's instance id, as `gatehouse status` shows it
    id: String,
    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    ensure!(!args.hosts.is_empty() || args.distribution.is_some(), "--host or --distribution: at least one");
    let body = json!({"hosts": args.hosts, "distribution": args.distribution});
    let path = format!("/api/services/{}/adopt", escaped(&args.id));
    let answer = Operators::connect(args.target)?.post(&path, &body).await?;
    print(false, &answer, "adopted; apply the service again\n")
}

pub(crate) async fn purge(args: PurgeArgs) -> anyhow::Result<()> {
    let path = format!("/api/services/{}/purge", escaped(&args.id));
    let answer = Operators::connect(args.target)?.post(&path, &json!({})).await?;
    let shown = "forgotten; what it had outside of the fleet is found by `gatehouse drift --look`\n";
    print(false, &answer, shown)
}
