//! `gatehouse credentials`: a secret for a platform, and the hash of it for the platforms file.

use model::SecretHash;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The platform that is to have it
    platform: String,
    /// For machines
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // Two random UUIDs of 122 bits each.
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let mut salt = [0; 32];
    salt[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    salt[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    let hash = SecretHash::of(&secret, salt).to_string();
    if args.json {
        let answer = serde_json::json!({"user": args.platform, "secret": secret, "hash": hash});
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    println!("{}:{secret}", args.platform);
    eprintln!("That is for the platform, and is kept nowhere. The platforms file holds its hash:");
    eprintln!("\nplatforms:\n  {}:\n    secrets: [\"{hash}\"]", args.platform);
    Ok(())
}
