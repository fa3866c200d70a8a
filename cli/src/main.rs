//! `gatehouse`: runs the edge on one machine, and is a client of its broker.

mod adopt;
mod apply;
mod audit;
mod authz;
mod bind;
mod broker;
mod credentials;
mod delete;
mod drift;
mod explain;
mod fleet;
mod import;
mod issuers;
mod jobs;
mod lines;
mod operators;
mod password;
mod revoke;
mod service;
mod state;
mod status;
mod token;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As `gatehouse-control-plane render --diff` ends.
const DIFFERS: u8 = 2;

/// There are differences, and they were shown.
#[derive(Debug, thiserror::Error)]
#[error("there are differences")]
struct Differs;

/// Gatehouse: Envoy at the edge, with self-service onboarding.
#[derive(Debug, Parser)]
#[command(name = "gatehouse", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine
    Up(up::Args),
    /// Make service files live, and wait until they are
    Apply(apply::Args),
    /// Show what an apply would change; ends with 2 where it would
    Diff(explain::DiffArgs),
    /// Show each step of a service's newest operation
    Explain(explain::ExplainArgs),
    /// Test and explain a service file's rules of authorization, offline
    #[command(subcommand)]
    Authz(authz::Command),
    /// Show the plans, and what each allows
    Catalog(explain::CatalogArgs),
    /// Print the JSON Schema of service files, for editors
    Schema,
    /// Show services, nodes, and what was refused
    Status(status::Args),
    /// Show which node runs what; pause pushes, confirm what is held
    Fleet(fleet::Args),
    /// Turn another control plane's configuration into ours
    Import(import::Args),
    /// Take a service away, and wait until it is gone
    Delete(delete::Args),
    /// Give a client of a service an API key; list those that were given
    Bind(bind::Args),
    /// Take a client's API key away, and wait until it is good nowhere
    Unbind(bind::UnbindArgs),
    /// Withdraw a token, a session, a subject's tokens or an API key on all nodes at once; list what is withdrawn
    Revoke(revoke::Args),
    /// Show what workers have to do; retry or drop what they have given up
    Jobs(jobs::Args),
    /// Show whose keys the edge has and how old they are; ask for them early
    Issuers(issuers::Args),
    /// Show who changed what
    Audit(audit::Args),
    /// Show how names, certificates and distributions differ from what is wanted; mend them
    Drift(drift::Args),
    /// Give a service names or a distribution that Gatehouse did not make
    Adopt(adopt::Args),
    /// Forget a service, whatever state it is in
    Purge(adopt::PurgeArgs),
    /// Write all that the store knows to a file, or read it into another store
    State(state::Args),
    /// Make a secret for a platform
    Credentials(credentials::Args),
    /// Hash a password for the method `basic` of a service file; it is read from standard input
    HashPassword(password::Args),
    /// Mint a token from the local development issuer
    Token(token::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Up(args) => up::run(args).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Diff(args) => explain::diff(args).await,
        Command::Explain(args) => explain::explain(args).await,
        Command::Authz(command) => authz::run(&command),
        Command::Catalog(args) => explain::catalog(args).await,
        Command::Schema => explain::schema(),
        Command::Status(args) => status::run(args).await,
        Command::Fleet(args) => fleet::run(args).await,
        Command::Import(args) => import::run(&args),
        Command::Delete(args) => delete::run(args).await,
        Command::Bind(args) => bind::bind(args).await,
        Command::Unbind(args) => bind::unbind(args).await,
        Command::Revoke(args) => revoke::run(args).await,
        Command::Jobs(args) => jobs::run(args).await,
        Command::Issuers(args) => issuers::run(args).await,
        Command::Audit(args) => audit::run(args).await,
        Command::Drift(args) => drift::run(args).await,
        Command::Adopt(args) => adopt::run(args).await,
        Command::Purge(args) => adopt::purge(args).await,
        Command::State(args) => state::run(&args),
        Command::Credentials(args) => credentials::run(&args),
        Command::HashPassword(args) => password::run(&args),
        Command::Token(args) => token::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Differs>() => ExitCode::from(DIFFERS),
        Err(error) => {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
