//! A GET for health checks.

use std::time::Duration;

/// A health check that takes longer is a failed one.
const TIMEOUT: Duration = Duration::from_secs(2);

/// `Ok` for a 2xx; the error says what came instead.
pub(crate) async fn healthy(client: &reqwest::Client, url: &str) -> Result<(), String> {
    match client.get(url).timeout(TIMEOUT).send().await {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => {
            let status = response.status();
            let body = response.text().await.unwrap_or_default();
            Err(format!("{url}: {status} {}", body.trim()))
        }
        Err(_) => Err(format!("{url}: no answer")),
    }
}
