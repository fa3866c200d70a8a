//! `gatehouse delete`: a service leaves the fleet.

use anyhow::bail;

use crate::{
    broker::{Broker, Ended, Target},
    service::name_of,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service's name, or its file
    service: String,
    #[command(flatten)]
    target: Target,
}

#[allow(clippy::print_stderr)]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let name = name_of(&args.service)?;
    let broker = Broker::connect(args.target)?;
    let id = broker.instance_id(&name);
    let plan = broker.plan("standard").await?;
    let Some(operation) = broker.withdraw(&Broker::path(&id), &plan).await? else {
        bail!("there is no service {name:?}");
    };
    eprintln!("deleting {name} ({id})");
    match broker.wait(&Broker::path(&id), &operation, false).await? {
        Ended::Gone | Ended::Succeeded => {
            eprintln!("gone: {name}");
            Ok(())
        }
        Ended::Failed(cause) => bail!("{name} is not gone: {cause}"),
    }
}
