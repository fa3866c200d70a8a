//! `cargo xtask bench render`: the same template over the same context, by the control plane's own way from text to
//! checked resources, and by the predecessor's calls (Jinja2, PyYAML's `safe_load`, JSON), side by side.

use std::{path::Path, process::Command, sync::Arc};

use anyhow::{Context as _, ensure};
use api::ResourceType;
use mimalloc::MiMalloc;
use model::{context::Values, node::Selection};
use resources::{Bootstrap, Table};
use serde_json::{Map, Value, json};
use templates::{Scope, Templates};
use tests::{
    figures::{median, print, rounded},
    tool,
};

/// As the predecessor's wheel asks for them.
const PYTHON: [&str; 3] = ["jinja2==3.1.6", "pyyaml==6.0.3", "orjson==3.11.4"];
const SIZES: [usize; 3] = [10, 1_000, 10_000];
/// Medians of this many.
const REPEATS: usize = 5;

/// One cluster for each instance, with TLS: about 560 bytes of JSON, as in the predecessor's own measurements.
const TEMPLATE: &str = r#"resources:
{% for instance in instances %}
- name: {{ instance.name }}
  type: STRICT_DNS
  connect_timeout: 1s
  dns_lookup_family: V4_ONLY
  lb_policy: LEAST_REQUEST
  load_assignment:
    cluster_name: {{ instance.name }}
    endpoints:
{%- for upstream in instance.upstreams %}
    - lb_endpoints:
      - endpoint:
          address: {socket_address: {address: {{ upstream.host }}, port_value: {{ upstream.port }}}}
{%- endfor %}
  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: {{ instance.upstreams[0].host }}
{% endfor %}
"#;

/// Renders as often as it is told, and prints the CPU seconds of each.
const SCRIPT: &str = r#"
import json, sys, time
import jinja2, yaml, orjson
environment = jinja2.Environment(autoescape=True)
template = environment.from_string(open(sys.argv[1]).read())
context = json.load(open(sys.argv[2]))
for _ in range(int(sys.argv[3])):
    begun = time.process_time()
    content = yaml.safe_load(template.render(**context))
    orjson.dumps({"version_info": "0", "resources": content["resources"]})
    print(time.process_time() - begun, flush=True)
"#;

fn context(size: usize) -> Value {
    let instance = |at: usize| json!({"name": format!("service-{at:05}"), "upstreams": [{"host": format!("s{at}.example.test"), "port": 443}]});
    json!({ "instances": (0..size).map(instance).collect::<Vec<_>>() })
}

/// The control plane's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut paths = Vec::new();
    for package in PYTHON {
        paths.push(tool(package).await);
    }
    let folder = tempfile::tempdir()?;
    let mut figures = Map::new();
    for size in SIZES {
        let context = context(size);
        let repeats = if size >= 10_000 { 1 } else { REPEATS };
        let python = median(by_python(folder.path(), &paths, &context, repeats)?);
        let whole = median(by_us(folder.path(), &context, REPEATS, How::Whole)?);
        let each = median(by_us(folder.path(), &context, REPEATS, How::ItemByItem)?);
        figures.insert(format!("python_ms_{size}"), rounded(python * 1e3, 2));
        figures.insert(format!("ours_ms_{size}"), rounded(whole * 1e3, 2));
        figures.insert(format!("ours_item_by_item_ms_{size}"), rounded(each * 1e3, 2));
        figures.insert(format!("ratio_python_to_ours_{size}"), rounded(python / whole, 2));
    }
    figures.insert(
        "ratio_python_to_ours".into(),
        figures[&format!("ratio_python_to_ours_{}", SIZES[2])].clone(),
    );
    print("CPU from context to resources, Python's way and ours", &Value::Object(figures));
    Ok(())
}

/// How the items reach the template.
#[derive(Clone, Copy, PartialEq)]
enum How {
    /// One template that goes through all of them, like the predecessor's.
    Whole,
    /// One render for each, as operators are told to write it: a change costs one of them.
    ItemByItem,
}

fn by_python(
    folder: &Path,
    paths: &[std::path::PathBuf],
    context: &Value,
    repeats: usize,
) -> anyhow::Result<Vec<f64>> {
    let (template, data) = (folder.join("template.yaml"), folder.join("context.json"));
    std::fs::write(&template, TEMPLATE)?;
    std::fs::write(&data, context.to_string())?;
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(&template).arg(&data).arg(repeats.to_string());
    let output = python.env("PYTHONPATH", paths.join(":")).output().context("running Python")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| Ok(line.parse()?)).collect()
}

fn by_us(folder: &Path, context: &Value, repeats: usize, how: How) -> anyhow::Result<Vec<f64>> {
    let own = folder.join(if how == How::Whole { "whole" } else { "items" });
    std::fs::create_dir_all(&own)?;
    let text = match how {
        How::Whole => {
            format!("{{# kind: clusters #}}\n{}", TEMPLATE.replace("in instances", "in context.instances"))
        }
        How::ItemByItem => format!(
            "{{# {{kind: clusters, for_each: context.instances}} #}}\n{}",
            TEMPLATE
                .replace("{% for instance in instances %}\n", "")
                .replace("{% endfor %}\n", "")
                .replace("instance.", "item.")
        ),
    };
    std::fs::write(own.join("template.yaml"), text)?;
    let templates = Templates::load_only(&own)?;
    let values: Values = [("instances".to_owned(), Arc::new(context["instances"].clone()))].into();
    let (plain, bootstrap) = (Selection::default(), Bootstrap::default());
    let mut took = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let begun = cpu_secs();
        let scope = Scope::new(&json!({"rest": {}}), &values);
        let documents = match how {
            How::Whole => templates.render_edge(&plain, &scope)?,
            How::ItemByItem => {
                let mut documents = Vec::new();
                for item in templates::items("instances", "name", &values)?.values() {
                    documents.extend(templates.render_item(&plain, item, &scope)?);
                }
                documents
            }
        };
        let mut resources = Vec::new();
        for document in &documents {
            resources.extend(resources::decode(document, &bootstrap)?.into_iter().map(Arc::new));
        }
        let table: Table = resources.into_iter().collect();
        // Checked, hashed and encoded already; the predecessor's JSON on top.
        let response = table.response(ResourceType::Cluster);

        took.push(cpu_secs() - begun);
        let count = context["instances"].as_array().map_or(0, Vec::len);
        ensure!(table.resources().count() == count && response.len() > count * 100, "all of them");
    }
    Ok(took)
}

/// Of this process, all of whose work is on one thread.
fn cpu_secs() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss)]
    let secs = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    secs
}
