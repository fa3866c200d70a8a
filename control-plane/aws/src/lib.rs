//! What our engines on AWS share: how they connect, and DynamoDB as they use it.
//!
//! Credentials, region and endpoint come from the environment, the instance's role or the profile, as everywhere in
//! AWS.

mod table;

use std::time::Duration;

use aws_config::{BehaviorVersion, ConfigLoader, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::config::Credentials;

pub use aws_config::SdkConfig;

pub use table::{Action, Item, Key, Order, Page, Refused, Table, text};

/// A call that AWS did not answer as we needed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Of one call over the wire.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Of a call with its retries. Long polls set their own.
const CALL: Duration = Duration::from_secs(20);
/// The SDK's own, for throttling and broken connections; what it gives up is tried again by the step or the caller.
const ATTEMPTS: u32 = 5;

/// How every client connects: in the region of the environment, or in this one.
pub async fn connect(region: Option<&str>) -> SdkConfig {
    let mut settings = settings();
    if let Some(region) = region {
        settings = settings.region(Region::new(region.to_owned()));
    }
    settings.load().await
}

/// For tests: an emulator at this URL, whatever the environment says. It believes everybody.
pub async fn emulator(url: &str) -> SdkConfig {
    let anybody = Credentials::new("test", "test", None, None, "emulator");
    settings().region(Region::new("us-east-1")).endpoint_url(url).credentials_provider(anybody).load().await
}

fn settings() -> ConfigLoader {
    let timeouts =
        TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).operation_timeout(CALL).build();
    let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS);
    aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).retry_config(retries)
}

impl Error {
    /// In the SDK's words.
    pub fn of<E: std::error::Error + 'static>(error: &E) -> Self {
        // The SDK's own way to tell an error shows the whole response.
        Self(runtime::telemetry::chain(error))
    }

    /// In words of ours.
    pub fn told(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
