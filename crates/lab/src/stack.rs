//! The edge on one machine: control plane, three sidecars, Envoy, a sample upstream, and the access log.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{LabError, Ports, Process, envoy, http::healthy, receiver::Receiver, upstream::Upstream};

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Our binaries.
    pub bin_dir: PathBuf,
    /// State that outlives a run.
    pub data_dir: PathBuf,
    /// Envoy, as it was obtained.
    pub envoy: PathBuf,
    /// The access-log module; without it nothing is logged.
    pub access_log_module: Option<PathBuf>,
    /// Operators' templates.
    pub templates: Option<PathBuf>,
    /// Where everything listens.
    pub ports: Ports,
    /// Envoy's worker threads.
    pub concurrency: usize,
    /// How Envoy gets its configuration.
    pub transport: Transport,
    /// `<group>/<instance>`
    pub node_id: String,
    /// Whether hosts are served over TLS too: by certificates on demand, which Envoy has from 1.40 on.
    pub https: bool,
    /// Mutual TLS between the node and its control plane; none of it without.
    pub tls: Option<TlsPaths>,
    /// What the templates are told about the edge, over what the lab says: a mapping.
    pub edge: Value,
    /// Where the node asks for its control plane, if not at `ports.xds`: a load balancer.
    pub xds_balancer: Option<u16>,
    /// More flags for the control plane.
    pub control_plane_args: Vec<String>,
    /// More of its environment.
    pub control_plane_env: Vec<(String, String)>,
    /// More flags for the authentication sidecar.
    pub authn_args: Vec<String>,
    /// More flags for the rate-limit sidecar.
    pub ratelimit_args: Vec<String>,
}

/// PEM files of both sides of mutual TLS.
#[derive(Debug, Clone)]
pub struct TlsPaths {
    /// The CA of all.
    pub ca: PathBuf,
    /// Certificate and key of the control plane, which is asked for at 127.0.0.1.
    pub server: (PathBuf, PathBuf),
    /// Certificate and key of the node.
    pub node: (PathBuf, PathBuf),
}

/// How Envoy asks its control plane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// Incremental ADS.
    #[default]
    DeltaGrpc,
    /// State-of-the-world ADS.
    Grpc,
    /// A stream for clusters and one for listeners, incremental, beside ADS for the rest.
    PerType,
    /// Polls.
    Rest,
}

/// The running edge. What is `None` was stopped, or not started yet.
#[derive(Debug)]
pub struct Stack {
    /// As it was started.
    pub layout: Layout,
    /// `gatehouse-control-plane all --dev`
    pub control_plane: Option<Process>,
    /// More of them, on the same store.
    pub replicas: Vec<Process>,
    /// By name.
    pub sidecars: BTreeMap<&'static str, Process>,
    /// The proxy.
    pub envoy: Option<Process>,
    /// Answers what passes the edge.
    pub upstream: Option<Upstream>,
    receiver: Option<Receiver>,
    client: reqwest::Client,
}

/// The node's id: its group and its name in it.
pub const NODE_ID: &str = "edge/local";
/// In the order in which Envoy asks them.
pub const SIDECARS: [&str; 3] = ["authn", "authz", "ratelimit"];

/// A debug build on a busy machine needs a few seconds for any of them.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// For requests under way when the edge is stopped.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Between two polls of a lab's Envoy.
const REFRESH_DELAY: &str = "0.2s";
/// Unix sockets have paths of at most 108 bytes, so those of a deep data folder lie elsewhere.
const MAX_RUN_DIR_BYTES: usize = 80;

impl Layout {
    /// Sockets, logs of processes, and their configuration.
    pub fn run_dir(&self) -> PathBuf {
        let inside = self.data_dir.join("run");
        if inside.as_os_str().len() <= MAX_RUN_DIR_BYTES {
            return inside;
        }
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&self.data_dir, &mut hasher);
        std::env::temp_dir().join(format!("gatehouse-{:016x}", std::hash::Hasher::finish(&hasher)))
    }

    /// Lines of JSON, one a request.
    pub fn access_log(&self) -> PathBuf {
        self.data_dir.join("access.log")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.data_dir.join("logs").join(format!("{name}.log"))
    }

    fn admin_port(&self, sidecar: &str) -> u16 {
        match sidecar {
            "authn" => self.ports.authn,
            "authz" => self.ports.authz,
            _ => self.ports.ratelimit,
        }
    }
}

impl Stack {
    /// Prepares the folders; starts nothing. Refuses when a port is taken.
    pub fn new(layout: Layout) -> Result<Self, LabError> {
        layout.ports.check()?;
        for folder in [layout.data_dir.clone(), layout.data_dir.join("logs"), layout.run_dir()] {
            fs::create_dir_all(&folder).map_err(LabError::io(format!("making {}", folder.display())))?;
        }
        Ok(Self {
            layout,
            control_plane: None,
            replicas: Vec::new(),
            sidecars: BTreeMap::new(),
            envoy: None,
            upstream: None,
            receiver: None,
            client: reqwest::Client::new(),
        })
    }

    /// Starts everything, in order, and waits until it is ready. `say` is told what comes next.
    pub async fn start(&mut self, say: impl Fn(&str)) -> Result<(), LabError> {
        say("starting the control plane");
        self.start_control_plane().await?;
        say("starting the sample upstream and the access log");
        self.start_helpers().await?;
        for name in SIDECARS {
            say(&format!("starting {name}"));
            self.start_sidecar(name).await?;
        }
        say("starting Envoy");
        self.start_envoy().await
    }

    /// The sample upstream and the receiver of the access log.
    pub async fn start_helpers(&mut self) -> Result<(), LabError> {
        let upstream = Upstream::serve(self.layout.ports.upstream).await;
        self.upstream = Some(upstream.map_err(LabError::io("starting the sample upstream"))?);
        let socket = self.layout.run_dir().join("agent.sock");
        let receiver = Receiver::serve(&socket, &self.layout.access_log()).await;
        self.receiver = Some(receiver.map_err(LabError::io("starting the receiver of the access log"))?);
        Ok(())
    }

    /// Starts the control plane, and waits until it serves.
    pub async fn start_control_plane(&mut self) -> Result<(), LabError> {
        let ports = self.layout.ports;
        // It runs on when nobody waits for it any more: one that holds everything back never is ready.
        let process = self.launch_control_plane(&ports, "control-plane")?;
        let process = self.control_plane.insert(process);
        serves(process, &self.client, &ports).await
    }

    /// Starts another control plane on the same store, and waits until it serves.
    pub async fn start_replica(&mut self, ports: &Ports) -> Result<(), LabError> {
        let name = format!("control-plane-{}", self.replicas.len() + 2);
        let mut process = self.launch_control_plane(ports, &name)?;
        serves(&mut process, &self.client, ports).await?;
        self.replicas.push(process);
        Ok(())
    }

    fn launch_control_plane(&self, ports: &Ports, log: &str) -> Result<Process, LabError> {
        let data_dir = &self.layout.data_dir;
        let edge = self.layout.run_dir().join("edge.yaml");
        fs::write(&edge, self.edge_settings())
            .map_err(LabError::io(format!("writing {}", edge.display())))?;
        let mut args = vec![
            "all".to_owned(),
            "--dev".to_owned(),
            format!("--data-dir={}", data_dir.display()),
            format!("--http=127.0.0.1:{}", ports.control_plane),
            format!("--xds=127.0.0.1:{}", ports.xds),
            format!("--edge={}", edge.display()),
        ];
        args.extend(self.layout.templates.iter().map(|folder| format!("--templates={}", folder.display())));
        args.extend(self.layout.control_plane_args.iter().cloned());
        if let Some(TlsPaths { ca, server: (certificate, key), .. }) = &self.layout.tls {
            args.push(format!("--xds-cert={}", certificate.display()));
            args.push(format!("--xds-key={}", key.display()));
            args.push(format!("--xds-client-ca={}", ca.display()));
        }
        let program = self.layout.bin_dir.join("gatehouse-control-plane");
        let log = self.layout.log(log);
        Process::start_with("the control plane", &program, &args, &self.layout.control_plane_env, &log)
    }

    /// JSON is YAML.
    fn edge_settings(&self) -> String {
        let Layout { ports, access_log_module, https, .. } = &self.layout;
        let listen = |port: u16| json!({"address": "127.0.0.1", "port": port});
        let mut settings = json!({
            "http": listen(ports.http),
            "https": https.then(|| listen(ports.https)),
            "proxy_protocol": false,
            "run_dir": self.layout.run_dir(),
            "access_log_module": access_log_module,
            "rest": {"refresh_delay": REFRESH_DELAY},
            "identity": {"issuer": "https://edge.example.test/identity/"},
        });
        for (name, value) in self.layout.edge.as_object().into_iter().flatten() {
            settings[name] = value.clone();
        }
        settings.to_string()
    }

    /// Starts a sidecar, and waits until it has its policies.
    pub async fn start_sidecar(&mut self, name: &'static str) -> Result<(), LabError> {
        let Layout { data_dir, ports, .. } = &self.layout;
        let admin = self.layout.admin_port(name);
        let scheme = if self.layout.tls.is_some() { "https" } else { "http" };
        let mut args = vec![
            format!("--node-id={}", self.layout.node_id),
            format!("--xds={scheme}://127.0.0.1:{}", self.layout.xds_balancer.unwrap_or(ports.xds)),
            format!("--socket={}", self.layout.run_dir().join(format!("{name}.sock")).display()),
            format!("--data-dir={}", data_dir.join("node").join(name).display()),
            format!("--admin=127.0.0.1:{admin}"),
        ];
        if let Some(TlsPaths { ca, node: (certificate, key), .. }) = &self.layout.tls {
            args.push(format!("--xds-cert={}", certificate.display()));
            args.push(format!("--xds-key={}", key.display()));
            args.push(format!("--xds-ca={}", ca.display()));
        }
        if name == "authn" {
            args.extend(self.layout.authn_args.iter().cloned());
        }
        if name == "ratelimit" {
            args.extend(self.layout.ratelimit_args.iter().cloned());
        }
        let program = self.layout.bin_dir.join(format!("gatehouse-{name}"));
        let mut process = Process::start(name, &program, &args, &self.layout.log(name))?;
        let url = format!("http://127.0.0.1:{admin}/readyz");
        process.wait_until(READY_DEADLINE, || healthy(&self.client, &url)).await?;
        self.sidecars.insert(name, process);
        Ok(())
    }

    /// Starts Envoy, which knows nothing but where its control plane is, and waits until it is live.
    pub async fn start_envoy(&mut self) -> Result<(), LabError> {
        let bootstrap = self.layout.run_dir().join("envoy.json");
        let text = bootstrap_of(&self.layout);
        fs::write(&bootstrap, text).map_err(LabError::io(format!("writing {}", bootstrap.display())))?;
        let args = [
            "--config-path".to_owned(),
            bootstrap.display().to_string(),
            "--concurrency".to_owned(),
            self.layout.concurrency.to_string(),
            // Several labs run on one machine.
            "--use-dynamic-base-id".to_owned(),
            "--log-level".to_owned(),
            "warning".to_owned(),
        ];
        let process = Process::start("Envoy", &self.layout.envoy, &args, &self.layout.log("envoy"))?;
        let url = format!("{}/ready", self.admin_url());
        // It runs on when nobody waits for it any more: one that is not served never is live.
        let process = self.envoy.insert(process);
        process.wait_until(READY_DEADLINE, || healthy(&self.client, &url)).await
    }

    /// Broker and operators' API.
    pub fn control_plane_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.layout.ports.control_plane)
    }

    /// Envoy's admin interface.
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.layout.ports.envoy_admin)
    }

    /// An error when something ended by itself.
    pub fn check(&mut self) -> Result<(), LabError> {
        let mut processes =
            self.control_plane.iter_mut().chain(self.sidecars.values_mut()).chain(self.envoy.iter_mut());
        processes.try_for_each(Process::check)
    }

    /// Drains Envoy, then stops everything in the reverse order.
    pub async fn stop(mut self) {
        if let Some(envoy) = self.envoy.take() {
            self.drain_envoy().await;
            envoy.stop(DRAIN_DEADLINE).await;
        }
        for (_, sidecar) in std::mem::take(&mut self.sidecars) {
            sidecar.stop(DRAIN_DEADLINE).await;
        }
        for control_plane in self.control_plane.take().into_iter().chain(self.replicas) {
            control_plane.stop(DRAIN_DEADLINE).await;
        }
    }

    /// No new connections; those that are there finish their requests.
    async fn drain_envoy(&self) {
        let drain = format!("{}/drain_listeners?graceful&skip_exit", self.admin_url());
        if self.client.post(drain).timeout(DRAIN_DEADLINE).send().await.is_err() {
            return;
        }
        let end = tokio::time::Instant::now() + DRAIN_DEADLINE;
        let stats = format!("{}/stats?filter=downstream_rq_active&usedonly", self.admin_url());
        while tokio::time::Instant::now() < end {
            let Ok(response) = self.client.get(&stats).send().await else { return };
            let text = response.text().await.unwrap_or_default();
            let busy = text.lines().any(|line| line.starts_with("http.http") && !line.ends_with(": 0"));
            if !busy {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn serves(process: &mut Process, client: &reqwest::Client, ports: &Ports) -> Result<(), LabError> {
    let url = format!("http://127.0.0.1:{}/readyz", ports.control_plane);
    process.wait_until(READY_DEADLINE, || healthy(client, &url)).await
}

/// Where the control plane is, and nothing else.
fn bootstrap_of(layout: &Layout) -> String {
    let Layout { ports, transport, node_id, tls, .. } = layout;
    let xds = layout.xds_balancer.unwrap_or(ports.xds);
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let grpc = |api_type: &str| {
        json!({
            "api_type": api_type,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            "set_node_on_first_message_only": true
        })
    };
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let dynamic = match transport {
        Transport::DeltaGrpc => {
            json!({"ads_config": grpc("DELTA_GRPC"), "lds_config": ads, "cds_config": ads})
        }
        Transport::Grpc => json!({"ads_config": grpc("GRPC"), "lds_config": ads, "cds_config": ads}),
        Transport::PerType => {
            let own = json!({"api_config_source": grpc("DELTA_GRPC"), "resource_api_version": "V3"});
            json!({"ads_config": grpc("DELTA_GRPC"), "lds_config": own, "cds_config": own})
        }
        Transport::Rest => {
            let poll = json!({
                "resource_api_version": "V3",
                "api_config_source": {
                    "api_type": "REST",
                    "transport_api_version": "V3",
                    "cluster_names": ["xds"],
                    "refresh_delay": REFRESH_DELAY,
                }
            });
            json!({"lds_config": poll, "cds_config": poll})
        }
    };
    let protocol = match transport {
        Transport::Rest => json!({"http_protocol_options": {}}),
        _ => {
            json!({"http2_protocol_options": {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}})
        }
    };
    let reports = match transport {
        Transport::Rest => json!({}),
        _ => json!({"load_stats_config": grpc("GRPC")}),
    };
    let transport_socket = tls.as_ref().map(|TlsPaths { ca, node: (certificate, key), .. }| {
        json!({
            "name": "tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_certificates": [{
                        "certificate_chain": {"filename": certificate},
                        "private_key": {"filename": key},
                    }],
                    "validation_context": {
                        "trusted_ca": {"filename": ca},
                        "match_typed_subject_alt_names":
                            [{"san_type": "IP_ADDRESS", "matcher": {"exact": "127.0.0.1"}}],
                    },
                }
            }
        })
    });
    json!({
        "node": {"id": node_id, "cluster": node_id.split('/').next()},
        "cluster_manager": reports,
        "admin": {"address": address(ports.envoy_admin)},
        "dynamic_resources": dynamic,
        "static_resources": {"clusters": [{
            "name": "xds",
            "type": "STATIC",
            "connect_timeout": "1s",
            "transport_socket": transport_socket,
            "load_assignment": {
                "cluster_name": "xds",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(xds)}}]}]
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": protocol
                }
            }
        }]}
    })
    .to_string()
}

/// Obtains Envoy and looks for the built access-log module: what every lab needs.
pub async fn prepare(
    tools: &Path,
    wasm_dir: &Path,
    say: impl Fn(&str),
) -> Result<(PathBuf, Option<PathBuf>), LabError> {
    let envoy = envoy::obtain(tools, say).await?;
    let module = wasm_dir.join("access_log_filter.wasm");
    Ok((envoy, module.exists().then_some(module)))
}
