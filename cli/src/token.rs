//! `gatehouse token`: a token from the local development issuer, whose keys lie in the data folder.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::ValueEnum;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use uuid::Uuid;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The claim `aud`; repeat it for several
    #[arg(long, default_values_t = ["hello".to_owned()])]
    audience: Vec<String>,
    /// The claim `scope`, separated by spaces
    #[arg(long, default_value = "read:hello")]
    scope: String,
    /// The claim `sub`
    #[arg(long, default_value = "alice")]
    subject: String,
    /// How it is signed
    #[arg(long, value_enum, default_value_t = Algorithm::ES256)]
    algorithm: Algorithm,
    /// Seconds from now; may be negative, to see how an expired token fares
    #[arg(long, default_value_t = 3600, allow_hyphen_values = true)]
    expires_in: i64,
    /// Another claim, as `name=JSON`; repeat it for several
    #[arg(long = "claim", value_name = "NAME=JSON")]
    claims: Vec<String>,
    /// The data folder of `gatehouse up`
    #[arg(long, env = "GATEHOUSE_DATA_DIR", default_value = ".gatehouse")]
    data_dir: PathBuf,
}

/// What the local issuer has keys for.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "verbatim")]
enum Algorithm {
    ES256,
    RS256,
}

/// The claim `iss` of the local issuer.
const ISSUER: &str = "https://id.example.test/";

#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (file, kid, algorithm) = match args.algorithm {
        Algorithm::ES256 => ("es256.pem", "dev-es256", jsonwebtoken::Algorithm::ES256),
        Algorithm::RS256 => ("rs256.pem", "dev-rs256", jsonwebtoken::Algorithm::RS256),
    };
    let path = args.data_dir.join("dev-issuer").join(file);
    let pem = fs::read(&path).with_context(|| {
        format!("no local issuer in {}; `cargo xtask up` makes one", args.data_dir.display())
    })?;
    let key = match args.algorithm {
        Algorithm::ES256 => EncodingKey::from_ec_pem(&pem)?,
        Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem)?,
    };
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let mut claims = json!({
        "iss": ISSUER,
        "sub": args.subject,
        "aud": args.audience,
        "scope": args.scope,
        "iat": now.min(now + args.expires_in),
        "exp": now + args.expires_in,
        "jti": Uuid::new_v4(),
    });
    for pair in &args.claims {
        let read =
            pair.split_once('=').and_then(|(name, value)| Some((name, serde_json::from_str(value).ok()?)));
        let (name, value): (_, serde_json::Value) =
            read.with_context(|| format!("--claim: name=JSON, got {pair:?}"))?;
        claims[name] = value;
    }
    let header = Header { kid: Some(kid.into()), ..Header::new(algorithm) };
    println!("{}", jsonwebtoken::encode(&header, &claims, &key)?);
    Ok(())
}
