//! Flags and files into a checked configuration.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use broker::Credentials;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use context::Source;
use model::{UpstreamRule, fleet::EDGE_GROUP, platforms::Platforms};
use prometheus_client::registry::Registry;
use runtime::{files, tls::TlsFiles};
use store::Keys;
use validator::Validator;
use worker::{FleetRule, Mending};

use crate::{
    dev,
    edge::{Edge, OriginSecrets},
    engines::AwsSettings,
    folder::Folder,
    followed,
    identity::Identity,
    keys,
    state::StateCommand,
};

/// The control plane of Gatehouse.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-control-plane", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// State: the database, and in development the issuer's keys and the CA
    #[arg(long, global = true, env = "GATEHOUSE_DATA_DIR", default_value = "/var/lib/gatehouse")]
    pub(crate) data_dir: PathBuf,
    /// Broker, operators' API, health and metrics
    #[arg(long, global = true, env = "GATEHOUSE_HTTP", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// xDS for the nodes
    #[arg(long, global = true, env = "GATEHOUSE_XDS", default_value = "127.0.0.1:18000")]
    pub(crate) xds: SocketAddr,
    /// PEM: the certificate that nodes see. With it every node shows one too, and --xds may be any address
    #[arg(long, global = true, env = "GATEHOUSE_XDS_CERT", requires_all = ["xds_key", "xds_client_ca"])]
    pub(crate) xds_cert: Option<PathBuf>,
    /// PEM: its key
    #[arg(long, global = true, env = "GATEHOUSE_XDS_KEY", requires = "xds_cert")]
    pub(crate) xds_key: Option<PathBuf>,
    /// PEM: the CAs that the nodes' certificates come from
    #[arg(long, global = true, env = "GATEHOUSE_XDS_CLIENT_CA", requires = "xds_cert")]
    pub(crate) xds_client_ca: Option<PathBuf>,
    /// YAML: what the edge's templates are told about listeners and sockets
    #[arg(long, global = true, env = "GATEHOUSE_EDGE")]
    pub(crate) edge: Option<PathBuf>,
    /// A folder of templates beside or in the place of the default ones; watched
    #[arg(long, global = true, env = "GATEHOUSE_TEMPLATES")]
    pub(crate) templates: Option<PathBuf>,
    /// Render only the templates of --templates, none of the default ones
    #[arg(long, global = true, env = "GATEHOUSE_NO_DEFAULT_TEMPLATES", requires = "templates")]
    pub(crate) no_default_templates: bool,
    /// YAML: files, URLs, S3 objects and values that templates see as `context.<name>`
    #[arg(long, global = true, env = "GATEHOUSE_SOURCES")]
    pub(crate) sources: Option<PathBuf>,
    /// An Envoy that has to take what is rendered before it is pushed (`--mode validate`): one program for each version
    /// of the fleet
    #[arg(long, global = true, env = "GATEHOUSE_VALIDATE_WITH", value_delimiter = ',')]
    pub(crate) validate_with: Vec<PathBuf>,
    /// An issuer, and where its JWK Set is: https://id.example.test/=/path/jwks.json, or =https://…, or the issuer alone
    /// where OpenID Connect discovery says it
    #[arg(long = "issuer", global = true)]
    pub(crate) issuers: Vec<String>,
    /// YAML: more of issuers, key servers, and the networks that may be asked for keys
    #[arg(long = "issuers", global = true, env = "GATEHOUSE_ISSUERS")]
    pub(crate) issuers_file: Option<PathBuf>,
    /// YAML: the platforms that may order, their secrets' hashes, hosts and quotas; watched
    #[arg(long, global = true, env = "GATEHOUSE_PLATFORMS")]
    pub(crate) platforms: Option<PathBuf>,
    /// A file with a line `id key` for each key that seals what the store keeps secret, the newest first; made, where it
    /// is not there [default: store.keys in the data folder]
    #[arg(long, global = true, env = "GATEHOUSE_STORE_KEYS")]
    pub(crate) store_keys: Option<PathBuf>,
    /// YAML: the table, the queue, names, certificates and CDN in AWS, in the place of what is on this machine
    #[arg(long, global = true, env = "GATEHOUSE_AWS")]
    pub(crate) aws: Option<PathBuf>,
    /// A file with base64 of 32 bytes, the same for all control planes: what the keys of identity tokens are drawn from;
    /// made, where it is not there [default: identity.secret in the data folder]
    #[arg(long, global = true, env = "GATEHOUSE_IDENTITY_SECRET")]
    pub(crate) identity_secret: Option<PathBuf>,
    /// A file with a line for each secret that a CDN shows to the edge, the newest first
    #[arg(long, global = true, env = "GATEHOUSE_ORIGIN_SECRETS")]
    pub(crate) origin_secrets: Option<PathBuf>,
    /// A file with a line `name:token` for each operator
    #[arg(long, global = true, env = "GATEHOUSE_OPERATORS")]
    pub(crate) operators: Option<PathBuf>,
    /// Development: local issuer and CA, loopback upstreams, credentials dev:dev, an operator with the token dev
    #[arg(long, global = true)]
    pub(crate) dev: bool,
    /// YAML: what is to go wrong on purpose, so that platforms can be tested; watched
    #[arg(long, global = true, env = "GATEHOUSE_FAULTS", requires = "dev")]
    pub(crate) faults: Option<PathBuf>,
    /// Seconds that a job is hidden from other workers, unless its worker extends it
    #[arg(long, global = true, default_value_t = 30)]
    pub(crate) job_lease_secs: u64,
    /// Seconds that an operation waits for the nodes to acknowledge it
    #[arg(long, global = true, default_value_t = 120)]
    pub(crate) fleet_deadline_secs: u64,
    /// Minutes between two looks at whether what exists is what is wanted; 0 is never
    #[arg(long, global = true, default_value_t = 60)]
    pub(crate) reconcile_minutes: u64,
    /// What is done about what differs: it is reported, or put right
    #[arg(long, global = true, value_enum, default_value_t = Reconcile::Report)]
    pub(crate) reconcile: Reconcile,
    /// How many of a hundred connected nodes have to acknowledge a change; at least one node does
    #[arg(long, global = true, default_value_t = 100)]
    pub(crate) fleet_percent: u8,
    /// Seconds that the other nodes are waited for, when these have
    #[arg(long, global = true, default_value_t = 10)]
    pub(crate) fleet_grace_secs: u64,
    /// What to log, in the syntax of RUST_LOG
    #[arg(long, global = true, env = "GATEHOUSE_LOG", default_value = "info")]
    pub(crate) log: String,
}

/// What is done about what differs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Reconcile {
    Report,
    Mend,
}

/// What the process does.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Everything (the default)
    All,
    /// Only the service broker and the operators' API
    Broker,
    /// Only the workers
    Worker,
    /// Only context, templates and xDS
    Ads,
    /// Seals everything in the store with the newest key, so that the older ones can go
    Reseal,
    /// Everything that the store knows, for another one. Stop the control planes first
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Renders the templates and checks the result, without serving anything. Ends with 1 at a mistake, and with 2
    /// where --diff or --golden find differences
    Render(RenderArgs),
}

/// What to render.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RenderArgs {
    /// Service files. With --diff, one that has the name of a live service stands in its place
    pub(crate) services: Vec<PathBuf>,
    /// YAML: the node that it is for, as its bootstrap describes it; without one the node has nothing special
    #[arg(long)]
    pub(crate) node: Option<PathBuf>,
    /// The node polls over REST
    #[arg(long)]
    pub(crate) polling: bool,
    /// YAML with `context` and `services`, as `gatehouse fleet context` prints them. What is in it goes before what
    /// --sources fetches
    #[arg(long)]
    pub(crate) context: Option<PathBuf>,
    /// Show how the result differs from what is live, with the live services
    #[arg(long, conflicts_with = "golden")]
    pub(crate) diff: bool,
    /// The HTTP address of the control plane that --diff asks
    #[arg(long, env = "GATEHOUSE_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The token of an operator, for --diff
    #[arg(long, env = "GATEHOUSE_TOKEN", default_value = "dev", hide_env_values = true)]
    pub(crate) token: String,
    /// Compare each folder in this one, with a context.yaml, a node.yaml and services/*.yaml as needed, with its
    /// expected.yaml
    #[arg(long, conflicts_with_all = ["services", "node", "context"])]
    pub(crate) golden: Option<PathBuf>,
    /// Write the expected.yaml files anew
    #[arg(long, requires = "golden")]
    pub(crate) update: bool,
}

/// The parts of the control plane that this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) broker: bool,
    pub(crate) worker: bool,
    pub(crate) ads: bool,
}

/// Checked, and nothing bound yet.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) roles: Roles,
    pub(crate) data_dir: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) store_keys: Keys,
    pub(crate) http: SocketAddr,
    pub(crate) xds: SocketAddr,
    pub(crate) xds_tls: Option<TlsFiles>,
    pub(crate) edge: Edge,
    pub(crate) templates: Folder,
    pub(crate) sources: Vec<Source>,
    pub(crate) issuers: ::keys::Settings,
    /// Who signs identity tokens, where the edge does.
    pub(crate) identity: Option<Identity>,
    /// Programs.
    pub(crate) validate_with: Vec<PathBuf>,
    pub(crate) platforms: Platforms,
    pub(crate) platforms_file: Option<PathBuf>,
    pub(crate) faults_file: Option<PathBuf>,
    pub(crate) operators: Vec<Credentials>,
    pub(crate) upstreams: UpstreamRule,
    pub(crate) job_lease: Duration,
    pub(crate) fleet: FleetRule,
    pub(crate) aws: Option<AwsSettings>,
    pub(crate) mending: Mending,
    /// Never, where it is nothing.
    pub(crate) reconcile_every: Option<Duration>,
}

impl Args {
    /// Where the templates are.
    pub(crate) fn folder(&self) -> Folder {
        Folder { path: self.templates.clone(), with_defaults: !self.no_default_templates }
    }

    /// The database, and the keys of what is secret in it.
    pub(crate) fn store(&self) -> anyhow::Result<(PathBuf, Keys)> {
        // The database holds what tenants ordered.
        files::private_folder(&self.data_dir)
            .with_context(|| format!("--data-dir: making the folder {}", self.data_dir.display()))?;
        let path = self.store_keys.clone().unwrap_or_else(|| self.data_dir.join("store.keys"));
        Ok((self.data_dir.join("gatehouse.db"), keys::read(&path).context("--store-keys")?))
    }

    fn xds_tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.xds_cert.clone()?,
            key: self.xds_key.clone()?,
            ca: self.xds_client_ca.clone()?,
        })
    }
}

impl Config {
    pub(crate) fn load(args: &Args) -> anyhow::Result<Self> {
        let all = Roles { broker: true, worker: true, ads: true };
        let none = Roles { broker: false, worker: false, ads: false };
        let roles = match args.command {
            None | Some(Command::All | Command::Render(_) | Command::Reseal | Command::State { .. }) => all,
            Some(Command::Broker) => Roles { broker: true, ..none },
            Some(Command::Worker) => Roles { worker: true, ..none },
            Some(Command::Ads) => Roles { ads: true, ..none },
        };
        let xds_tls = args.xds_tls();
        ensure!(
            xds_tls.is_some() || args.xds.ip().is_loopback(),
            "--xds: hands out keys, so it needs mutual TLS (--xds-cert, --xds-key, --xds-client-ca) or a loopback \
             address, got {}",
            args.xds
        );
        let longest = queue::LONGEST_LEASE.as_secs();
        ensure!(
            (1..=longest).contains(&args.job_lease_secs),
            "--job-lease-secs: 1 to {longest}, got {}",
            args.job_lease_secs
        );
        ensure!(
            (1..=100).contains(&args.fleet_percent),
            "--fleet-percent: 1 to 100, got {}",
            args.fleet_percent
        );
        ensure!(args.fleet_deadline_secs > 0, "--fleet-deadline-secs: at least 1, got 0");
        let (database, store_keys) = args.store()?;
        let edge = edge(args)?;
        Ok(Self {
            identity: identity(args, &edge)?,
            database,
            store_keys,
            roles,
            data_dir: args.data_dir.clone(),
            http: args.http,
            xds: args.xds,
            xds_tls,
            edge,
            templates: args.folder(),
            sources: sources(args)?,
            issuers: issuers(args)?,
            validate_with: args.validate_with.clone(),
            platforms: platforms(args)?,
            platforms_file: args.platforms.clone(),
            faults_file: args.faults.clone(),
            operators: operators(args)?,
            upstreams: if args.dev { UpstreamRule::LoopbackAllowed } else { UpstreamRule::NoLoopback },
            job_lease: Duration::from_secs(args.job_lease_secs),
            fleet: FleetRule {
                percent: args.fleet_percent,
                grace: Duration::from_secs(args.fleet_grace_secs),
                deadline: Duration::from_secs(args.fleet_deadline_secs),
            },
            aws: aws(args)?,
            mending: match args.reconcile {
                Reconcile::Report => Mending::Report,
                Reconcile::Mend => Mending::Mend,
            },
            reconcile_every: Some(args.reconcile_minutes)
                .filter(|minutes| *minutes > 0)
                .map(|minutes| Duration::from_secs(minutes * 60)),
        })
    }
}

/// The edge's settings.
pub(crate) fn edge(args: &Args) -> anyhow::Result<Edge> {
    let mut edge = match &args.edge {
        None => Edge::default(),
        Some(path) => Edge::read(path)?,
    };
    ensure!(
        edge.group == EDGE_GROUP,
        "--edge: group: must be {EDGE_GROUP:?} in this release, got {:?}",
        edge.group
    );
    if let Some(path) = &args.origin_secrets {
        edge.origin_secrets = OriginSecrets::read(path).context("--origin-secrets")?;
    }
    ensure!(
        edge.cdn.is_none() || edge.origin_secrets.newest().is_some(),
        "--edge: cdn: needs --origin-secrets, or anybody could say that he came through the CDN"
    );
    Ok(edge)
}

/// The programs that are asked before anything is pushed; they read from the folder.
pub(crate) fn validator(
    programs: &[PathBuf],
    edge: &Edge,
    folder: &Path,
    registry: &mut Registry,
) -> anyhow::Result<Option<Validator>> {
    if programs.is_empty() {
        return Ok(None);
    }
    let metrics = validator::Metrics::default();
    metrics.register(registry);
    let made = Validator::new(programs, edge.bootstrap(), folder, metrics);
    Ok(Some(made.context("--validate-with")?))
}

fn platforms(args: &Args) -> anyhow::Result<Platforms> {
    match &args.platforms {
        Some(path) => followed::read(path).context("--platforms"),
        None if args.dev => Ok(dev::platforms()),
        None => bail!("--platforms: a file with the platforms that may order is needed (or --dev)"),
    }
}

pub(crate) fn sources(args: &Args) -> anyhow::Result<Vec<Source>> {
    let Some(path) = &args.sources else { return Ok(Vec::new()) };
    let text = fs::read_to_string(path).with_context(|| format!("--sources: reading {}", path.display()))?;
    context::read(&text).with_context(|| format!("--sources: {}", path.display()))
}

/// Who signs identity tokens.
fn identity(args: &Args, edge: &Edge) -> anyhow::Result<Option<Identity>> {
    let Some(settings) = &edge.identity else { return Ok(None) };
    ensure!(
        args.identity_secret.is_some() || args.aws.is_none() || args.dev,
        "--identity-secret: needed beside --aws, the same for all control planes, since the edge signs identity tokens"
    );
    let path = args.identity_secret.clone().unwrap_or_else(|| args.data_dir.join("identity.secret"));
    Identity::read(&path, &edge.group, &settings.issuer).context("--identity-secret").map(Some)
}

/// Whose keys are followed.
pub(crate) fn issuers(args: &Args) -> anyhow::Result<::keys::Settings> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path).with_context(|| format!("--issuers: reading {}", path.display()))
    };
    let text = args.issuers_file.as_ref().map(read).transpose()?;
    let settings = ::keys::Settings::read(&args.issuers, text.as_deref())?;
    if args.dev { Ok(settings.with_file(dev::ISSUER, dev::issuer(&args.data_dir)?)) } else { Ok(settings) }
}

fn aws(args: &Args) -> anyhow::Result<Option<AwsSettings>> {
    let Some(path) = &args.aws else { return Ok(None) };
    let settings = AwsSettings::read(path).context("--aws")?;
    // The SDK reads the same variable.
    let endpoint = std::env::var("AWS_ENDPOINT_URL").unwrap_or_default();
    let is_emulated = ["http://127.0.0.1:", "http://localhost:"].iter().any(|own| endpoint.starts_with(own));
    ensure!(
        !args.dev || is_emulated,
        "--dev: gives everybody everything, so beside --aws only with an emulator on this machine \
         (AWS_ENDPOINT_URL)"
    );
    ensure!(
        args.dev || settings.dns.is_some(),
        "--aws: dns: needed; without it names are in a local zone and certificates of a local CA, for --dev only"
    );
    Ok(Some(settings))
}

/// Without any, nobody can sign in: the edge runs all the same.
fn operators(args: &Args) -> anyhow::Result<Vec<Credentials>> {
    match &args.operators {
        Some(path) => tokens(path),
        None if args.dev => Ok(vec![dev::operator()]),
        None => Ok(Vec::new()),
    }
}

/// Lines of names and tokens.
fn tokens(path: &Path) -> anyhow::Result<Vec<Credentials>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("--operators: reading {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let known: Vec<_> = lines
        .enumerate()
        .map(|(at, line)| {
            let parts = line.split_once(':').filter(|(name, token)| !name.is_empty() && !token.is_empty());
            // Never the line itself: it may be the secret.
            let (name, token) =
                parts.with_context(|| format!("--operators: entry {} is not name:token", at + 1))?;
            Ok(Credentials { user: name.to_owned(), password: token.to_owned() })
        })
        .collect::<anyhow::Result<_>>()?;
    ensure!(!known.is_empty(), "--operators: {} holds no name:token", path.display());
    Ok(known)
}
