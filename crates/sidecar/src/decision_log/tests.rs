//! Which decisions are written, and how; what sidecars add is tested there.

use std::time::UNIX_EPOCH;

use api::authn::PolicyId;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest,
    attribute_context::{HttpRequest, Request},
};
use serde_json::{Value, json};

use super::*;
use crate::ext_authz::{Facts, Record};

#[derive(Serialize)]
struct More {
    sub: &'static str,
}

fn request(path: &str, id: &str) -> CheckRequest {
    let http = HttpRequest {
        method: "GET".into(),
        host: "hello.example.test".into(),
        path: path.into(),
        headers: [("x-request-id".to_owned(), id.to_owned())].into(),
        ..Default::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http), ..Default::default() }),
            context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
            ..Default::default()
        }),
    }
}

fn record() -> Record {
    Record::new("authz", &PolicyId { policy: "i-1".into(), rev: 3 })
}

fn denied() -> Decision {
    Decision::Deny { record: record(), status: 403, description: "no".into(), challenge: None }
}

fn allowed() -> Decision {
    Decision::Allow { record: record(), headers: Vec::new(), remove: Vec::new() }
}

fn told<'a>(facts: &'a Facts<'a>, decision: &'a Decision) -> Told<'a> {
    Told {
        by: "authz",
        facts,
        decision,
        result: "denied",
        is_refused_in_shadow: false,
        begun: UNIX_EPOCH,
        took: Duration::ZERO,
        of_call: None,
    }
}

fn text(path: &str) -> String {
    let (request, decision) = (request(path, "r-1"), denied());
    line(&told(&Facts::read(&request).unwrap(), &decision), More { sub: "alice" })
}

#[test]
fn a_line_tells_what_was_asked_and_what_became_of_it() {
    let expected = json!({
        "time": "1970-01-01T00:00:00Z", "id": "r-1", "by": "authz", "policy": "i-1", "rev": 3, "result": "denied",
        "status": 403, "reason": "no", "sub": "alice", "host": "hello.example.test", "path": "/a",
    });
    assert_eq!(serde_json::from_str::<Value>(&text("/a?token=secret#x")).unwrap(), expected);
}

#[test]
fn whatever_a_client_sends_stays_on_its_line_and_in_its_field() {
    let path = "/a\n{\"status\":200}\u{7f}\u{9b}31m\u{1b}[0m\"";
    let line = text(path);
    assert!(line.ends_with("}\n") && !line.trim_end().chars().any(char::is_control), "{line:?}");
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["path"], path);
    let long = serde_json::from_str::<Value>(&text(&"ä".repeat(3_000))).unwrap();
    assert_eq!(long["path"].as_str().unwrap().len(), MAX_TEXT_BYTES);
}

#[tokio::test]
async fn refusals_are_all_written_and_of_what_passes_the_same_share_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let counters = LogCounters::default();
    let logs: Vec<_> =
        [0.25, 0.0, 1.0].map(|sample| DecisionLog::open(path.to_str().unwrap(), sample).unwrap()).into();
    let ids = || (0..1_000).map(|at| format!("request-{at}"));
    let sampled = |log: &DecisionLog| ids().filter(|id| log.is_sampled(id)).count();
    assert!((200..300).contains(&sampled(&logs[0].0)), "{}", sampled(&logs[0].0));
    assert_eq!((sampled(&logs[1].0), sampled(&logs[2].0)), (0, 1_000));
    for at in 0..10 {
        let request = request("/", &format!("r-{at}"));
        let facts = Facts::read(&request).unwrap();
        for (decision, is_refused_in_shadow) in
            [(allowed(), false), (allowed(), true), (denied(), false), (fault(), false)]
        {
            let told = Told { is_refused_in_shadow, ..told(&facts, &decision) };
            logs[1].0.write(&told, &counters, || More { sub: "" });
        }
    }
    for (log, task) in logs {
        drop(log);
        task.await.unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!((text.lines().count(), counters.lines.get()), (30, 30));
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
}

fn fault() -> Decision {
    Decision::Fault { description: "x".into() }
}

#[test]
fn a_full_queue_drops_and_counts() {
    let (queue, _never_read) = mpsc::channel(1);
    let counters = LogCounters::default();
    let log = DecisionLog { queue, below: u64::MAX };
    let (request, decision) = (request("/", "r"), denied());
    for _ in 0..3 {
        log.write(&told(&Facts::read(&request).unwrap(), &decision), &counters, || More { sub: "" });
    }
    assert_eq!((counters.lines.get(), counters.dropped.get()), (1, 2));
}

#[test]
fn a_file_that_was_moved_away_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let mut target = Target::file(&path).unwrap();
    target.write("one\n").unwrap();
    fs::rename(&path, folder.path().join("old")).unwrap();
    if let Target::File { looked, .. } = &mut target {
        *looked -= LOOK_AGAIN;
    }
    target.write("two\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(folder.path().join("old")).unwrap(), "one\n");
}
