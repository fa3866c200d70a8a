//! A running edge, and what a test asks of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use lab::{
    Layout, NODE_ID, Ports, Sidecars, Stack, Transport,
    aws::Aws,
    pip::{self, Needs},
    stack,
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command, sync::OnceCell};

use crate::{Answer, Service, Token};

/// A running edge. Its processes end when it is dropped.
pub struct Lab {
    /// The processes; tests stop and start them.
    pub stack: Stack,
    folder: tempfile::TempDir,
    client: Client,
}

/// Long enough for a debug build on a machine that does other things; never a measure of anything.
const DEADLINE: Duration = Duration::from_mins(1);
/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

static PREPARED: OnceCell<(PathBuf, Option<PathBuf>)> = OnceCell::const_new();

/// Where cargo puts our binaries: above the `deps` of a test, or beside a bench.
fn bin_dir() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let folder = own.parent().expect("a file is in a folder");
    if folder.ends_with("deps") {
        folder.parent().expect("deps is in a folder").to_owned()
    } else {
        folder.to_owned()
    }
}

/// A binary of ours, as cargo built it beside this test.
pub fn program(name: &str) -> PathBuf {
    bin_dir().join(name)
}

/// The root of the project. As cargo says it now: with a target folder that several clones share, this program may
/// have been built in another one.
pub fn project() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(own).parent().expect("tests is in the project").to_owned()
}

async fn prepared() -> (PathBuf, Option<PathBuf>) {
    let prepare = || async {
        let wasm = bin_dir().join("../wasm32-wasip1/wasm");
        stack::prepare(&tools(), &wasm, |_| ()).await.expect("Envoy and the modules are there")
    };
    PREPARED.get_or_init(prepare).await.clone()
}

fn tools() -> PathBuf {
    project().join(".gatehouse/tools")
}

/// Where a Python package and what it needs are, fetched once.
pub async fn tool(requirement: &str) -> PathBuf {
    pip::fetched(&tools(), requirement, Needs::Dependencies).await.unwrap_or_else(|error| panic!("{error}"))
}

/// An emulator of AWS with nothing in it; its log goes to the folder.
pub async fn aws(folder: &Path) -> Aws {
    Aws::start(&tools(), folder).await.unwrap_or_else(|error| panic!("{error}"))
}

/// An Envoy of just this version, fetched once.
pub async fn envoy(version: &str) -> PathBuf {
    lab::envoy::version(&tools(), version, |_| ()).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until `condition` gives something; panics with `what` when it does not.
pub async fn eventually<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < end, "not within {} s: {what}", DEADLINE.as_secs());
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

impl Lab {
    /// Everything running and ready.
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// Everything running and ready, after `change` of the layout.
    pub async fn with(change: impl FnOnce(&mut Layout)) -> Self {
        let mut lab = Self::prepare(change).await;
        lab.stack.start(|_| ()).await.unwrap_or_else(|error| panic!("{error}"));
        lab
    }

    /// Everything running and ready, with these operators' templates (name and text), and their folder.
    pub async fn with_templates(templates: &[(&str, &str)]) -> (Self, PathBuf) {
        let mut folder = PathBuf::new();
        let lab = Self::with(|layout| {
            folder = layout.data_dir.join("templates");
            std::fs::create_dir(&folder).expect("a folder");
            for (name, text) in templates {
                std::fs::write(folder.join(name), text).expect("a template");
            }
            layout.templates = Some(folder.clone());
        })
        .await;
        (lab, folder)
    }

    /// Nothing running yet.
    pub async fn prepare(change: impl FnOnce(&mut Layout)) -> Self {
        let (envoy, access_log_module) = prepared().await;
        let folder = tempfile::tempdir().expect("a folder");
        let mut layout = Layout {
            bin_dir: bin_dir(),
            data_dir: folder.path().to_owned(),
            envoy,
            access_log_module,
            templates: None,
            ports: Ports::free().expect("free ports"),
            concurrency: 1,
            transport: Transport::default(),
            node_id: NODE_ID.to_owned(),
            https: true,
            tls: None,
            sidecars: Sidecars::default(),
            sidecar_args: BTreeMap::new(),
            control_plane_env: Vec::new(),

            edge: serde_json::Value::Null,
            xds_balancer: None,
            control_plane_args: vec!["--job-lease-secs=2".into(), "--fleet-deadline-secs=60".into()],
        };
        change(&mut layout);
        let stack = Stack::new(layout).unwrap_or_else(|error| panic!("{error}"));
        // Connections to Envoy are not kept: a listener that drains would break them in the middle of a test.
        let client = Client::builder().pool_max_idle_per_host(0).timeout(DEADLINE).build().expect("a client");
        Self { stack, folder, client }
    }

    /// Drains and stops everything.
    pub async fn stop(self) {
        self.stack.stop().await;
    }

    /// Where this lab keeps everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A service in front of this lab's upstream.
    pub fn service(&self, name: &str) -> Service {
        Service::new(name, self.stack.layout.ports.upstream)
    }

    /// A request through Envoy.
    pub fn request(&self, method: Method, host: &str, path: &str) -> RequestBuilder {
        let url = format!("http://127.0.0.1:{}{path}", self.stack.layout.ports.http);
        self.client.request(method, url).header("host", host)
    }

    /// Sends, and reads the answer; `None` when there is none.
    pub async fn send(&self, request: RequestBuilder) -> Option<Answer> {
        Some(Answer::read(request.send().await.ok()?).await)
    }

    /// A GET through Envoy, with a token where one is given.
    pub async fn get(&self, host: &str, path: &str, token: Option<&str>) -> Answer {
        let mut request = self.request(Method::GET, host, path);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        self.send(request).await.expect("Envoy answers")
    }

    /// A GET over TLS that trusts the lab's CA; `None` when the handshake fails.
    pub async fn get_https(&self, host: &str, path: &str) -> Option<Answer> {
        let ca = std::fs::read(self.folder().join("dev-ca/ca.pem")).expect("the lab has a CA");
        let address = SocketAddr::from(([127, 0, 0, 1], self.stack.layout.ports.https));
        let client = Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
            .resolve(host, address)
            .build()
            .expect("a client");
        let url = format!("https://{host}:{}{path}", address.port());
        Some(Answer::read(client.get(url).send().await.ok()?).await)
    }

    /// A token of the lab's issuer.
    pub async fn token(&self, token: &Token) -> String {
        let expires = format!("--expires-in={}", token.expires_in);
        let args = [
            "token",
            "--audience",
            &token.audience,
            "--scope",
            &token.scope,
            "--subject",
            &token.subject,
            "--algorithm",
            token.algorithm,
            &expires,
        ];
        let output = self.gatehouse(&args).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A good token for a service.
    pub async fn good_token(&self, service: &Service) -> String {
        self.token(&Token::for_service(service.name())).await
    }

    /// Runs the client as a user would.
    pub async fn gatehouse(&self, args: &[&str]) -> Output {
        self.gatehouse_with(args, &[]).await
    }

    /// The same with more in its environment.
    pub async fn gatehouse_with(&self, args: &[&str], environment: &[(String, String)]) -> Output {
        Command::new(self.stack.layout.bin_dir.join("gatehouse"))
            .args(args)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("GATEHOUSE_BROKER", self.stack.control_plane_url())
            .env("GATEHOUSE_URL", self.stack.control_plane_url())
            .env("GATEHOUSE_DATA_DIR", self.folder())
            .output()
            .await
            .expect("the client runs")
    }

    /// The same with something to read.
    pub async fn gatehouse_reading(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new(self.stack.layout.bin_dir.join("gatehouse"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(input.as_bytes()).await.expect("it reads");
        drop(pipe);
        child.wait_with_output().await.expect("the client runs")
    }

    /// Whether the client did what it was asked for, and all that it printed.
    pub async fn run(&self, args: &[&str]) -> (bool, String) {
        let output = self.gatehouse(args).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Applies it with the client, and waits until it is live.
    pub async fn apply(&self, service: &Service) {
        let file = self.folder().join(format!("{}.yaml", service.name()));
        // JSON is YAML too.
        std::fs::write(&file, service.parameters.to_string()).expect("a file");
        let (good, text) = self.run(&["apply", &file.display().to_string()]).await;
        assert!(good, "{text}");
    }

    /// A key for a service's client, as the client of the broker tells it once.
    pub async fn key(&self, service: &Service, client: &str, scope: &str) -> String {
        let output = self.gatehouse(&["bind", service.name(), client, "--scope", scope, "--json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let given: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        given["credentials"]["api_key"].as_str().expect("a key").to_owned()
    }

    /// Runs the control plane's program for something else than to serve.
    pub async fn control_plane(&self, args: &[&str]) -> Output {
        Command::new(self.stack.layout.bin_dir.join("gatehouse-control-plane"))
            .args(args)
            .env("GATEHOUSE_URL", self.stack.control_plane_url())
            .env("GATEHOUSE_DATA_DIR", self.folder())
            .output()
            .await
            .expect("the control plane runs")
    }

    fn broker(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.stack.control_plane_url()))
            .basic_auth("dev", Some("dev"))
            .header("x-broker-api-version", "2.17")
    }

    /// Onboards services, one after another. The milliseconds from each PUT to the first 200 through Envoy.
    pub async fn onboard(&self, services: usize) -> Vec<f64> {
        let mut took = Vec::with_capacity(services);
        for at in 0..services {
            let service = self.service(&format!("bench-{at}"));
            let token = self.good_token(&service).await;
            let begun = Instant::now();
            assert_eq!(self.provision(&service).await.status, 202);
            while self.get(service.host(), "/", Some(&token)).await.status != 200 {
                assert!(begun.elapsed() < DEADLINE, "{:?}", self.last_operation(&service).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        took
    }

    /// OSB PUT; the status and the body.
    pub async fn provision(&self, service: &Service) -> Answer {
        let body = json!({
            "service_id": "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01",
            "plan_id": service.plan_id(),
            "organization_guid": "o",
            "space_guid": "s",
            "parameters": service.parameters,
        });
        let path = format!("/v2/service_instances/{}?accepts_incomplete=true", service.id());
        self.send(self.broker(Method::PUT, &path).json(&body)).await.expect("the broker answers")
    }

    /// OSB PATCH.
    pub async fn update(&self, service: &Service) -> Answer {
        let body = json!({
            "service_id": "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01",
            "plan_id": service.plan_id(),
            "parameters": service.parameters,
        });
        let path = format!("/v2/service_instances/{}?accepts_incomplete=true", service.id());
        self.send(self.broker(Method::PATCH, &path).json(&body)).await.expect("the broker answers")
    }

    /// OSB DELETE.
    pub async fn deprovision(&self, service: &Service) -> Answer {
        let path = format!(
            "/v2/service_instances/{}?accepts_incomplete=true&service_id=7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01&plan_id=7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e11",
            service.id()
        );
        self.send(self.broker(Method::DELETE, &path)).await.expect("the broker answers")
    }

    /// OSB last_operation; `None` when the broker is away.
    pub async fn last_operation(&self, service: &Service) -> Option<Answer> {
        self.send(self.broker(Method::GET, &format!("/v2/service_instances/{}/last_operation", service.id())))
            .await
    }

    /// Waits for the end of the operation under way: its state and description; `gone` after a deletion.
    pub async fn ended(&self, service: &Service) -> (String, String) {
        let begun = Instant::now();
        loop {
            let answer = self.last_operation(service).await;
            let body = answer.as_ref().map(Answer::json).unwrap_or_default();
            match (answer.map(|answer| answer.status), body["state"].as_str()) {
                (Some(410), _) => return ("gone".into(), String::new()),
                (_, Some(state)) if state != "in progress" => {
                    let description = body["description"].as_str().unwrap_or_default();
                    return (state.to_owned(), description.to_owned());
                }
                _ => assert!(begun.elapsed() < DEADLINE, "no end of the operation: {body}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Provisions and waits until it is live.
    pub async fn live(&self, service: &Service) {
        let answer = self.provision(service).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!(self.ended(service).await.0, "succeeded");
    }

    /// Updates and waits until it is live.
    pub async fn change(&self, service: &Service) {
        let answer = self.update(service).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        let (state, description) = self.ended(service).await;
        assert_eq!(state, "succeeded", "{description}");
    }

    /// What an operator reads at this path of the control plane.
    pub async fn operators(&self, path: &str) -> Answer {
        let url = format!("{}{path}", self.stack.control_plane_url());
        self.send(self.client.get(url).bearer_auth("dev")).await.expect("the control plane answers")
    }

    /// The operators' view.
    pub async fn status(&self) -> Value {
        // As an operator, who sees everything.
        self.operators("/api/status").await.json()
    }

    /// A text from Envoy's admin interface.
    pub async fn envoy_admin(&self, path: &str) -> String {
        let url = format!("{}{path}", self.stack.admin_url());
        Answer::read(self.client.get(url).send().await.expect("Envoy's admin answers")).await.body
    }

    /// One of Envoy's counters; 0 when it was never used.
    pub async fn envoy_stat(&self, name: &str) -> u64 {
        let text = self.envoy_admin(&format!("/stats?filter=^{}$", name.replace('.', "\\."))).await;
        text.lines().find_map(|line| line.rsplit_once(": ")?.1.parse().ok()).unwrap_or(0)
    }

    /// One of our own metrics, with its labels: `gatehouse_ads_nacks_total{kind="virtual_hosts"}`.
    pub async fn control_plane_metric(&self, name: &str) -> u64 {
        let url = format!("{}/metrics", self.stack.control_plane_url());
        let text = Answer::read(self.client.get(url).send().await.expect("metrics")).await.body;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0)
    }

    /// The access log's records so far.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.stack.layout.access_log()).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The record of one request, once it is there.
    pub async fn logged(&self, path: &str) -> Value {
        eventually(&format!("a record of {path}"), || async {
            self.access_log().into_iter().find(|record| record["path"] == path)
        })
        .await
    }
}
