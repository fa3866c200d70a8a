//! `gatehouse delete`: a service leaves the fleet.

use std::path::Path;

use anyhow::bail;

use crate::{
    broker::{Broker, Ended, Target},
    service,
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
    let path = Path::new(&args.service);
    let name = if path.is_file() { service::load(path)?.service.service } else { args.service.clone() };
    let broker = Broker::connect(args.target)?;
    let id = broker.instance_id(&name);
    let plan = broker.plan("standard").await?;
    let Some(operation) = broker.delete(&id, &plan).await? else {
        bail!("there is no service {name:?}");
    };
    eprintln!("deleting {name} ({id})");
    match broker.wait(&id, &operation, false).await? {
        Ended::Gone | Ended::Succeeded => {
            eprintln!("gone: {name}");
            Ok(())
        }
        Ended::Failed(cause) => bail!("{name} is not gone: {cause}"),
    }
}
