//! The control plane in one process: broker, worker, context, templates, resources, ADS.
//!
//! This crate knows all the others; only it reads flags, the environment and configuration files.

mod config;
mod dev;
mod edge;
mod engines;
mod folder;
mod followed;
mod identity;
#[cfg(test)]
mod interleavings;
mod issuers;
mod items;
mod keys;
mod listener;
mod nest;
mod operators;
mod publisher;
mod render;
mod reporter;
mod roles;
mod state;
mod variant;
mod xds;

use clap::Parser as _;
use mimalloc::MiMalloc;
use runtime::telemetry;

use crate::config::{Args, Command};

/// Thousands of small messages are made and dropped with each render; the C library's allocator took a quarter of it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    if let Some(Command::Render(ref arguments)) = args.command {
        return render::run(&args, arguments);
    }
    telemetry::init(&args.log);
    match start(&args) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> anyhow::Result<()> {
    if let Some(Command::Reseal) = args.command {
        return reseal(args);
    }
    let mut config = config::Config::load(args)?;
    if let Some(Command::State { ref command }) = args.command {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(state::run(&mut config, command));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = roles::App::bind(config).await?;
        Box::pin(app.run(runtime::shutdown()?)).await
    })
}

fn reseal(args: &Args) -> anyhow::Result<()> {
    let mut config = config::Config::load(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = engines::store_with_new_key(&mut config).await?;
        let instances = keys::reseal(&*store).await?;
        tracing::info!(instances, "sealed with the first key");
        Ok(())
    })
}
