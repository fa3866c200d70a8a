//! `cargo xtask bench revoke`: how long a token stays good that was revoked, with thousands of others revoked before:
//! from the operator's call to the first 401 through Envoy, in a running edge.

use std::time::Instant;

use anyhow::Context as _;
use reqwest::Client;
use serde_json::{Value, json};
use tests::{
    Lab,
    figures::{percentile, print, rounded},
    issuer::now,
};

/// Below what a table holds: then nothing is widened.
const BEFORE: usize = 9_500;
const MEASURED: usize = 50;
/// A refusal that takes longer is none.
const LONGEST_SECS: f64 = 30.0;
const ISSUER: &str = "https://id.example.test/";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let lab = Lab::start().await;
    let hello = lab.service("hello");
    lab.live(&hello).await;
    let (client, url) = (Client::new(), format!("{}/api/revocations", lab.stack.control_plane_url()));
    let revoke = async |id: &str| -> anyhow::Result<()> {
        let body = json!({"token": {"issuer": ISSUER, "jti": id}, "expires": now() + 3_600});
        let answer = client.post(&url).bearer_auth("dev").json(&body).send().await?;
        anyhow::ensure!(answer.status().is_success(), "{}", answer.text().await?);
        Ok(())
    };
    for at in 0..BEFORE {
        revoke(&format!("before-{at}")).await?;
    }
    let mut took = Vec::with_capacity(MEASURED);
    for _ in 0..MEASURED {
        let token = lab.good_token(&hello).await;
        let claims = jwt::testing::claims_of(&token);
        let id = claims.get("jti").and_then(Value::as_str).context("the token has an id")?;
        let status = async || lab.get(hello.host(), "/", Some(&token)).await.status;
        anyhow::ensure!(status().await == 200, "the token is good");
        let begun = Instant::now();
        revoke(id).await?;
        while status().await != 401 {
            anyhow::ensure!(begun.elapsed().as_secs_f64() < LONGEST_SECS, "the token stays good");
        }
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    lab.stop().await;
    let millis = |percent| rounded(percentile(percent, took.clone()), 1);
    let figures = json!({
        "revoked_before": BEFORE,
        "revoked": MEASURED,
        "revoke_to_401_p50_ms": millis(50),
        "revoke_to_401_p99_ms": millis(99),
        "revoke_to_401_max_ms": millis(100),
    });
    print("from the operator's call to the first 401 through Envoy", &figures);
    Ok(())
}
