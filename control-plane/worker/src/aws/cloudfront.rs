//! Distributions of `CloudFront`: one a service, before the edge, with a firewall and a secret that only it knows.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws::SdkConfig;
use aws_sdk_cloudfront::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::{
        Aliases, AllowedMethods, CachedMethods, CustomHeaders, CustomOriginConfig, DefaultCacheBehavior,
        DistributionConfig, HttpVersion, Method, MinimumProtocolVersion, Origin as SdkOrigin,
        OriginCustomHeader, OriginProtocolPolicy, OriginSslProtocols, Origins, SslProtocol, SslSupportMethod,
        Tag, Tags, ViewerCertificate, ViewerProtocolPolicy,
    },
};
use model::{Host, InstanceId, instance::Distribution};

use runtime::telemetry::chain;

use super::{AcmCertificates, ApiError, Pace, Poll};
use crate::provider::{Cdn, Certificates as _, Owned, Proofs, ProviderError};

/// AWS's managed policy `CachingDisabled`: what may be cached is the services' word, and none has it yet.
const NO_CACHE: &str = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad";
/// AWS's managed policy `AllViewer`: the edge routes by the host that the client asked for.
const ALL_VIEWER: &str = "216adef6-5c7f-47e4-b989-5492eafa07d3";
/// Of the connection to the edge.
const ORIGIN_READ_SECS: i32 = 60;
const ORIGIN_KEEPALIVE_SECS: i32 = 60;

/// What a distribution is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributionSettings {
    /// The same for every try to make it, and no other.
    pub reference: String,
    /// Whose it is, to find it again.
    pub comment: String,
    /// The names that it answers to.
    pub hosts: Vec<String>,
    /// ARN of a certificate for them, in us-east-1.
    pub certificate: String,
    /// What is behind it.
    pub origin: Origin,
    /// Whether it answers. Only one that does not can be deleted.
    pub enabled: bool,
}

/// The edge, as distributions see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Origin {
    /// A name of the load balancers.
    pub domain: String,
    /// Of the listener for distributions.
    pub port: u16,
    /// The header that proves that a request came through a distribution, and its value.
    pub secret: (String, String),
    /// ARN of a web ACL of scope CLOUDFRONT.
    pub web_acl: Option<String>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("domain", &self.domain)
            .field("port", &self.port)
            .field("web_acl", &self.web_acl)
            .finish_non_exhaustive()
    }
}

/// A distribution, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Its own name.
    pub domain: String,
    /// Of this state of it; a change names it.
    pub etag: String,
    /// Whether the whole CDN has this state.
    pub deployed: bool,
    /// What it is.
    pub settings: DistributionSettings,
}

/// Of `CloudFront`, what we need.
#[async_trait]
pub trait CloudFrontApi: fmt::Debug + Send + Sync {
    /// Makes one. Refused, if there is one with this reference.
    async fn create(&self, settings: &DistributionSettings) -> Result<Found, ApiError>;
    /// One of them.
    async fn get(&self, id: &str) -> Result<Found, ApiError>;
    /// The ids of all, and their comments.
    async fn list(&self) -> Result<Vec<(String, String)>, ApiError>;
    /// Changes one. Refused, if it was changed since.
    async fn update(&self, id: &str, etag: &str, settings: &DistributionSettings) -> Result<(), ApiError>;
    /// Deletes one that is disabled, everywhere.
    async fn delete(&self, id: &str, etag: &str) -> Result<(), ApiError>;
}

/// Distributions of services.
#[derive(Debug)]
pub struct CloudFrontCdn {
    /// The service.
    pub api: Arc<dyn CloudFrontApi>,
    /// Certificates in us-east-1, where distributions find them.
    pub certificates: AcmCertificates,
    /// What is behind them.
    pub origin: Origin,
    /// Between two looks.
    pub poll: Poll,
}

/// What the comment of a distribution of an instance begins with.
const OWNER: &str = "gatehouse/";
const SETTING: &str = "publishing a distribution in CloudFront";
const REMOVING: &str = "deleting a distribution in CloudFront";

impl CloudFrontCdn {
    /// The distribution, whatever it is; made, where there is none.
    async fn there(
        &self,
        known: Option<&Distribution>,
        settings: &DistributionSettings,
    ) -> Result<Found, ApiError> {
        if let Some(known) = known {
            match self.api.get(&known.id).await {
                // Somebody has deleted it.
                Err(ApiError::Missing(_)) => {}
                other => return other,
            }
        }
        match self.api.create(settings).await {
            // By us, before we could write that down.
            Err(ApiError::Exists(why)) => {
                let all = self.api.list().await?;
                match all.into_iter().find(|(_, comment)| *comment == settings.comment) {
                    Some((id, _)) => self.api.get(&id).await,
                    None => Err(ApiError::Exists(why)),
                }
            }
            other => other,
        }
    }

    /// What a distribution of an instance is to be.
    fn settings(
        &self,
        id: &InstanceId,
        reference: &str,
        hosts: &[Host],
        certificate: &str,
    ) -> DistributionSettings {
        let mut hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        hosts.sort();
        DistributionSettings {
            reference: reference.to_owned(),
            comment: format!("{OWNER}{id}"),
            hosts,
            certificate: certificate.to_owned(),
            origin: self.origin.clone(),
            enabled: true,
        }
    }

    async fn deployed(&self, id: &str) -> Result<Found, ApiError> {
        loop {
            let found = self.api.get(id).await?;
            if found.deployed {
                return Ok(found);
            }
            self.poll.rest().await;
        }
    }
}

#[async_trait]
impl Cdn for CloudFrontCdn {
    async fn set(
        &self,
        id: &InstanceId,
        revision: u64,
        hosts: &[Host],
        known: Option<&Distribution>,
    ) -> Result<Distribution, ProviderError> {
        let setting = |error: ApiError| error.of(SETTING);
        let certificate = match known {
            // ACM renews it while it is used.
            Some(known) if known.hosts == hosts => known.certificate.clone(),
            _ => self.certificates.issued(id, revision, hosts, false).await?.0,
        };
        // A revision is never used twice, not even after the instance was deleted and made again.
        let settings = self.settings(id, &format!("{id}/{revision}"), hosts, &certificate);
        let found = self.there(known, &settings).await.map_err(setting)?;
        let wanted = DistributionSettings { reference: found.settings.reference.clone(), ..settings };
        if found.settings != wanted {
            self.api.update(&found.id, &found.etag, &wanted).await.map_err(setting)?;
        }
        let Found { id, domain, .. } = self.deployed(&found.id).await.map_err(setting)?;
        Ok(Distribution { id, domain, hosts: hosts.to_vec(), certificate })
    }

    async fn remove(&self, known: &Distribution) -> Result<(), ProviderError> {
        let removing = |error: ApiError| error.of(REMOVING);
        loop {
            let found = match self.api.get(&known.id).await {
                Err(ApiError::Missing(_)) => break,
                found => found.map_err(removing)?,
            };
            if found.settings.enabled {
                let disabled = DistributionSettings { enabled: false, ..found.settings };
                self.api.update(&found.id, &found.etag, &disabled).await.map_err(removing)?;
                self.deployed(&found.id).await.map_err(removing)?;
            } else if found.deployed {
                self.api.delete(&found.id, &found.etag).await.map_err(removing)?;
                break;
            } else {
                self.poll.rest().await;
            }
        }
        self.certificates.discard(&known.certificate, Proofs::Keep).await
    }

    async fn look(&self, id: &InstanceId, known: &Distribution) -> Result<Vec<String>, ProviderError> {
        let found = match self.api.get(&known.id).await {
            Err(ApiError::Missing(_)) => {
                return Ok(vec![format!("the distribution {} is missing", known.id)]);
            }
            found => found.map_err(|error| error.of("looking at a distribution"))?,
        };
        let wanted = self.settings(id, &found.settings.reference, &known.hosts, &known.certificate);
        let differs = [
            ("other names", found.settings.hosts != wanted.hosts),
            ("another certificate", found.settings.certificate != wanted.certificate),
            ("another origin, secret or firewall", found.settings.origin != wanted.origin),
            ("it does not answer", found.settings.enabled != wanted.enabled),
        ];
        let told = differs.into_iter().filter(|(_, differs)| *differs);
        Ok(told.map(|(what, _)| format!("the distribution {}: {what}", known.id)).collect())
    }

    async fn owned(&self) -> Result<Vec<Owned>, ProviderError> {
        let all = self.api.list().await.map_err(|error| error.of("listing distributions"))?;
        let owner = |comment: &str| comment.strip_prefix(OWNER)?.parse().ok();
        Ok(all.into_iter().filter_map(|(id, comment)| Some((owner(&comment)?, id))).collect())
    }

    async fn owned_certificates(&self) -> Result<Vec<Owned>, ProviderError> {
        self.certificates.listed(false).await
    }

    async fn adopt(&self, id: &InstanceId, name: &str) -> Result<Distribution, ProviderError> {
        let adopting = |error: ApiError| error.of("adopting a distribution");
        let found = self.api.get(name).await.map_err(adopting)?;
        let comment = format!("{OWNER}{id}");
        let lasting = |why: String| ProviderError::lasting("adopting a distribution", why);
        if found.settings.comment.starts_with(OWNER) && found.settings.comment != comment {
            return Err(lasting(format!("{name} is an instance's already ({})", found.settings.comment)));
        }
        let hosts = found.settings.hosts.iter().map(|host| Host::try_from(host.clone()));
        let hosts = hosts.collect::<Result<_, _>>().map_err(|error| lasting(error.to_string()))?;
        if found.settings.comment != comment {
            let ours = DistributionSettings { comment, ..found.settings.clone() };
            self.api.update(name, &found.etag, &ours).await.map_err(adopting)?;
        }
        let certificate = found.settings.certificate;
        Ok(Distribution { id: found.id, domain: found.domain, hosts, certificate })
    }

    async fn discard(&self, certificate: &str) -> Result<(), ProviderError> {
        self.certificates.discard(certificate, Proofs::Keep).await
    }
}

/// The service itself.
#[derive(Debug)]
pub struct CloudFrontClient {
    client: Client,
    pace: Arc<dyn Pace>,
}

impl CloudFrontClient {
    /// Calls in turn.
    pub fn new(config: &SdkConfig, pace: Arc<dyn Pace>) -> Self {
        Self { client: Client::new(config), pace }
    }
}

fn told<E>(error: &SdkError<E>) -> ApiError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let text = chain(error);
    let code = error.as_service_error().and_then(|service| service.meta().code()).unwrap_or_default();
    match code {
        "NoSuchDistribution" => ApiError::Missing(text),
        // The other may be our own, made by a worker that could not write that down.
        "DistributionAlreadyExists" | "CNAMEAlreadyExists" => ApiError::Exists(text),
        "IllegalUpdate"
        | "InvalidViewerCertificate"
        | "InvalidOrigin"
        | "InvalidWebACLId"
        | "AccessDenied"
        | "TooManyDistributions"
        | "TooManyDistributionCNAMEs"
        | "InvalidArgument" => ApiError::Refused(text),
        _ => ApiError::Passing(text),
    }
}

fn incomplete(error: &aws_sdk_cloudfront::error::BuildError) -> ApiError {
    ApiError::Passing(format!("a distribution that cannot be described: {error}"))
}

fn half() -> ApiError {
    ApiError::Passing("CloudFront tells half a distribution".into())
}

/// A list, as the API wants it: with its length.
fn length<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}

impl Origin {
    fn written(&self) -> Result<SdkOrigin, ApiError> {
        let wrong = |error| incomplete(&error);
        let header = OriginCustomHeader::builder().header_name(&self.secret.0).header_value(&self.secret.1);
        let headers = CustomHeaders::builder().quantity(1).items(header.build().map_err(wrong)?);
        let protocols = OriginSslProtocols::builder().quantity(1).items(SslProtocol::TlSv12);
        let connection = CustomOriginConfig::builder()
            .http_port(80)
            .https_port(i32::from(self.port))
            .origin_protocol_policy(OriginProtocolPolicy::HttpsOnly)
            .origin_ssl_protocols(protocols.build().map_err(wrong)?)
            .origin_read_timeout(ORIGIN_READ_SECS)
            .origin_keepalive_timeout(ORIGIN_KEEPALIVE_SECS)
            .build()
            .map_err(wrong)?;
        SdkOrigin::builder()
            .id("edge")
            .domain_name(&self.domain)
            .custom_headers(headers.build().map_err(wrong)?)
            .custom_origin_config(connection)
            .build()
            .map_err(wrong)
    }
}

impl DistributionSettings {
    fn written(&self) -> Result<DistributionConfig, ApiError> {
        let wrong = |error| incomplete(&error);
        let methods = [
            Method::Get,
            Method::Head,
            Method::Options,
            Method::Put,
            Method::Patch,
            Method::Post,
            Method::Delete,
        ];
        let cached = [Method::Get, Method::Head];
        let cached = CachedMethods::builder().quantity(length(&cached)).set_items(Some(cached.to_vec()));
        let allowed = AllowedMethods::builder()
            .quantity(length(&methods))
            .set_items(Some(methods.to_vec()))
            .cached_methods(cached.build().map_err(wrong)?);
        let behavior = DefaultCacheBehavior::builder()
            .target_origin_id("edge")
            .viewer_protocol_policy(ViewerProtocolPolicy::RedirectToHttps)
            .allowed_methods(allowed.build().map_err(wrong)?)
            .cache_policy_id(NO_CACHE)
            .origin_request_policy_id(ALL_VIEWER)
            .compress(false)
            .build()
            .map_err(wrong)?;
        let certificate = ViewerCertificate::builder()
            .acm_certificate_arn(&self.certificate)
            .ssl_support_method(SslSupportMethod::SniOnly)
            .minimum_protocol_version(MinimumProtocolVersion::TlSv122021)
            .build();
        let aliases = Aliases::builder().quantity(length(&self.hosts)).set_items(Some(self.hosts.clone()));
        DistributionConfig::builder()
            .caller_reference(&self.reference)
            .comment(&self.comment)
            .enabled(self.enabled)
            .aliases(aliases.build().map_err(wrong)?)
            .origins(Origins::builder().quantity(1).items(self.origin.written()?).build().map_err(wrong)?)
            .default_cache_behavior(behavior)
            .viewer_certificate(certificate)
            .http_version(HttpVersion::Http2and3)
            .is_ipv6_enabled(true)
            .set_web_acl_id(self.origin.web_acl.clone())
            .build()
            .map_err(wrong)
    }

    /// The configuration with what differs from this; the rest, which somebody else may have set, stays.
    fn written_over(&self, mut config: DistributionConfig) -> Result<DistributionConfig, ApiError> {
        let before = Self::read(config.clone())?;
        let wanted = self.written()?;
        config.comment.clone_from(&self.comment);
        config.enabled = self.enabled;
        if before.hosts != self.hosts {
            config.aliases = wanted.aliases;
        }
        if before.certificate != self.certificate {
            config.viewer_certificate = wanted.viewer_certificate;
        }
        if before.origin != self.origin {
            config.origins = wanted.origins;
            config.default_cache_behavior = wanted.default_cache_behavior;
            config.web_acl_id = wanted.web_acl_id;
        }
        Ok(config)
    }

    /// What of it is ours to decide. What others made may have none of it.
    fn read(config: DistributionConfig) -> Result<Self, ApiError> {
        let origin = config.origins.and_then(|origins| origins.items.into_iter().next()).ok_or_else(half)?;
        let mut hosts = config.aliases.and_then(|aliases| aliases.items).unwrap_or_default();
        hosts.sort();
        let header = origin.custom_headers.and_then(|headers| headers.items?.into_iter().next());
        let port = origin.custom_origin_config.map_or(0, |connection| connection.https_port);
        Ok(Self {
            reference: config.caller_reference,
            comment: config.comment,
            hosts,
            certificate: config
                .viewer_certificate
                .and_then(|own| own.acm_certificate_arn)
                .unwrap_or_default(),
            origin: Origin {
                domain: origin.domain_name,
                port: u16::try_from(port).unwrap_or_default(),
                secret: header.map(|one| (one.header_name, one.header_value)).unwrap_or_default(),
                web_acl: config.web_acl_id.filter(|arn| !arn.is_empty()),
            },
            enabled: config.enabled,
        })
    }
}

fn found(
    distribution: Option<aws_sdk_cloudfront::types::Distribution>,
    etag: Option<String>,
) -> Result<Found, ApiError> {
    let distribution = distribution.ok_or_else(half)?;
    Ok(Found {
        id: distribution.id,
        domain: distribution.domain_name,
        etag: etag.ok_or_else(half)?,
        deployed: distribution.status == "Deployed",
        settings: DistributionSettings::read(distribution.distribution_config.ok_or_else(half)?)?,
    })
}

#[async_trait]
impl CloudFrontApi for CloudFrontClient {
    async fn create(&self, settings: &DistributionSettings) -> Result<Found, ApiError> {
        let instance = Tag::builder().key("gatehouse:instance").value(&settings.comment).build();
        let tags = Tags::builder().items(instance.map_err(|error| incomplete(&error))?).build();
        let config = aws_sdk_cloudfront::types::DistributionConfigWithTags::builder()
            .distribution_config(settings.written()?)
            .tags(tags)
            .build();
        self.pace.turn().await;
        let made = self.client.create_distribution_with_tags().distribution_config_with_tags(config);
        let made = made.send().await.map_err(|error| told(&error))?;
        found(made.distribution, made.e_tag)
    }

    async fn get(&self, id: &str) -> Result<Found, ApiError> {
        self.pace.turn().await;
        let answer = self.client.get_distribution().id(id).send().await.map_err(|error| told(&error))?;
        found(answer.distribution, answer.e_tag)
    }

    async fn list(&self) -> Result<Vec<(String, String)>, ApiError> {
        let (mut all, mut marker) = (Vec::new(), None);
        loop {
            self.pace.turn().await;
            let list = self.client.list_distributions().set_marker(marker).send().await;
            let list = list.map_err(|error| told(&error))?.distribution_list.ok_or_else(half)?;
            all.extend(list.items.unwrap_or_default().into_iter().map(|one| (one.id, one.comment)));
            if !list.is_truncated {
                return Ok(all);
            }
            marker = list.next_marker;
        }
    }

    async fn update(&self, id: &str, etag: &str, settings: &DistributionSettings) -> Result<(), ApiError> {
        // CloudFront wants all of it back, also what we have no opinion of.
        self.pace.turn().await;
        let known =
            self.client.get_distribution_config().id(id).send().await.map_err(|error| told(&error))?;
        if known.e_tag.as_deref() != Some(etag) {
            return Err(ApiError::Passing(format!("the distribution {id} was changed meanwhile")));
        }
        let config = settings.written_over(known.distribution_config.ok_or_else(half)?)?;
        self.pace.turn().await;
        let update = self.client.update_distribution().id(id).if_match(etag);
        let updated = update.distribution_config(config).send().await;
        updated.map(drop).map_err(|error| told(&error))
    }

    async fn delete(&self, id: &str, etag: &str) -> Result<(), ApiError> {
        self.pace.turn().await;
        let deleted = self.client.delete_distribution().id(id).if_match(etag).send().await;
        deleted.map(drop).map_err(|error| told(&error))
    }
}
