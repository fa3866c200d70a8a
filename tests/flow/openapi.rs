//! The `OpenAPI` document against the broker that serves it: schemathesis asks everything that it describes, and much
//! that it does not.

use std::process::Stdio;

use serde_json::json;
use tests::{Lab, tool};
use tokio::process::Command;

const SCHEMATHESIS: &str = "schemathesis==4.32.5";

#[tokio::test]
async fn what_the_document_says_is_what_the_broker_does() {
    let tool = tool(SCHEMATHESIS).await;
    let lab = Lab::start().await;
    // What the document's examples speak of.
    lab.live(&lab.service("hello").with("/auth/any", json!([{"api_key": {}}]))).await;
    let output = Command::new("python3")
        .args(["-m", "schemathesis.cli", "run"])
        .arg(format!("{}/v2/openapi.json", lab.stack.control_plane_url()))
        .args(["--auth", "dev:dev", "--header", "X-Broker-API-Version: 2.17"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        // The same questions each time.
        .args(["--seed", "7", "--generation-deterministic", "--max-examples", "40", "--no-color"])
        .env("PYTHONPATH", &tool)
        // It keeps what it has learnt where it runs.
        .current_dir(lab.folder())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("python3 runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{text}");
    let asked =
        text.split(" generated,").next().and_then(|text| text.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(text.contains("Tested: 10") && asked > Some(500), "it asked everything: {text}");
    lab.stop().await;
}
