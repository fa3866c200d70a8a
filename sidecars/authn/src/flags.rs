//! What authentication is told by flags, in a process of its own or together with others.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use fetch::{Allowed, Fetcher, Network};
use runtime::SystemClock;

use crate::{AuthnService, Follower, Metrics, STALE_AFTER, State, Tokens};

/// The flags of authentication itself.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// A network (CIDR) inside of which issuers and key servers may be asked; others than public ones are refused
    #[arg(long = "allow-network", env = "GATEHOUSE_ALLOW_NETWORKS", value_delimiter = ',')]
    pub allowed: Vec<Network>,
    /// PEM: CAs that they may have their certificates from, beside the system's
    #[arg(long, env = "GATEHOUSE_FETCH_CA")]
    pub fetch_ca: Option<PathBuf>,
    /// How long keys and revocations are believed when nothing is heard of the control plane; then tokens are answered
    /// with 503
    #[arg(long, env = "GATEHOUSE_STALE_AFTER_SECS", default_value_t = STALE_AFTER.as_secs())]
    pub stale_after_secs: u64,
}

impl Flags {
    /// A service that knows nothing yet, and what it is told by.
    ///
    /// # Errors
    /// The file of CAs cannot be read, or the system gives no random bytes.
    pub fn service(self) -> anyhow::Result<(AuthnService, Follower)> {
        let state = Arc::new(State::new(Duration::from_secs(self.stale_after_secs)));
        let ca = self.fetch_ca;
        let ca =
            ca.map(|path| fs::read(&path).with_context(|| format!("--fetch-ca: reading {}", path.display())));
        let fetcher =
            Fetcher::new(Allowed::new(self.allowed), ca.transpose()?.as_deref()).context("--fetch-ca")?;
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).context("the system gives no random bytes")?;
        let (tokens, clock) = (Tokens::new(secret), Arc::new(SystemClock));
        let service = AuthnService::new(Arc::clone(&state), tokens, fetcher, clock, Metrics::default());
        Ok((service, Follower::new(state)))
    }
}
