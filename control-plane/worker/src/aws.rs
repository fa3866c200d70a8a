//! Names in Route 53, certificates of ACM, distributions of `CloudFront`.
//!
//! Each service is a narrow trait with two sides: the SDK, and for tests a fake that refuses what AWS refuses. What is
//! decided stands between, and knows neither.

mod acm;
mod cloudfront;
mod limiter;
mod route53;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::time::Duration;

use model::Host;

use crate::provider::ProviderError;

pub use acm::{AcmApi, AcmCertificates, AcmClient};
pub use cloudfront::{CloudFrontApi, CloudFrontCdn, CloudFrontClient, DistributionSettings, Origin};
pub use limiter::{Limiter, Pace};
pub use route53::{Edge, Route53Api, Route53Client, Route53Dns, Zones};

/// Why a call was not answered as it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// What it is about is not there.
    #[error("{0}")]
    Missing(String),
    /// It is there already, or another one is in its place.
    #[error("{0}")]
    Exists(String),
    /// AWS refuses it, and will again.
    #[error("{0}")]
    Refused(String),
    /// Throttled, out of date, not reached, in progress: later.
    #[error("{0}")]
    Passing(String),
}

impl ApiError {
    fn of(self, operation: &'static str) -> ProviderError {
        let is_lasting = matches!(self, Self::Refused(_) | Self::Exists(_));
        ProviderError { operation, source: self.into(), is_lasting }
    }
}

/// Between two looks at what AWS is busy with.
#[derive(Debug, Clone, Copy)]
pub struct Poll(pub Duration);

impl Poll {
    async fn rest(self) {
        tokio::time::sleep(runtime::jitter::jittered(self.0)).await;
    }
}

fn shown(hosts: &[Host]) -> String {
    hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
