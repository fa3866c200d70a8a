//! A client of the Open Service Broker API, for people: it waits, and shows how far the work is.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// Where the broker is, and who asks.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// The broker's address
    #[arg(long, env = "GATEHOUSE_BROKER", default_value = "http://127.0.0.1:8080")]
    broker: String,
    /// user:password of a platform; with --token its name is enough
    #[arg(long, env = "GATEHOUSE_BROKER_CREDENTIALS", default_value = "dev:dev", hide_env_values = true)]
    credentials: String,
    /// A token that the platform signs in with, such as the build server's own, in the place of the password
    #[arg(long, env = "GATEHOUSE_BROKER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Whose service it is; the same name of another tenant is another service
    #[arg(long, env = "GATEHOUSE_TENANT", default_value = "default")]
    tenant: String,
}

/// A connection to the broker.
pub(crate) struct Broker {
    client: reqwest::Client,
    target: Target,
    user: String,
    password: String,
}

/// Of the catalog.
pub(crate) struct Plan {
    pub(crate) service_id: String,
    pub(crate) plan_id: String,
}

/// How an operation ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Succeeded,
    Gone,
    Failed(String),
}

const API_VERSION: &str = "2.17";
/// Everything here takes time.
const ASYNC: [(&str, &str); 1] = [("accepts_incomplete", "true")];
/// A broker that takes longer is as good as away.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The broker is near, and its answer is a row.
const POLL: Duration = Duration::from_millis(100);
/// The namespace of instance ids: UUIDv5 of platform, tenant and service.
const NAMESPACE: Uuid = Uuid::from_u128(0x4b0f_3f0e_7a53_5cb0_9d0a_6a1e_0c7e_57aa);

impl Broker {
    pub(crate) fn connect(target: Target) -> anyhow::Result<Self> {
        let (user, password) = match (target.credentials.split_once(':'), &target.token) {
            (Some((user, password)), _) => (user.to_owned(), password.to_owned()),
            (None, Some(_)) => (target.credentials.clone(), String::new()),
            (None, None) => bail!("--credentials: user:password, without a colon in the user"),
        };
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { client, target, user, password })
    }

    /// The same name, tenant and platform are the same instance, on every machine.
    pub(crate) fn instance_id(&self, service: &str) -> String {
        let name = format!("{}/{}/{service}", self.user, self.target.tenant);
        Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request =
            self.client.request(method, format!("{}{path}", self.target.broker.trim_end_matches('/')));
        let request = match &self.target.token {
            Some(token) => request.bearer_auth(token),
            None => request.basic_auth(&self.user, Some(&self.password)),
        };
        request.header("x-broker-api-version", API_VERSION)
    }

    /// Sends, and reads status and JSON.
    async fn send(&self, request: RequestBuilder) -> anyhow::Result<(StatusCode, Value)> {
        let response = request.send().await.with_context(|| {
            format!(
                "no broker at {}; is `cargo xtask up` running? (--broker chooses another)",
                self.target.broker
            )
        })?;
        let status = response.status();
        let body = response.json().await.unwrap_or(Value::Null);
        Ok((status, body))
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        match self.send(self.request(Method::GET, path)).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => bail!("{path}: {status}: {}", description(&body)),
        }
    }

    /// The ids of a plan, by its name.
    pub(crate) async fn plan(&self, name: &str) -> anyhow::Result<Plan> {
        let catalog = self.get("/v2/catalog").await?;
        let service = &catalog["services"][0];
        let plans = service["plans"].as_array().context("the catalog has no plans")?;
        let plan = plans.iter().find(|plan| plan["name"] == name);
        let known = || plans.iter().filter_map(|plan| plan["name"].as_str()).collect::<Vec<_>>().join(", ");
        let plan = plan.with_context(|| format!("plan: one of {}, got {name:?}", known()))?;
        let text =
            |value: &Value| value.as_str().map(str::to_owned).context("the catalog has a plan without an id");
        Ok(Plan { service_id: text(&service["id"])?, plan_id: text(&plan["id"])? })
    }

    /// Where a service instance is.
    pub(crate) fn path(id: &str) -> String {
        format!("/v2/service_instances/{id}")
    }

    /// Where a binding of it is.
    pub(crate) fn binding_path(id: &str, binding: &str) -> String {
        format!("/v2/service_instances/{id}/service_bindings/{binding}")
    }

    /// Provisions, or updates what is there already. `None`: nothing had to be done.
    pub(crate) async fn apply(
        &self,
        id: &str,
        plan: &Plan,
        parameters: &Value,
    ) -> anyhow::Result<Option<String>> {
        let mut body = json!({
            "service_id": plan.service_id,
            "plan_id": plan.plan_id,
            "organization_guid": self.target.tenant,
            "space_guid": self.target.tenant,
            "parameters": parameters,
        });
        let (status, answer) = self.put(&Self::path(id), &body).await?;
        if status != StatusCode::CONFLICT {
            return begun(status, &answer);
        }
        if let Some(fields) = body.as_object_mut() {
            fields.remove("organization_guid");
            fields.remove("space_guid");
        }
        let change = self.request(Method::PATCH, &Self::path(id)).query(&ASYNC).json(&body);
        let (status, answer) = self.send(change).await?;
        begun(status, &answer)
    }

    /// Makes what is to be at this path. `None`: it is there already.
    pub(crate) async fn order(&self, path: &str, body: &Value) -> anyhow::Result<Option<String>> {
        let (status, answer) = self.put(path, body).await?;
        begun(status, &answer)
    }

    async fn put(&self, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        self.send(self.request(Method::PUT, path).query(&ASYNC).json(body)).await
    }

    /// The newest operation. `None`: there is no such service.
    pub(crate) async fn last_operation(&self, id: &str) -> anyhow::Result<Option<Value>> {
        let path = format!("{}/last_operation", Self::path(id));
        match self.send(self.request(Method::GET, &path)).await? {
            (StatusCode::OK, answer) => Ok(Some(answer)),
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => Ok(None),
            (status, answer) => bail!("last_operation: {status}: {}", description(&answer)),
        }
    }

    /// What is ordered. `None`: nothing, or it is being made.
    pub(crate) async fn instance(&self, id: &str) -> anyhow::Result<Option<Value>> {
        match self.send(self.request(Method::GET, &Self::path(id))).await? {
            (StatusCode::OK, answer) => Ok(Some(answer)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, answer) => bail!("{status}: {}", description(&answer)),
        }
    }

    /// Takes away what is at this path. `None`: there is nothing.
    pub(crate) async fn withdraw(&self, path: &str, plan: &Plan) -> anyhow::Result<Option<String>> {
        let ids = [("service_id", &plan.service_id), ("plan_id", &plan.plan_id)];
        let request = self.request(Method::DELETE, path).query(&ASYNC).query(&ids);
        let (status, answer) = self.send(request).await?;
        if status == StatusCode::GONE { Ok(None) } else { begun(status, &answer) }
    }

    /// Polls until the operation upon what is at this path has ended, and shows each step when it is done.
    pub(crate) async fn wait(&self, path: &str, operation: &str, quiet: bool) -> anyhow::Result<Ended> {
        let path = format!("{path}/last_operation");
        let mut progress = Progress::new(quiet);
        loop {
            let request = self.request(Method::GET, &path).query(&[("operation", operation)]);
            let (status, answer) = self.send(request).await?;
            match status {
                StatusCode::GONE => {
                    progress.finish();
                    return Ok(Ended::Gone);
                }
                StatusCode::OK => {}
                _ => bail!("last_operation: {status}: {}", description(&answer)),
            }
            progress.show(&answer);
            match answer["state"].as_str() {
                Some("succeeded") => {
                    progress.finish();
                    return Ok(Ended::Succeeded);
                }
                Some("failed") => {
                    progress.finish();
                    return Ok(Ended::Failed(description(&answer)));
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// 202 with an operation, 200 for nothing to do, or a refusal.
fn begun(status: StatusCode, answer: &Value) -> anyhow::Result<Option<String>> {
    match status {
        StatusCode::OK | StatusCode::CREATED => Ok(None),
        StatusCode::ACCEPTED => {
            let operation =
                answer["operation"].as_str().context("the broker accepted without an operation")?;
            Ok(Some(operation.to_owned()))
        }
        _ => bail!("the broker refused ({status}): {}", description(answer)),
    }
}

fn description(answer: &Value) -> String {
    answer["description"].as_str().unwrap_or("no description").to_owned()
}

/// One line for each step that is done, and a spinner for the one that is not.
struct Progress {
    done: usize,
    quiet: bool,
    spinner: ProgressBar,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        let spinner = if std::io::stderr().is_terminal() && !quiet {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(POLL);
        Self { done: 0, quiet, spinner }
    }

    #[allow(clippy::print_stderr)]
    fn show(&mut self, answer: &Value) {
        let steps = answer["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        let done = steps.iter().take_while(|step| step["state"] == "done");
        for step in done.skip(self.done) {
            let detail = step["detail"].as_str().unwrap_or_default();
            if !self.quiet {
                self.spinner.suspend(|| eprintln!("  ✓ {detail}"));
            }
            self.done += 1;
        }
        self.spinner.set_message(description(answer));
    }

    fn finish(&self) {
        self.spinner.finish_and_clear();
    }
}
