//! What templates are told about the edge itself: the variable `edge`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ads::{Group, Identity};
use anyhow::{Context as _, ensure};
use model::fleet::EDGE_GROUP;
use resources::{Bootstrap, Guard};
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// The settings of one group of nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Edge {
    /// `node.cluster`; also the name of the route configuration.
    pub(crate) group: String,
    /// The sidecars that its nodes run: the three of the chain, or the guard alone. A service's routes wait for all of
    /// them; without any the default listeners let nothing pass.
    pub(crate) sidecars: Vec<Sidecar>,
    /// Where plain HTTP is served.
    pub(crate) http: Listen,
    /// Where TLS is terminated; without it there is no such listener.
    pub(crate) https: Option<Listen>,
    /// Where the distributions of a CDN come in, over TLS; without it the plan `edge` is not offered.
    pub(crate) cdn: Option<Listen>,
    /// Where the company's networks come in, over TLS; without it the plan `internal` is not offered.
    pub(crate) internal: Option<Listen>,
    /// Where clients come in that show a certificate, over TLS; without it there is no such listener.
    pub(crate) mtls: Option<MutualTls>,
    /// Who is asked about tokens that only they can read.
    pub(crate) introspection: Vec<Provider>,
    /// How upstreams are told by a signed token who sends a request; without it no service can ask for that.
    pub(crate) identity: Option<IdentitySettings>,
    /// Whether a load balancer in front sends the proxy protocol. Then every connection must.
    pub(crate) proxy_protocol: bool,
    /// The folder of the sidecars' sockets on each node.
    pub(crate) run_dir: PathBuf,
    /// The access-log module on each node; without it nothing is logged.
    pub(crate) access_log_module: Option<PathBuf>,
    /// The CAs that upstreams with https are checked against, on each node.
    pub(crate) trusted_ca: PathBuf,
    /// Where a flood is cut off before it costs anything.
    pub(crate) flood: Flood,
    /// What a certificate has to say for its owner to be one of the nodes.
    pub(crate) identities: Vec<Identity>,
    /// How nodes that poll find the control plane.
    pub(crate) rest: Rest,
    /// Clusters that stand in the nodes' own bootstrap, so that templates can name them.
    pub(crate) bootstrap_clusters: BTreeSet<String>,
    /// How much of the edge may leave at once without an operator's word.
    pub(crate) guard: Guard,
    /// What shows that a request came through the CDN, the newest first. From `--origin-secrets`, not from the file.
    #[serde(skip_deserializing)]
    pub(crate) origin_secrets: OriginSecrets,
}

/// What a request must carry to have come through the CDN: two while one is replaced.
#[derive(Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct OriginSecrets(Vec<String>);

impl std::fmt::Debug for OriginSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl OriginSecrets {
    /// Characters of a header's value that nobody guesses (RFC 9110 section 5.5).
    const SHORTEST: usize = 32;

    /// Lines of a file; empty ones and those that begin with # say nothing.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let lines = text.lines().map(str::trim).enumerate();
        let mut secrets = Vec::new();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            // Never the line itself: it is the secret.
            ensure!(
                line.len() >= Self::SHORTEST && line.bytes().all(|byte| byte.is_ascii_graphic()),
                "{}: line {}: at least {} visible ASCII characters",
                path.display(),
                at + 1,
                Self::SHORTEST
            );
            secrets.push(line.to_owned());
        }
        ensure!(!secrets.is_empty(), "{}: there is no secret", path.display());
        Ok(Self(secrets))
    }

    /// The one that distributions are given.
    pub(crate) fn newest(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }
}

/// A sidecar, as the file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sidecar {
    Authn,
    Authz,
    Ratelimit,
    Guard,
}

impl From<Sidecar> for api::Role {
    fn from(sidecar: Sidecar) -> Self {
        match sidecar {
            Sidecar::Authn => Self::Authn,
            Sidecar::Authz => Self::Authz,
            Sidecar::Ratelimit => Self::Ratelimit,
            Sidecar::Guard => Self::Guard,
        }
    }
}

/// An address to listen on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    pub(crate) address: String,
    pub(crate) port: u16,
}

/// A listener that only who has a certificate of these CAs gets through.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MutualTls {
    pub(crate) address: String,
    pub(crate) port: u16,
    /// PEM, on each node.
    pub(crate) client_ca: PathBuf,
}

/// Who signs identity tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentitySettings {
    /// The claim `iss`: the https URL at which upstreams reach `/identity` of the control plane.
    pub(crate) issuer: String,
}

/// Somebody who knows about tokens (RFC 7662).
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    /// What services call it, and who vouches for its subjects: an https URL.
    pub(crate) issuer: String,
    /// An https URL.
    pub(crate) endpoint: String,
    pub(crate) client_id: String,
    /// A file with the secret that this edge proves itself with.
    client_secret_file: PathBuf,
    /// What the file holds.
    #[serde(skip_deserializing)]
    client_secret: String,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { issuer, endpoint, .. } = self;
        f.debug_struct("Provider").field("issuer", issuer).field("endpoint", endpoint).finish_non_exhaustive()
    }
}

impl Provider {
    fn read_secret(&mut self) -> anyhow::Result<()> {
        for (name, url) in [("issuer", &self.issuer), ("endpoint", &self.endpoint)] {
            ensure!(url.starts_with("https://"), "{name}: an https URL, got {url:?}");
        }
        let path = &self.client_secret_file;
        let text = fs::read_to_string(path)
            .with_context(|| format!("client_secret_file: reading {}", path.display()))?;
        text.trim().clone_into(&mut self.client_secret);
        ensure!(!self.client_secret.is_empty(), "client_secret_file: {} is empty", path.display());
        Ok(())
    }
}

/// Requests per node, before any sidecar is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Flood {
    pub(crate) address_per_second: u32,
    pub(crate) address_burst: u32,
    pub(crate) total_per_second: u32,
    pub(crate) total_burst: u32,
}

/// For clients of REST-JSON (`ApiConfigSource`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rest {
    /// The cluster in their bootstrap that leads here.
    pub(crate) cluster: String,
    /// Patterns of `node.cluster`: nodes that poll with such a one are of this group, whatever their ids.
    pub(crate) clusters: Vec<String>,
    /// Between two polls; Envoy waits up to twice as long.
    pub(crate) refresh_delay: String,
    /// Of one poll.
    pub(crate) request_timeout: String,
}

impl Default for Rest {
    fn default() -> Self {
        Self {
            cluster: "xds".into(),
            clusters: Vec::new(),
            refresh_delay: "5s".into(),
            request_timeout: "1s".into(),
        }
    }
}

impl Default for Flood {
    /// A browser needs tens of requests, an office behind one address hundreds; a node answers about 20,000.
    fn default() -> Self {
        Self {
            address_per_second: 2_000,
            address_burst: 4_000,
            total_per_second: 50_000,
            total_burst: 100_000,
        }
    }
}

impl Default for Edge {
    fn default() -> Self {
        let everywhere = || "0.0.0.0".to_owned();
        Self {
            group: EDGE_GROUP.to_owned(),
            sidecars: vec![Sidecar::Authn, Sidecar::Authz, Sidecar::Ratelimit],
            http: Listen { address: everywhere(), port: 10_000 },
            https: Some(Listen { address: everywhere(), port: 10_443 }),
            cdn: None,
            internal: None,
            mtls: None,
            introspection: Vec::new(),
            identity: None,
            proxy_protocol: true,
            run_dir: "/run/gatehouse".into(),
            access_log_module: None,
            trusted_ca: "/etc/ssl/certs/ca-certificates.crt".into(),
            flood: Flood::default(),
            // SPIFFE has a place for what names a workload; the CA that clients must come from is its trust domain.
            identities: Identity::try_from("spiffe://*/gatehouse/{group}/{instance}".to_owned())
                .into_iter()
                .collect(),
            rest: Rest::default(),
            bootstrap_clusters: BTreeSet::new(),
            guard: Guard::default(),
            origin_secrets: OriginSecrets::default(),
        }
    }
}

impl Edge {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("--edge: reading {}", path.display()))?;
        let mut edge: Self =
            serde_norway::from_str(&text).with_context(|| format!("--edge: {}", path.display()))?;
        for (at, provider) in edge.introspection.iter_mut().enumerate() {
            provider.read_secret().with_context(|| format!("--edge: introspection[{at}]"))?;
        }
        if let Some(identity) = &edge.identity {
            let (issuer, is_url) = (&identity.issuer, identity.issuer.starts_with("https://"));
            ensure!(is_url, "--edge: identity.issuer: an https URL, got {issuer:?}");
        }
        let (sidecars, is_alone) = (&edge.sidecars, edge.sidecars.len() == 1);
        ensure!(
            is_alone || !sidecars.contains(&Sidecar::Guard),
            "--edge: sidecars: the guard does what the others do, so it stands alone, got {sidecars:?}"
        );
        edge.guard.check().map_err(anyhow::Error::msg).context("--edge")?;
        Ok(edge)
    }

    /// Who is served.
    pub(crate) fn group(&self) -> Group {
        Group {
            name: self.group.clone(),
            sidecars: self.sidecars.iter().copied().map(api::Role::from).collect(),
            identities: self.identities.clone(),
            pollers: self.rest.clusters.iter().map(|pattern| WildMatch::new(pattern)).collect(),
        }
    }

    /// What services may ask for.
    pub(crate) fn facts(&self) -> broker::EdgeFacts {
        broker::EdgeFacts {
            introspection: self.introspection.iter().map(|provider| provider.issuer.clone()).collect(),
            asks_for_certificates: self.mtls.is_some(),
            signs_identities: self.identity.is_some(),
        }
    }

    /// What resources may name that is not served.
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        let mut clusters = self.bootstrap_clusters.clone();
        clusters.insert(self.rest.cluster.clone());
        Bootstrap { clusters, control_plane: self.rest.cluster.clone() }
    }
}
