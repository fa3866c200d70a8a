//! Certificates of ACM, proven by records in Route 53: exported for the edge, or left where `CloudFront` finds them.

use std::{collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use aws::SdkConfig;
use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use aws_sdk_acm::{
    Client,
    error::SdkError,
    primitives::Blob,
    types::{CertificateExport, CertificateOptions, CertificateStatus, Tag, ValidationMethod},
};
use model::{Host, InstanceId, instance::Certificate};
use pkcs8::{EncryptedPrivateKeyInfo, LineEnding};
use time::OffsetDateTime;

use runtime::telemetry::chain;

use super::{
    ApiError, Pace, Poll, Route53Api, Zones,
    route53::{Change, Record, in_sync},
    shown,
};
use crate::provider::{Certificates, Owned, Proofs, ProviderError};

/// A request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// For whom: a tag.
    pub id: &'a InstanceId,
    /// At least one.
    pub hosts: &'a [Host],
    /// The same request again gives the same certificate, within an hour.
    pub token: &'a str,
    /// Whether its key can leave ACM.
    pub exportable: bool,
}

/// How far a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// How far.
    pub state: State,
    /// Records that prove that the names are ours: those that are known yet, by the name that each proves.
    pub proofs: Vec<(String, Record)>,
}

/// How far a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The names are not proven yet.
    Pending,
    /// It is good until then.
    Issued(OffsetDateTime),
    /// It will not be issued.
    Failed(String),
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Exported {
    /// PEM, leaf first.
    pub chain: String,
    /// PEM.
    pub key: String,
}

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exported")
    }
}

/// Of ACM, what we need.
#[async_trait]
pub trait AcmApi: fmt::Debug + Send + Sync {
    /// Asks for a certificate; its ARN.
    async fn request(&self, wanted: &Wanted<'_>) -> Result<String, ApiError>;
    /// Looks at one.
    async fn describe(&self, arn: &str) -> Result<Described, ApiError>;
    /// Chain and key of one that is issued.
    async fn export(&self, arn: &str) -> Result<Exported, ApiError>;
    /// Deletes one that nobody uses.
    async fn delete(&self, arn: &str) -> Result<(), ApiError>;
    /// Those that were asked for here, exportable ones or others.
    async fn list(&self, exportable: bool) -> Result<Vec<Owned>, ApiError>;
}

/// Certificates for services.
#[derive(Debug)]
pub struct AcmCertificates {
    /// The service, in one region.
    pub api: Arc<dyn AcmApi>,
    /// Where names are proven.
    pub dns: Arc<dyn Route53Api>,
    /// In these zones.
    pub zones: Zones,
    /// Between two looks.
    pub poll: Poll,
}

/// ACM puts the first name into the certificate's common name, which has no room for more (RFC 5280 appendix A.1).
const MAX_FIRST_NAME: usize = 64;

const ISSUING: &str = "issuing a certificate by ACM";

impl AcmCertificates {
    /// A certificate that is issued, and until when it is good.
    pub(super) async fn issued(
        &self,
        id: &InstanceId,
        revision: u64,
        hosts: &[Host],
        exportable: bool,
    ) -> Result<(String, OffsetDateTime), ProviderError> {
        let issuing = |error: ApiError| error.of(ISSUING);
        let token = token(id, revision, hosts, exportable);
        let wanted = Wanted { id, hosts, token: &token, exportable };
        let arn = self.api.request(&wanted).await.map_err(issuing)?;
        let mut proven = BTreeSet::new();
        loop {
            let described = self.api.describe(&arn).await.map_err(issuing)?;
            // Also of one that is issued already: it is renewed by them.
            self.prove(described.proofs, &mut proven).await?;
            match described.state {
                State::Issued(not_after) => return Ok((arn, not_after)),
                State::Failed(why) => {
                    let why = format!("{arn} for {}: {why}", shown(hosts));
                    return Err(ProviderError::lasting(ISSUING, why));
                }
                State::Pending => {}
            }
            self.poll.rest().await;
        }
    }

    pub(super) async fn listed(&self, exportable: bool) -> Result<Vec<Owned>, ProviderError> {
        self.api.list(exportable).await.map_err(|error| error.of("listing certificates in ACM"))
    }

    /// Publishes the records that are not yet published.
    async fn prove(
        &self,
        proofs: Vec<(String, Record)>,
        proven: &mut BTreeSet<String>,
    ) -> Result<(), ProviderError> {
        let mut pending = Vec::new();
        for (name, record) in proofs {
            if proven.contains(&record.name) {
                continue;
            }
            let zone = self.zones.of(&name).ok_or_else(|| {
                let why = format!("{name} is in none of the zones that are configured");
                ProviderError::lasting("proving a name to ACM", why)
            })?;
            proven.insert(record.name.clone());
            // Two certificates of one name are proven by the same record.
            let change = self.dns.change(zone, &[Change::Upsert(record)]).await;
            pending.push(change.map_err(|error| error.of("proving a name to ACM"))?);
        }
        in_sync(&*self.dns, &pending, self.poll).await
    }
}

impl AcmCertificates {
    /// Deletes the records that are there.
    async fn disprove(&self, proofs: Vec<(String, Record)>) -> Result<(), ProviderError> {
        let failed = |error: ApiError| error.of("deleting what proves a name to ACM");
        for (name, proof) in proofs {
            // A zone that is configured no more is nobody's concern here.
            let Some(zone) = self.zones.of(&name) else { continue };
            let found = self.dns.list(zone, &proof.name).await.map_err(failed)?;
            let found: Vec<_> = found.into_iter().filter(|record| record.value == proof.value).collect();
            if !found.is_empty() {
                let deletes: Vec<_> = found.into_iter().map(Change::Delete).collect();
                self.dns.change(zone, &deletes).await.map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Of the same request the same one. A revision is never used twice, so one for a certificate that was deleted meanwhile
/// does not come back.
fn token(id: &InstanceId, revision: u64, hosts: &[Host], exportable: bool) -> String {
    let text = format!("{id} {revision} {} {exportable}", shown(hosts));
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Certificates for AcmCertificates {
    async fn issue(
        &self,
        id: &InstanceId,
        revision: u64,
        hosts: &[Host],
    ) -> Result<Certificate, ProviderError> {
        let (arn, not_after) = self.issued(id, revision, hosts, true).await?;
        let exported = self.api.export(&arn).await.map_err(|error| error.of("exporting a certificate"))?;
        let Exported { chain, key } = exported;
        Ok(Certificate { hosts: hosts.to_vec(), chain, key, not_after, name: Some(arn) })
    }

    async fn discard(&self, name: &str, proofs: Proofs<'_>) -> Result<(), ProviderError> {
        let deleting = |error: ApiError| error.of("deleting a certificate in ACM");
        if let Proofs::DeleteOf(hosts) = proofs {
            match self.api.describe(name).await {
                // First, while it is known what they are.
                Ok(described) => {
                    let is_ours =
                        |(name, _): &(String, Record)| hosts.iter().any(|host| host.as_str() == name);
                    self.disprove(described.proofs.into_iter().filter(is_ours).collect()).await?;
                }
                Err(ApiError::Missing(_)) => return Ok(()),
                Err(error) => return Err(deleting(error)),
            }
        }
        match self.api.delete(name).await {
            Ok(()) | Err(ApiError::Missing(_)) => Ok(()),
            Err(error) => Err(deleting(error)),
        }
    }

    async fn owned(&self) -> Result<Vec<Owned>, ProviderError> {
        self.listed(true).await
    }
}

/// The service itself.
#[derive(Debug)]
pub struct AcmClient {
    client: Client,
    region: String,
    pace: Arc<dyn Pace>,
}

impl AcmClient {
    /// Calls in turn.
    pub fn new(config: &SdkConfig, pace: Arc<dyn Pace>) -> Self {
        let region = config.region().map(ToString::to_string).unwrap_or_default();
        Self { client: Client::new(config), region, pace }
    }
}

impl AcmClient {
    /// ACM does not say of another region's certificate that it is missing.
    fn is_here(&self, arn: &str) -> Result<(), ApiError> {
        if arn.split(':').nth(3) == Some(self.region.as_str()) {
            return Ok(());
        }
        Err(ApiError::Missing(format!("{arn} is in another region than {}", self.region)))
    }
}

/// Whose a certificate is.
const INSTANCE_TAG: &str = "gatehouse:instance";
/// What it is for: where edge and CDN are in one region, it tells them apart.
const USE_TAG: &str = "gatehouse:use";

fn use_of(exportable: bool) -> &'static str {
    if exportable { "edge" } else { "cdn" }
}

/// What ACM says of a call.
fn told<E>(error: &SdkError<E>) -> ApiError
where
    E: std::error::Error + aws_sdk_acm::error::ProvideErrorMetadata + 'static,
{
    let text = chain(error);
    let code = error.as_service_error().and_then(|service| service.meta().code()).unwrap_or_default();
    match code {
        "ResourceNotFoundException" => ApiError::Missing(text),
        "InvalidDomainValidationOptionsException"
        | "InvalidParameterException"
        | "InvalidArnException"
        | "ValidationException"
        | "TagPolicyException"
        | "TooManyTagsException"
        | "AccessDeniedException" => ApiError::Refused(text),
        _ => ApiError::Passing(text),
    }
}

#[async_trait]
impl AcmApi for AcmClient {
    async fn request(&self, wanted: &Wanted<'_>) -> Result<String, ApiError> {
        let names: Vec<_> = wanted.hosts.iter().map(ToString::to_string).collect();
        let first = names.iter().find(|name| name.len() <= MAX_FIRST_NAME).cloned();
        let first = first.ok_or_else(|| {
            ApiError::Refused(format!("hosts: one of at most {MAX_FIRST_NAME} bytes, which ACM puts first"))
        })?;
        let export = if wanted.exportable { CertificateExport::Enabled } else { CertificateExport::Disabled };
        let tag = |key: &str, value: &str| {
            let tag = Tag::builder().key(key).value(value).build();
            tag.map_err(|error| ApiError::Passing(error.to_string()))
        };
        let request = self
            .client
            .request_certificate()
            .domain_name(first)
            .set_subject_alternative_names(Some(names))
            .validation_method(ValidationMethod::Dns)
            .idempotency_token(wanted.token)
            .options(CertificateOptions::builder().export(export).build())
            .tags(tag(INSTANCE_TAG, wanted.id.as_str())?)
            .tags(tag(USE_TAG, use_of(wanted.exportable))?);
        self.pace.turn().await;
        let answer = request.send().await.map_err(|error| told(&error))?;
        answer.certificate_arn.ok_or_else(|| ApiError::Passing("a certificate without an ARN".into()))
    }

    async fn describe(&self, arn: &str) -> Result<Described, ApiError> {
        self.is_here(arn)?;
        self.pace.turn().await;
        let answer = self.client.describe_certificate().certificate_arn(arn).send().await;
        let found = answer.map_err(|error| told(&error))?.certificate;
        let found = found.ok_or_else(|| ApiError::Passing("a certificate without a description".into()))?;
        let state = match found.status {
            Some(CertificateStatus::Issued) => {
                let until = found.not_after.map(|moment| moment.secs());
                let until = until.and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
                State::Issued(until.ok_or_else(|| ApiError::Passing("a certificate without an end".into()))?)
            }
            Some(CertificateStatus::PendingValidation) | None => State::Pending,
            Some(other) => {
                let why = found.failure_reason.map(|why| format!(" ({})", why.as_str())).unwrap_or_default();
                State::Failed(format!("{}{why}", other.as_str()))
            }
        };
        let mut proofs = Vec::new();
        for option in found.domain_validation_options.unwrap_or_default() {
            let Some(record) = option.resource_record else { continue };
            let name = record.name.trim_end_matches('.').to_owned();
            let proof = Record::plain(name, record.r#type.as_str(), record.value);
            proofs.push((option.domain_name, proof));
        }
        Ok(Described { state, proofs })
    }

    async fn export(&self, arn: &str) -> Result<Exported, ApiError> {
        let mut secret = [0; 24];
        rand::fill(&mut secret).map_err(|_| ApiError::Passing("the system gives no random bytes".into()))?;
        // ACM takes any ASCII but #, $ and %.
        let passphrase: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        self.pace.turn().await;
        let export = self.client.export_certificate().certificate_arn(arn);
        let answer = export.passphrase(Blob::new(passphrase.as_bytes())).send().await;
        let answer = answer.map_err(|error| told(&error))?;
        let part = |part: Option<String>| part.ok_or_else(|| ApiError::Passing("half an export".into()));
        let leaf = part(answer.certificate)?;
        let chain = answer.certificate_chain.unwrap_or_default();
        let key = opened(&part(answer.private_key)?, &passphrase).map_err(ApiError::Passing)?;
        Ok(Exported { chain: format!("{}\n{}", leaf.trim_end(), chain.trim_start()), key })
    }

    async fn list(&self, exportable: bool) -> Result<Vec<Owned>, ApiError> {
        let (mut owned, mut next) = (Vec::new(), None);
        loop {
            self.pace.turn().await;
            let list = self.client.list_certificates().set_next_token(next).send().await;
            let list = list.map_err(|error| told(&error))?;
            for arn in list
                .certificate_summary_list
                .unwrap_or_default()
                .into_iter()
                .filter_map(|one| one.certificate_arn)
            {
                self.pace.turn().await;
                let tags = self.client.list_tags_for_certificate().certificate_arn(&arn).send().await;
                let tags = match tags {
                    Ok(tags) => tags.tags.unwrap_or_default(),
                    Err(error) => match told(&error) {
                        ApiError::Missing(_) => continue,
                        error => return Err(error),
                    },
                };
                let value = |key: &str| {
                    tags.iter()
                        .find(|tag| tag.key == key)
                        .and_then(|tag| tag.value.as_deref())
                        .unwrap_or_default()
                };
                if value(USE_TAG) == use_of(exportable)
                    && let Ok(id) = value(INSTANCE_TAG).parse()
                {
                    owned.push((id, arn));
                }
            }
            next = list.next_token;
            if next.is_none() {
                return Ok(owned);
            }
        }
    }

    async fn delete(&self, arn: &str) -> Result<(), ApiError> {
        self.is_here(arn)?;
        self.pace.turn().await;
        let deleted = self.client.delete_certificate().certificate_arn(arn).send().await;
        deleted.map(drop).map_err(|error| told(&error))
    }
}

/// The key of an export (RFC 5958, encrypted by RFC 8018).
fn opened(pem: &str, passphrase: &str) -> Result<String, String> {
    let wrong = |what: &dyn fmt::Display| format!("an exported key that cannot be opened: {what}");
    let (_, der) = pkcs8::SecretDocument::from_pem(pem).map_err(|error| wrong(&error))?;
    let sealed = EncryptedPrivateKeyInfo::try_from(der.as_bytes()).map_err(|error| wrong(&error))?;
    let open = sealed.decrypt(passphrase).map_err(|error| wrong(&error))?;
    let pem = open.to_pem("PRIVATE KEY", LineEnding::LF).map_err(|error| wrong(&error))?;
    Ok(pem.to_string())
}
