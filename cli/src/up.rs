//! `gatehouse up`: the whole edge on this machine, until Ctrl-C.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use lab::{Layout, NODE_ID, Ports, Stack, Transport, stack};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// State, logs and the fetched Envoy
    #[arg(long, env = "GATEHOUSE_DATA_DIR", default_value = ".gatehouse")]
    data_dir: PathBuf,
    /// Our other binaries; by default beside this one
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// The built Wasm modules; by default where cargo puts them
    #[arg(long)]
    wasm_dir: Option<PathBuf>,
    /// A folder of templates beside or in the place of the default ones
    #[arg(long)]
    templates: Option<PathBuf>,
    /// Added to every port, to run beside another one
    #[arg(long, default_value_t = 0)]
    port_offset: u16,
    /// Envoy's worker threads
    #[arg(long, default_value_t = 2)]
    concurrency: usize,
}

/// Between two looks whether everything still runs.
const WATCH: Duration = Duration::from_millis(500);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let progress = Progress::new();
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let begun = Instant::now();
    let mut stack = Stack::new(layout(&args, &progress).await?)?;
    tokio::select! {
        started = stack.start(|what| progress.say(what)) => {
            if let Err(error) = started {
                progress.finish();
                stack.stop().await;
                return Err(error.into());
            }
        }
        _ = interrupted.recv() => return stop(stack, &progress).await,
        _ = terminated.recv() => return stop(stack, &progress).await,
    }
    progress.finish();
    ready(&stack, begun.elapsed());
    loop {
        tokio::select! {
            _ = interrupted.recv() => return stop(stack, &progress).await,
            _ = terminated.recv() => return stop(stack, &progress).await,
            () = tokio::time::sleep(WATCH) => {
                if let Err(error) = stack.check() {
                    stack.stop().await;
                    return Err(error.into());
                }
            }
        }
    }
}

async fn layout(args: &Args, progress: &Progress) -> anyhow::Result<Layout> {
    std::fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("--data-dir: making {}", args.data_dir.display()))?;
    let data_dir = args.data_dir.canonicalize()?;
    let own = std::env::current_exe().context("finding our other binaries")?;
    let own_folder = own.parent().unwrap_or(Path::new("."));
    let bin_dir = args.bin_dir.clone().unwrap_or_else(|| own_folder.to_owned());
    let wasm_dir = args.wasm_dir.clone().unwrap_or_else(|| own_folder.join("../wasm32-wasip1/wasm"));
    let (envoy, access_log_module) =
        stack::prepare(&data_dir.join("tools"), &wasm_dir, |what| progress.say(what)).await?;
    let access_log_module = access_log_module.map(|module| module.canonicalize()).transpose()?;
    if access_log_module.is_none() {
        progress.say("no access-log module found: nothing will be logged");
    }
    let templates = args.templates.as_ref().map(|folder| folder.canonicalize()).transpose();
    Ok(Layout {
        bin_dir,
        data_dir,
        envoy,
        access_log_module,
        templates: templates.context("--templates")?,
        ports: moved(args.port_offset)?,
        concurrency: args.concurrency,
        transport: Transport::default(),
        node_id: NODE_ID.to_owned(),
        https: true,
        tls: None,
        authn_args: Vec::new(),
        ratelimit_args: Vec::new(),
        control_plane_args: Vec::new(),
        control_plane_env: Vec::new(),

        edge: serde_json::Value::Null,
        xds_balancer: None,
    })
}

fn moved(offset: u16) -> anyhow::Result<Ports> {
    let port = |port: u16| port.checked_add(offset).context("--port-offset: ports end at 65535");
    let Ports { http, https, envoy_admin, control_plane, xds, authn, authz, ratelimit, upstream } =
        Ports::default();
    Ok(Ports {
        http: port(http)?,
        https: port(https)?,
        envoy_admin: port(envoy_admin)?,
        control_plane: port(control_plane)?,
        xds: port(xds)?,
        authn: port(authn)?,
        authz: port(authz)?,
        ratelimit: port(ratelimit)?,
        upstream: port(upstream)?,
    })
}

async fn stop(stack: Stack, progress: &Progress) -> anyhow::Result<()> {
    progress.finish();
    say_plainly("draining");
    stack.stop().await;
    say_plainly("stopped; the state is kept");
    Ok(())
}

#[allow(clippy::print_stderr)]
fn say_plainly(what: &str) {
    eprintln!("{what}");
}

/// What to try next, ready to paste.
#[allow(clippy::print_stdout)]
fn ready(stack: &Stack, took: Duration) {
    let Layout { ports, data_dir, .. } = &stack.layout;
    let gatehouse = std::env::current_exe().map_or("gatehouse".into(), |own| own.display().to_string());
    let broker = format!("http://127.0.0.1:{}", ports.control_plane);
    let curl = format!(
        "curl -i --resolve hello.example.test:{0}:127.0.0.1 http://hello.example.test:{0}/",
        ports.http
    );
    println!("{} in {:.1} s", style("ready").green().bold(), took.as_secs_f64());
    println!(
        "
  Envoy            http://127.0.0.1:{}  https://127.0.0.1:{}  admin http://127.0.0.1:{}
  control plane    {broker}
  sample upstream  http://127.0.0.1:{}
  access log       {}

Try, in another terminal:

  alias gatehouse={gatehouse}
  export GATEHOUSE_BROKER={broker} GATEHOUSE_URL={broker} GATEHOUSE_DATA_DIR={}
  gatehouse apply examples/hello.yaml
  {curl}
  {curl} -H \"authorization: Bearer $(gatehouse token)\"
  gatehouse status
  tail -f {}

Ctrl-C drains and stops everything.",
        ports.http,
        ports.https,
        ports.envoy_admin,
        ports.upstream,
        stack.layout.access_log().display(),
        data_dir.display(),
        stack.layout.access_log().display(),
    );
}

/// A spinner at a terminal, lines elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn new() -> Self {
        let spinner =
            if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self(spinner)
    }

    fn say(&self, what: &str) {
        if self.0.is_hidden() {
            say_plainly(what);
        }
        self.0.set_message(what.to_owned());
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}
