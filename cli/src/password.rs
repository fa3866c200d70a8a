//! `gatehouse hash-password`: what a service file holds in the place of a password.

use std::io::Read as _;

use anyhow::{Context as _, ensure};
use argon2::{Argon2, PasswordHasher as _};
use uuid::Uuid;

/// Longer ones are files by mistake.
const MAX_PASSWORD_BYTES: u64 = 512;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// The password comes from standard input, so that no list of processes shows it.
#[allow(clippy::print_stdout)]
pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    let mut password = String::new();
    let read = std::io::stdin().take(MAX_PASSWORD_BYTES + 1).read_to_string(&mut password);
    read.context("reading the password from standard input")?;
    let password = password.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "the password on standard input is empty");
    ensure!(
        password.len() as u64 <= MAX_PASSWORD_BYTES && !password.chars().any(char::is_control),
        "the password on standard input: one line of at most {MAX_PASSWORD_BYTES} bytes"
    );
    // 19 MiB and two passes, as OWASP has it.
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), Uuid::new_v4().as_bytes());
    println!("{}", hash.map_err(|error| anyhow::anyhow!("hashing: {error}"))?);
    Ok(())
}
