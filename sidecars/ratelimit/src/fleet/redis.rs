//! Redis or Valkey as the store: one server, those that sentinels tell of, or a cluster; with TLS and passwords.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates, TlsMode,
    aio::MultiplexedConnection,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinSet,
    time::timeout,
};

use super::store::{Act, Op, Store, StoreError};

/// Where the store is. The names in the environment are those of the reference server.
#[derive(Clone, Args)]
pub struct RedisSettings {
    /// Where limits of the fleet are counted: `host:port`, a path of a Unix socket, `master,sentinel:port,…`, or several
    /// `host:port,…` of a cluster
    #[arg(long, env = "REDIS_URL")]
    pub redis_url: Option<String>,
    /// What is there
    #[arg(long, env = "REDIS_TYPE", default_value = "single", ignore_case = true)]
    pub redis_type: RedisType,
    /// `password`, or `user:password`
    #[arg(long, env = "REDIS_AUTH", hide_env_values = true)]
    pub redis_auth: Option<String>,
    /// The same for the sentinels
    #[arg(long, env = "REDIS_SENTINEL_AUTH", hide_env_values = true)]
    pub redis_sentinel_auth: Option<String>,
    /// Over TLS
    #[arg(long, env = "REDIS_TLS")]
    pub redis_tls: bool,
    /// PEM: the CAs of its certificate; the system's without
    #[arg(long, env = "REDIS_TLS_CACERT")]
    pub redis_ca: Option<PathBuf>,
    /// PEM: the certificate that it is shown
    #[arg(long, env = "REDIS_TLS_CLIENT_CERT", requires = "redis_key")]
    pub redis_cert: Option<PathBuf>,
    /// PEM: its key
    #[arg(long, env = "REDIS_TLS_CLIENT_KEY", requires = "redis_cert")]
    pub redis_key: Option<PathBuf>,
}

/// How many servers there are, and who tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RedisType {
    /// One.
    Single,
    /// Sentinels tell which one is the master.
    Sentinel,
    /// A cluster.
    Cluster,
}

impl std::fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSettings").field("url", &self.redis_url).finish_non_exhaustive()
    }
}

/// A store that connects when it is first asked, and again after each failure.
pub(super) struct Redis {
    source: Source,
    connection: Mutex<Option<Connection>>,
}

enum Source {
    Single(Box<Client>),
    Sentinel(Box<Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
    /// All commands of a batch go in one write.
    One(MultiplexedConnection),
    /// Keys lie on several servers, so each command goes on its own.
    Cluster(ClusterConnection),
}

/// Longer than in any region; who waits does not wait for it.
const CONNECTING: Duration = Duration::from_secs(1);
/// After this an answer is of no use to anybody.
const ANSWERING: Duration = Duration::from_secs(1);

impl Redis {
    pub(super) fn new(settings: &RedisSettings) -> anyhow::Result<Self> {
        let url = settings.redis_url.as_deref().context("--redis-url: must be there")?;
        let tls = settings.certificates()?;
        let source = match settings.redis_type {
            RedisType::Single => Source::Single(Box::new(single(settings, url, tls)?)),
            RedisType::Sentinel => Source::Sentinel(Box::new(Mutex::new(sentinel(settings, url, tls)?))),
            RedisType::Cluster => Source::Cluster(Box::new(cluster(settings, url, tls)?)),
        };
        Ok(Self { source, connection: Mutex::default() })
    }

    async fn connection(&self) -> Result<Connection, StoreError> {
        let mut known = self.connection.lock().await;
        if let Some(connection) = known.as_ref() {
            return Ok(connection.clone());
        }
        let connecting = timeout(CONNECTING, self.source.connect()).await;
        let connection =
            connecting.map_err(|_| StoreError::Connecting(CONNECTING))?.map_err(StoreError::Redis)?;
        Ok(known.insert(connection).clone())
    }

    /// The next one asked connects anew: to another master, perhaps.
    async fn disconnect(&self) {
        let mut known: MutexGuard<'_, _> = self.connection.lock().await;
        *known = None;
    }
}

impl Source {
    async fn connect(&self) -> Result<Connection, redis::RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(ANSWERING));
        match self {
            Self::Single(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
            }
            Self::Sentinel(client) => {
                let mut client = client.lock().await;
                client.get_async_connection_with_config(&config).await.map(Connection::One)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
        }
    }
}

#[async_trait::async_trait]
impl Store for Redis {
    async fn run(&self, batch: &[Op]) -> Result<Vec<i64>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let answers = match self.connection().await? {
            Connection::One(connection) => together(connection, batch).await,
            Connection::Cluster(connection) => one_by_one(connection, batch).await,
        };
        match answers {
            Ok(answers) if answers.len() == batch.len() => Ok(answers),
            answers => {
                self.disconnect().await;
                let answers = answers.map_err(StoreError::Redis)?;
                Err(StoreError::Answers { asked: batch.len(), got: answers.len() })
            }
        }
    }
}

/// What is asked of one key: a question, and sometimes a time to live.
fn commands(op: &Op) -> (Cmd, Option<Cmd>) {
    match op.act {
        Act::Look => (redis::cmd("GET").arg(&op.key).to_owned(), None),
        Act::Add { amount, live_secs } => {
            let add = redis::cmd("INCRBY").arg(&op.key).arg(amount).to_owned();
            let expire = |live: u64| redis::cmd("EXPIRE").arg(&op.key).arg(live).to_owned();
            (add, live_secs.map(expire))
        }
    }
}

async fn together(
    mut connection: MultiplexedConnection,
    batch: &[Op],
) -> Result<Vec<i64>, redis::RedisError> {
    let mut pipe = redis::Pipeline::with_capacity(batch.len());
    for op in batch {
        let (question, expire) = commands(op);
        pipe.add_command(question);
        if let Some(expire) = expire {
            pipe.add_command(expire).ignore();
        }
    }
    let answers: Vec<Option<i64>> = pipe.query_async(&mut connection).await?;
    Ok(answers.into_iter().map(Option::unwrap_or_default).collect())
}

async fn one_by_one(connection: ClusterConnection, batch: &[Op]) -> Result<Vec<i64>, redis::RedisError> {
    // Those of one key in their order, the others beside them.
    let mut by_key: Vec<(&str, Vec<(usize, &Op)>)> = Vec::new();
    for (at, op) in batch.iter().enumerate() {
        match by_key.iter_mut().find(|(key, _)| *key == op.key) {
            Some((_, ops)) => ops.push((at, op)),
            None => by_key.push((&op.key, vec![(at, op)])),
        }
    }
    let mut all = JoinSet::new();
    for (_, ops) in by_key {
        let mut connection = connection.clone();
        let commands: Vec<_> = ops.into_iter().map(|(at, op)| (at, commands(op))).collect();
        all.spawn(async move {
            let mut answers = Vec::with_capacity(commands.len());
            for (at, (question, expire)) in commands {
                let answer: Option<i64> = question.query_async(&mut connection).await?;
                if let Some(expire) = expire {
                    let _: i64 = expire.query_async(&mut connection).await?;
                }
                answers.push((at, answer.unwrap_or_default()));
            }
            Ok::<_, redis::RedisError>(answers)
        });
    }
    let mut answers = vec![0; batch.len()];
    while let Some(ended) = all.join_next().await {
        let lost = |error: tokio::task::JoinError| redis::RedisError::from(std::io::Error::other(error));
        for (at, answer) in ended.map_err(lost)?? {
            answers[at] = answer;
        }
    }
    Ok(answers)
}

impl RedisSettings {
    fn certificates(&self) -> anyhow::Result<Option<TlsCertificates>> {
        if !self.redis_tls {
            return Ok(None);
        }
        let read = |flag: &str, path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("{flag}: {}", path.display()))
        };
        let client_tls = match (&self.redis_cert, &self.redis_key) {
            (Some(cert), Some(key)) => Some(ClientTlsConfig {
                client_cert: read("--redis-cert", cert)?,
                client_key: read("--redis-key", key)?,
            }),
            _ => None,
        };
        let root_cert = self.redis_ca.as_ref().map(|path| read("--redis-ca", path)).transpose()?;
        Ok(Some(TlsCertificates { client_tls, root_cert }))
    }
}

/// `password`, or `user:password`.
fn credentials(auth: &str) -> (Option<&str>, &str) {
    auth.split_once(':').map_or((None, auth), |(user, password)| (Some(user), password))
}

fn with_auth(info: RedisConnectionInfo, auth: Option<&str>) -> RedisConnectionInfo {
    let Some((user, password)) = auth.map(credentials) else { return info };
    let info = info.set_password(password);
    match user {
        Some(user) => info.set_username(user),
        None => info,
    }
}

/// `host:port`, or what begins with a slash; a whole URL is taken too.
fn address(url: &str, tls: bool) -> anyhow::Result<ConnectionInfo> {
    let scheme = if tls { "rediss" } else { "redis" };
    let whole = match url {
        whole if whole.contains("://") => whole.to_owned(),
        path if path.starts_with('/') => format!("redis+unix://{path}"),
        host => format!("{scheme}://{host}"),
    };
    // Its own message may hold a password.
    whole.into_connection_info().ok().context("--redis-url: must be host:port or a path")
}

fn single(settings: &RedisSettings, url: &str, tls: Option<TlsCertificates>) -> anyhow::Result<Client> {
    let info = address(url, settings.redis_tls)?;
    let redis = with_auth(info.redis_settings().clone(), settings.redis_auth.as_deref());
    let info = info.set_redis_settings(redis);
    match tls {
        Some(tls) => Client::build_with_tls(info, tls),
        None => Client::open(info),
    }
    .context("--redis-url")
}

fn sentinel(
    settings: &RedisSettings,
    url: &str,
    tls: Option<TlsCertificates>,
) -> anyhow::Result<SentinelClient> {
    let (master, sentinels) = url
        .split_once(',')
        .context("--redis-url: must be master,sentinel:port,… with --redis-type sentinel")?;
    let addresses: Vec<ConnectionAddr> = sentinels
        .split(',')
        .map(|sentinel| Ok(address(sentinel, settings.redis_tls)?.addr().clone()))
        .collect::<anyhow::Result<_>>()?;
    let mut builder =
        SentinelClientBuilder::new(addresses, master, SentinelServerType::Master).context("--redis-url")?;
    if let Some((user, password)) = settings.redis_auth.as_deref().map(credentials) {
        builder = builder.set_client_to_redis_password(password);
        if let Some(user) = user {
            builder = builder.set_client_to_redis_username(user);
        }
    }
    if let Some((user, password)) = settings.redis_sentinel_auth.as_deref().map(credentials) {
        builder = builder.set_client_to_sentinel_password(password);
        if let Some(user) = user {
            builder = builder.set_client_to_sentinel_username(user);
        }
    }
    if let Some(tls) = tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(tls.clone())
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(tls);
    }
    builder.build().context("--redis-url")
}

fn cluster(
    settings: &RedisSettings,
    url: &str,
    tls: Option<TlsCertificates>,
) -> anyhow::Result<ClusterClient> {
    let nodes: Vec<ConnectionInfo> =
        url.split(',').map(|node| address(node, settings.redis_tls)).collect::<anyhow::Result<_>>()?;
    // Never again by itself: what takes off a counter may have been heard.
    let mut builder = ClusterClientBuilder::new(nodes)
        .connection_timeout(CONNECTING)
        .response_timeout(ANSWERING)
        .retries(0);
    if let Some((user, password)) = settings.redis_auth.as_deref().map(credentials) {
        builder = builder.password(password);
        if let Some(user) = user {
            builder = builder.username(user);
        }
    }
    if let Some(tls) = tls {
        builder = builder.tls(TlsMode::Secure).certs(tls);
    }
    builder.build().context("--redis-url")
}

#[cfg(test)]
#[path = "redis/tests.rs"]
mod tests;
