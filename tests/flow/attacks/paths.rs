//! Paths that a check and an upstream could read differently: lines 11 to 17.

use serde_json::json;
use tests::{Answer, Raw};

use super::{Edge, edge, good, refused};

/// With a token that may read `/docs` and nothing else. Where the request gets through, no reading of what the upstream saw
/// leads to `/admin`, nor out of `/docs`.
async fn attempt(edge: &Edge, target: impl AsRef<[u8]>) -> Answer {
    let target = target.as_ref();
    let seen = edge.send(edge.get(target).bearer(&good())).await;
    let told = String::from_utf8_lossy(target).into_owned();
    if seen.status == 200 {
        let path = seen.json()["path"].as_str().unwrap_or_default().to_owned();
        assert!(read_carelessly(&path).starts_with("/docs"), "{told:?} is {path:?} to the upstream");
    } else {
        assert!([400, 401, 403, 404].contains(&seen.status), "{told:?}: {} {}", seen.status, seen.body);
        refused(&seen, seen.status, &told);
    }
    seen
}

/// As a server does that decodes twice, takes a backslash for a slash, drops parameters, and then resolves dots.
fn read_carelessly(path: &str) -> String {
    let mut path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
    for (code, plain) in [("%25", "%"), ("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("%3b", ";"), ("\\", "/")] {
        for _ in 0..2 {
            path = path.replace(code, plain).replace(&code.to_uppercase(), plain);
        }
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/")).to_lowercase()
}

/// Line 11.
#[tokio::test]
async fn two_slashes_are_no_authority_cve_2026_26205() {
    let edge = edge().await;
    assert_eq!(edge.send(edge.get("/docs/a").bearer(&good())).await.status, 200, "what it is compared with");
    for target in [
        "//admin",
        "//evil.test/docs",
        "///admin",
        "/docs//../admin",
        "//docs//..//admin",
        "/\\evil.test/admin",
    ] {
        attempt(&edge, target).await;
    }
    let merged = edge.send(edge.get("//docs///a").bearer(&good())).await;
    assert_eq!((merged.status, merged.json()["path"].clone()), (200, json!("/docs/a")), "{}", merged.body);
    for line in [
        "GET http://hello.example.test//admin HTTP/1.1",
        "GET http://hello.example.test@evil.test/docs HTTP/1.1",
        "GET admin HTTP/1.1",
        "GET *admin HTTP/1.1",
        "GET /docs /admin HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ] {
        let seen = edge.send(Raw::line(line).header("host", edge.hello.host()).bearer(&good())).await;
        assert!([400, 403, 404].contains(&seen.status), "{line}: {} {}", seen.status, seen.body);
        refused(&seen, seen.status, line);
    }
    // Two spaces are one; what the upstream gets has one.
    let seen =
        edge.send(Raw::line("GET  /docs HTTP/1.1").header("host", edge.hello.host()).bearer(&good())).await;
    assert_eq!((seen.status, seen.json()["path"].clone()), (200, json!("/docs")), "{}", seen.body);
}

/// Line 12, with CVE-2019-9901.
#[tokio::test]
async fn dot_segments_lead_nowhere_else_cve_2026_33494_cve_2026_42274() {
    let edge = edge().await;
    for target in [
        "/docs/../admin",
        "/docs/./../admin",
        "/docs/%2e%2e/admin",
        "/docs/%2E%2e/admin",
        "/docs/.%2e/admin",
        "/docs/%2e./admin",
        "/docs/..;/admin",
        "/docs/..;a=b/admin",
        "/docs/;/../admin",
        "/;x/docs/../admin",
        "/docs/..%3b/admin",
        "/docs/%252e%252e/admin",
        "/docs/%25%32%65%25%32%65/admin",
        "/docs/..%00/admin",
        "/docs/..%09/admin",
        "/docs/...//admin",
        "/docs/%c0%ae%c0%ae/admin",
        "/docs/%u002e%u002e/admin",
        "/docs/..\\admin",
        "/docs\\..\\admin",
        "/docs/%ef%bc%8e%ef%bc%8e/admin",
        "/docs/..",
        "/..",
        "/../admin",
        "/docs/..?/admin",
        "/docs/%2e%2e%2fadmin",
    ] {
        attempt(&edge, target).await;
    }
}

/// Line 13.
#[tokio::test]
async fn encoded_slashes_are_refused_cve_2021_29492_cve_2026_42272_cve_2025_66490() {
    let edge = edge().await;
    for target in [
        "/docs%2f..%2fadmin",
        "/docs%2F..%2Fadmin",
        "/docs%5c..%5cadmin",
        "/docs%5C..%5Cadmin",
        "/docs/%2fadmin",
        "/docs%2fa",
        "/%2fadmin",
        "/docs/%252fadmin",
        "/docs/..%252fadmin",
        "/docs/%25%32%46admin",
        "/docs/a%25",
        "/docs/a%",
        "/docs/a%2",
        "/docs/a%zz",
    ] {
        let seen = attempt(&edge, target).await;
        assert_eq!(seen.status, 400, "{target}: {}", seen.body);
    }
    // The case of a letter is the path's own.
    for target in
        ["/ADMIN", "/Admin", "/%61dmin", "/%41DMIN", "/adm%69n", "/admin/", "/admin?x", "/admin/../admin"]
    {
        attempt(&edge, target).await;
    }
}

/// Line 14.
#[tokio::test]
async fn a_fragment_hides_nothing_cve_2021_32779_cve_2026_41059_cve_2023_47106() {
    let edge = edge().await;
    for target in [
        "/admin#/docs",
        "/docs#/../admin",
        "/docs/../admin#",
        "/docs%23/../../admin",
        "#/docs",
        "/docs/#admin",
    ] {
        attempt(&edge, target).await;
        let anonymous = edge.send(edge.get(target)).await;
        assert!([400, 401].contains(&anonymous.status), "{target}: {}", anonymous.status);
    }
    for target in ["/admin#/healthz", "/admin#?/healthz", "/admin%23/healthz"] {
        let anonymous = edge.send(edge.get(target)).await;
        assert!([400, 401].contains(&anonymous.status), "{target}: {}", anonymous.status);
    }
}

/// Line 15, with CVE-2020-8595: what Envoy asks about holds the query too.
#[tokio::test]
async fn a_query_satisfies_no_rule_and_breaks_none_cve_2025_54576_cve_2026_32811() {
    let edge = edge().await;
    for target in [
        "/admin?/healthz",
        "/admin?=/healthz",
        "/admin?x=/../healthz",
        "/admin?/../../healthz",
        "/admin?x=1?/healthz",
        "/admin?%2fhealthz",
        "/admin%3f/healthz",
        "/?/healthz",
        "?/healthz",
        "/admin?x#/healthz",
    ] {
        let anonymous = edge.send(edge.get(target)).await;
        assert!([400, 401].contains(&anonymous.status), "{target}: {} {}", anonymous.status, anonymous.body);
        attempt(&edge, target).await;
    }
    for target in ["/docs?/admin", "/docs?x=/../admin", "/docs?x=%2f..%2fadmin;y#", "/healthz?/admin"] {
        let seen = edge.send(edge.get(target).bearer(&good())).await;
        assert!([200, 400].contains(&seen.status), "{target}: {} {}", seen.status, seen.body);
    }
    assert_eq!(
        edge.send(edge.get("/healthz?a=b/c;d")).await.status,
        200,
        "a query is the upstream's own affair"
    );
}

/// Line 16: nothing at this edge changes a path once it was decided about. What a sidecar would change is refused by Envoy
/// (`a_sidecar_that_would_rewrite_a_path_is_stopped`), and a service cannot order it.
#[tokio::test]
async fn nobody_orders_a_path_to_be_rewritten_cve_2026_40912_cve_2026_48020_cve_2026_65600() {
    let edge = edge().await;
    for field in ["rewrite", "strip_prefix", "prefix_rewrite", "regex_rewrite", "host_rewrite", "redirect"] {
        let service = edge.lab.service("rewriting").with(&format!("/routes/0/{field}"), json!("/"));
        let answer = edge.lab.provision(&service).await;
        assert!(answer.status == 400 && answer.body.contains(field), "{field}: {}", answer.body);
    }
    // What is decided about is what the upstream sees, byte by byte.
    for target in
        ["/docs/a+b", "/docs/a%20b", "/docs/%C3%A4", "/docs/a,b;c?d;e", "/docs/~a", "/docs/a:b@c!$&'()*"]
    {
        let seen = edge.send(edge.get(target).bearer(&good())).await;
        if seen.status == 200 {
            assert_eq!(seen.json()["path"], json!(target), "{}", seen.body);
        } else {
            refused(&seen, 400, target);
        }
    }
}

/// Line 17, with CVE-2019-9900.
#[tokio::test]
async fn a_nul_ends_neither_a_path_nor_a_header_cve_2025_47952() {
    let edge = edge().await;
    for target in [
        "/docs\0/../admin",
        "/admin\0/docs",
        "/docs%00/../admin",
        "/admin%00/docs",
        "/docs/%00",
        "/docs\u{7f}",
        "/docs/%0d%0aX:y",
        "/docs/%7f",
    ] {
        let seen = attempt(&edge, target).await;
        assert_eq!(seen.status, 400, "{target:?}: {}", seen.body);
    }
    for (name, value) in
        [("authorization", "Bearer \0x"), ("x-a", "b\0c"), ("x-a\0b", "c"), ("x-a", "b\u{1}c\0")]
    {
        let seen = edge.send(edge.get("/healthz").header(name, value)).await;
        assert!([400, 401].contains(&seen.status), "{name:?}: {} {}", seen.status, seen.body);
        refused(&seen, seen.status, value);
    }
    // A line that ends early begins no header of ours.
    for value in [
        "b\nx-gatehouse-subject: mallory",
        "b\rx-gatehouse-subject: mallory",
        "b\r\n x-gatehouse-subject: mallory",
    ] {
        let seen = edge.send(edge.get("/docs").bearer(&good()).header("x-a", value)).await;
        let told = seen.upstream_saw("x-gatehouse-subject");
        assert!(told.is_empty() || told == ["alice"], "{value:?}: {}", seen.body);
    }
}
