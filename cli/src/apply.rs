//! `gatehouse apply`: a service file goes live.

use std::path::PathBuf;

use anyhow::bail;

use crate::{
    broker::{Broker, Ended, Target},
    service,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service file
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

#[allow(clippy::print_stderr)]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let loaded = service::load(&args.file)?;
    let broker = Broker::connect(args.target)?;
    let id = broker.instance_id(&loaded.service.service);
    let plan = broker.plan(loaded.service.plan.unwrap_or_default().name()).await?;
    eprintln!("applying {} ({id})", loaded.service.service);
    let Some(operation) = broker.apply(&id, &plan, &loaded.parameters).await? else {
        eprintln!("nothing to change");
        return Ok(());
    };
    match broker.wait(&id, &operation).await? {
        Ended::Succeeded => {
            let hosts: Vec<_> = loaded.service.hosts.iter().map(ToString::to_string).collect();
            eprintln!("live: {}", hosts.join(", "));
            Ok(())
        }
        Ended::Failed(cause) => bail!("{} is not live: {cause}", loaded.service.service),
        Ended::Gone => bail!("{} was deleted meanwhile", loaded.service.service),
    }
}
