//! What nobody may read afterwards: line 46.

use std::fs;

use tests::{Answer, Lab, Raw};

use super::{edge, good, hello, lab, with_claim};

/// Everything that the processes of a lab have written by now.
fn written(lab: &Lab) -> Vec<(String, Vec<u8>)> {
    let (mut folders, mut files) = (vec![lab.folder().to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                files.push((path.display().to_string(), bytes));
            }
        }
    }
    files
}

/// Line 46: neither in a log, nor in an answer, nor on disk.
#[tokio::test]
async fn a_credential_is_written_nowhere_cve_2022_23469_cve_2026_41181() {
    let lab = lab(|_| ()).await;
    let service = hello(&lab);
    lab.live(&service).await;
    let (token, bad) = (good(), format!("{}x", good()));
    let secrets =
        ["gatehouse_0a_5ecretsecretsecret", "c2VjcmV0LXBhc3N3b3Jk", "5ecret-cookie", "5ecret-query"];
    let signature = |token: &str| token.rsplit_once('.').expect("a token").1.to_owned();
    let get = |target: &str| Raw::get(service.host(), target);
    let mut answers: Vec<Answer> = Vec::new();
    for request in [
        get("/docs").bearer(&token),
        get("/docs").bearer(&bad),
        get("/docs").header("x-api-key", secrets[0]),
        get("/docs").header("authorization", format!("Basic {}", secrets[1])),
        get("/docs").header("cookie", format!("sid={}", secrets[2])),
        get(&format!("/docs?access_token={}&token={}", secrets[3], secrets[3])),
        get("/docs").header("proxy-authorization", format!("Basic {}", secrets[1])),
    ] {
        answers.push(request.send(&lab).await);
    }
    get("/the-last-one").send(&lab).await;
    lab.logged("/the-last-one").await;
    let mut hidden: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
    hidden.extend([signature(&token), signature(&bad)]);
    for secret in &hidden {
        for (path, bytes) in written(&lab) {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{path} holds {secret}");
        }
        // The first one reaches the upstream, which says what it saw.
        assert!(
            answers[1..].iter().all(|answer| !answer.body.contains(secret.as_str())),
            "{secret} is in an answer"
        );
    }
    lab.stop().await;
}

/// Line 46: a word of a client stays one word of one record.
#[tokio::test]
async fn no_client_writes_lines_of_its_own_into_a_log_cve_2024_45808() {
    let edge = edge().await;
    let forged = "x\\n{\"path\":\"/forged\",\"status\":200}";
    let subject =
        with_claim("sub", serde_json::json!("root \"},{\"path\":\"/forged\u{2028}\" %0a \u{1f600}"));
    for (name, value) in [
        ("user-agent", forged),
        ("referer", "\u{1b}[2Jx"),
        ("user-agent", "\",\"path\":\"/forged\",\"x\":\""),
        ("x-request-id", "forged\",\"path\":\"/forged"),
        ("x-forwarded-for", "\"},{\"path\":\"/forged\"}"),
    ] {
        let seen = edge
            .send(edge.get("/docs/log?a=%0a{\"path\":\"/forged\"}").bearer(&subject).header(name, value))
            .await;
        assert!([200, 400].contains(&seen.status), "{name}: {} {}", seen.status, seen.body);
        assert_eq!(seen.upstream_saw("x-gatehouse-subject").len(), usize::from(seen.status == 200));
    }
    edge.send(edge.get("/docs/the-last-log").bearer(&good())).await;
    edge.lab.logged("/docs/the-last-log").await;
    let text = fs::read_to_string(edge.lab.stack.layout.access_log()).expect("a log");
    let (whole, _half) = text.rsplit_once('\n').expect("lines");
    for line in whole.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("each line is one record");
        assert_ne!(record["path"], "/forged", "{line}");
        assert!(!line.bytes().any(|byte| byte < b' '), "{line:?}");
    }
}
