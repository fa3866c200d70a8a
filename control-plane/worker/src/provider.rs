//! What publishes a service outside of the fleet: names, certificates, a CDN. Each is asked again after any failure, and
//! finds its own earlier work.

use std::fmt;

use async_trait::async_trait;
use model::{
    Host, InstanceId,
    instance::{Certificate, Distribution},
};

/// What a provider could not do.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct ProviderError {
    /// What was tried.
    pub operation: &'static str,
    /// Why not.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// Whether it would fail however often it is tried.
    pub is_lasting: bool,
}

/// Where names lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To the nearest edge that is well.
    Edge,
    /// To the same, from within the company's networks only.
    Internal,
    /// To a distribution of the CDN, by its own name.
    Cdn(String),
}

/// Where names resolve to.
#[async_trait]
pub trait Dns: fmt::Debug + Send + Sync {
    /// Makes these hosts of an instance lead there, and those not resolve any more. It ends when all name servers say
    /// so.
    async fn set(
        &self,
        id: &InstanceId,
        hosts: &[Host],
        to: &Target,
        no_more: &[Host],
    ) -> Result<(), ProviderError>;

    /// How these hosts differ from that, for people.
    async fn look(&self, id: &InstanceId, hosts: &[Host], to: &Target) -> Result<Vec<String>, ProviderError>;

    /// All hosts that were ever published and not taken back.
    async fn owned(&self) -> Result<Vec<Owned>, ProviderError>;

    /// From now on a name that somebody else has made is an instance's to change.
    async fn adopt(&self, id: &InstanceId, host: &Host) -> Result<(), ProviderError>;
}

/// Something of an instance that a provider has, by the provider's name for it.
pub type Owned = (InstanceId, String);

/// What becomes of the records that prove a certificate's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proofs<'a> {
    /// Another certificate of the same names may live by them.
    Keep,
    /// Those of these names are needed by nobody any more; others may be another instance's by now.
    DeleteOf(&'a [Host]),
}

/// Who issues certificates.
#[async_trait]
pub trait Certificates: fmt::Debug + Send + Sync {
    /// A new certificate for exactly these hosts. Asked again soon for the same revision, it is the same one.
    async fn issue(
        &self,
        id: &InstanceId,
        revision: u64,
        hosts: &[Host],
    ) -> Result<Certificate, ProviderError>;

    /// A certificate that is not served any more, by the name that its issuer knows it by. One that is not there is as
    /// good.
    async fn discard(&self, name: &str, proofs: Proofs<'_>) -> Result<(), ProviderError>;

    /// All certificates that were ever issued and not discarded.
    async fn owned(&self) -> Result<Vec<Owned>, ProviderError>;
}

/// What stands in front of the edge.
#[async_trait]
pub trait Cdn: fmt::Debug + Send + Sync {
    /// A distribution for exactly these hosts. It ends when the whole CDN has it.
    async fn set(
        &self,
        id: &InstanceId,
        revision: u64,
        hosts: &[Host],
        known: Option<&Distribution>,
    ) -> Result<Distribution, ProviderError>;

    /// Takes it away. One that is not there is as good.
    async fn remove(&self, known: &Distribution) -> Result<(), ProviderError>;

    /// How a distribution differs from what it was made, for people.
    async fn look(&self, id: &InstanceId, known: &Distribution) -> Result<Vec<String>, ProviderError>;

    /// All distributions that were ever made and not taken away.
    async fn owned(&self) -> Result<Vec<Owned>, ProviderError>;

    /// All certificates of distributions that were ever issued and not discarded.
    async fn owned_certificates(&self) -> Result<Vec<Owned>, ProviderError>;

    /// One of them, as it is: one of nobody's becomes an instance's.
    async fn adopt(&self, id: &InstanceId, name: &str) -> Result<Distribution, ProviderError>;

    /// A certificate that no distribution shows any more.
    async fn discard(&self, certificate: &str) -> Result<(), ProviderError>;
}

/// Where there is no CDN. No plan that needs one is offered.
#[derive(Debug)]
pub struct NoCdn;

fn no_cdn(distribution: &str) -> ProviderError {
    let why = format!("none is configured, and there is the distribution {distribution}");
    ProviderError::lasting("asking for a CDN", why)
}

#[async_trait]
impl Cdn for NoCdn {
    async fn set(
        &self,
        _: &InstanceId,
        _: u64,
        _: &[Host],
        _: Option<&Distribution>,
    ) -> Result<Distribution, ProviderError> {
        let source = "none is configured".into();
        Err(ProviderError { operation: "asking for a CDN", source, is_lasting: true })
    }

    async fn remove(&self, known: &Distribution) -> Result<(), ProviderError> {
        Err(no_cdn(&known.id))
    }

    async fn look(&self, _: &InstanceId, known: &Distribution) -> Result<Vec<String>, ProviderError> {
        Err(no_cdn(&known.id))
    }

    async fn owned(&self) -> Result<Vec<Owned>, ProviderError> {
        Ok(Vec::new())
    }

    async fn owned_certificates(&self) -> Result<Vec<Owned>, ProviderError> {
        Ok(Vec::new())
    }

    async fn adopt(&self, _: &InstanceId, name: &str) -> Result<Distribution, ProviderError> {
        Err(no_cdn(name))
    }

    async fn discard(&self, _: &str) -> Result<(), ProviderError> {
        Ok(())
    }
}

impl ProviderError {
    /// It may pass by.
    pub fn passing(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { operation, source: source.into(), is_lasting: false }
    }

    /// It will not.
    pub fn lasting(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { operation, source: source.into(), is_lasting: true }
    }
}
