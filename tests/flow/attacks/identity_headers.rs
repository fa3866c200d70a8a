//! Headers that say who somebody is, where from, or where to: lines 1 to 10.

use serde_json::json;
use tests::Raw;

use super::{edge, good, refused};

/// Line 1, envoy #43310: in any case, twice, with a good token, and where nobody needs one.
#[tokio::test]
async fn a_client_that_names_itself_is_not_believed() {
    let edge = edge().await;
    for (target, token) in [("/docs", good()), ("/healthz", String::new())] {
        let request = edge.get(target).bearer(&token);
        let request = request
            .header("x-gatehouse-subject", "mallory")
            .header("X-Gatehouse-Subject", "mallory")
            .header("X-GATEHOUSE-SCOPES", "admin")
            .header("x-gatehouse-", "mallory")
            .header("x-gatehouse-groups", "root")
            .header("x-gatehouse-tenant", "mallory");
        let seen = edge.send(request).await;
        assert_eq!(seen.status, 200, "{}", seen.body);
        for told in ["mallory", "root", "\"admin\""] {
            assert!(!seen.body.contains(told), "{target}: {}", seen.body);
        }
        let subject = if token.is_empty() { vec![] } else { vec!["alice"] };
        assert_eq!(seen.upstream_saw("x-gatehouse-subject"), subject, "{target}");
    }
}

/// Line 2, GHSA-x677-9fxg-v5c5: to many frameworks `X_Gatehouse_Subject` is the same header.
#[tokio::test]
async fn a_name_with_underscores_is_refused_cve_2025_64484() {
    let edge = edge().await;
    for name in ["x_gatehouse_subject", "X_Gatehouse-Subject", "x-gatehouse_subject", "x_forwarded_user"] {
        let seen = edge.send(edge.get("/docs").bearer(&good()).header(name, "mallory")).await;
        refused(&seen, 400, name);
    }
}

/// Line 3.
#[tokio::test]
async fn an_identity_in_an_odd_spelling_is_not_believed_cve_2026_33433() {
    let edge = edge().await;
    for name in ["x-GaTeHoUsE-sUbJeCt", "X-GATEHOUSE-SUBJECT", "x-gatehouse-Subject"] {
        let seen = edge.send(edge.get("/docs").bearer(&good()).header(name, "mallory")).await;
        assert_eq!(seen.upstream_saw("x-gatehouse-subject"), ["alice"], "{name}");
        assert!(!seen.body.contains("mallory"), "{name}: {}", seen.body);
    }
    for name in
        ["x-gatehouse-subject ", " x-gatehouse-subject", "x-gatehouse-subject\t", "x-gatehouse-s\u{fc}bject"]
    {
        let seen = edge.send(edge.get("/docs").bearer(&good()).header(name, "mallory")).await;
        assert!(!seen.body.contains("mallory") && seen.status != 500, "{name:?}: {}", seen.body);
    }
}

/// Line 4: a check that sees the first, and an upstream that takes the last.
#[tokio::test]
async fn one_of_several_values_is_not_picked_cve_2021_32777_cve_2026_26308_cve_2026_31838() {
    let edge = edge().await;
    let (good, bearer) = (good(), format!("Bearer {}", good()));
    for (attack, values) in [
        ("a good one first", vec![bearer.as_str(), "Bearer x"]),
        ("a good one last", vec!["Bearer x", &bearer]),
        ("the same twice", vec![&bearer, &bearer]),
        ("another scheme beside it", vec![&bearer, "Basic eDp5"]),
        ("in one line", vec![&format!("{bearer}, Bearer x")]),
        ("in one line, the other way", vec![&format!("Bearer x,{bearer}")]),
    ] {
        let request =
            values.iter().fold(edge.get("/docs"), |request, value| request.header("Authorization", value));
        let seen = edge.send(request).await;
        assert!([400, 401].contains(&seen.status), "{attack}: {} {}", seen.status, seen.body);
        refused(&seen, seen.status, attack);
    }
    // Envoy makes one of an empty one and another; then there is one for the upstream too.
    let seen =
        edge.send(edge.get("/docs").header("authorization", "").header("authorization", &bearer)).await;
    assert_eq!((seen.status, seen.upstream_saw("authorization")), (200, vec![bearer]), "{}", seen.body);
    let twice = edge.get("/docs").header("x-api-key", "gatehouse_0a_x").header("X-Api-Key", "gatehouse_0a_y");
    refused(&edge.send(twice).await, 400, "two API keys");
    let session = Raw::get(edge.session.host(), "/");
    let twice = session.clone().header("cookie", format!("sid={good}")).header("cookie", "sid=x");
    refused(&edge.send(twice).await, 400, "two cookies of one name in two headers");
    let twice = session.header("cookie", format!("sid={good}; sid={good}"));
    refused(&edge.send(twice).await, 400, "two cookies of one name in one header");
}

/// Line 5, GHSA-w9mr-28mw-j8hg and GHSA-92mv-8f8w-wq52: what `Connection` lists is for the next hop, and is taken off by it.
#[tokio::test]
async fn connection_takes_no_header_of_ours_off_cve_2024_45410() {
    let edge = edge().await;
    for listed in [
        "x-gatehouse-subject",
        "X-Gatehouse-Subject, x-gatehouse-method",
        "keep-alive, x-gatehouse-scopes, x-gatehouse-subject",
        "x-forwarded-for, x-forwarded-proto, x-request-id",
    ] {
        let request = edge.get("/docs").bearer(&good()).header("Connection", listed);
        let seen = edge.send(request).await;
        // Some such lists are refused as a whole, which is as good.
        if seen.status == 200 {
            for name in ["x-gatehouse-subject", "x-gatehouse-method", "x-gatehouse-scopes"] {
                assert_eq!(seen.upstream_saw(name).len(), 1, "{listed}: {}", seen.body);
            }
            assert_eq!(seen.upstream_saw("x-forwarded-proto"), ["http"], "{listed}");
            assert_eq!(seen.upstream_saw("connection"), [""; 0], "{listed}: the upstream would take it off");
        } else {
            refused(&seen, 400, listed);
        }
    }
    let without = edge.get("/docs").header("Connection", "authorization").bearer(&good());
    let seen = edge.send(without).await;
    assert!([200, 400, 401].contains(&seen.status), "{}", seen.body);
    let hidden = edge.get("/docs").header("Connection", "authorization").bearer("x");
    let seen = edge.send(hidden).await;
    assert!([400, 401].contains(&seen.status), "a bad token is not hidden: {}", seen.body);
}

/// Line 6: the policy goes by the path that Envoy routes, and the upstream sees no other one either.
#[tokio::test]
async fn no_header_says_what_path_is_meant_cve_2026_40575_cve_2026_35051_cve_2026_39858() {
    let edge = edge().await;
    for name in [
        "x-original-url",
        "X-Original-URI",
        "x-original-path",
        "x-rewrite-url",
        "x-forwarded-uri",
        "X-Forwarded-Path",
        "x-forwarded-prefix",
        "x-forwarded-method",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-method",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-scheme",
        "forwarded",
    ] {
        // To what is open for everybody, on the way to what is not.
        let opens = edge.send(edge.get("/admin").header(name, "/healthz")).await;
        refused(&opens, 401, name);
        let seen = edge.send(edge.get("/healthz").header(name, "/admin")).await;
        assert_eq!((seen.status, seen.body.contains("/admin")), (200, false), "{name}: {}", seen.body);
    }
}

/// Line 7.
#[tokio::test]
async fn envoys_own_headers_from_outside_change_nothing_cve_2023_27487_cve_2024_45806() {
    let edge = edge().await;
    for (name, value) in [
        ("x-envoy-original-path", "/admin"),
        ("x-envoy-original-host", "evil.test"),
        ("x-envoy-external-address", "10.0.0.1"),
        ("x-envoy-internal", "true"),
        ("x-envoy-peer-metadata", "mallory"),
        ("x-envoy-downstream-service-cluster", "mallory"),
        ("x-envoy-downstream-service-node", "mallory"),
        ("x-envoy-decorator-operation", "mallory"),
        ("x-envoy-upstream-alt-stat-name", "mallory"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "1000"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-force-trace", "true"),
        ("x-envoy-ip-tags", "mallory"),
        ("x-envoy-attempt-count", "7"),
    ] {
        let seen = edge.send(edge.get("/docs").bearer(&good()).header(name, value)).await;
        assert_eq!(seen.status, 200, "{name}: {}", seen.body);
        let told = seen.upstream_saw(name);
        assert!(!told.contains(&value.to_owned()), "{name} has reached the upstream: {}", seen.body);
    }
}

/// Line 8: scheme and address are those of the connection.
#[tokio::test]
async fn no_header_says_which_scheme_or_address_a_client_has_cve_2026_33495_cve_2026_54764_cve_2026_57210() {
    let edge = edge().await;
    let forged = edge.get("/docs").bearer(&good()).header("x-forwarded-proto", "https");
    let seen = edge.send(forged.header("x-real-ip", "10.9.9.9").header("true-client-ip", "10.9.9.9")).await;
    assert_eq!(seen.upstream_saw("x-forwarded-proto"), ["http"]);
    assert!(!seen.body.contains("10.9.9.9"), "{}", seen.body);
    // A counter for each address: who makes addresses up has still one.
    let mut statuses = Vec::new();
    for at in 0..6 {
        let request = Raw::get(edge.limited.host(), "/").header("x-forwarded-for", format!("203.0.113.{at}"));
        let request = request.header("x-real-ip", format!("203.0.113.{at}"));
        statuses.push(edge.send(request).await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 2, "{statuses:?}");
    assert!(statuses[2..].iter().all(|status| *status == 429), "{statuses:?}");
}

/// Line 9.
#[tokio::test]
async fn a_host_that_is_spelled_otherwise_has_the_same_policy_cve_2026_42273() {
    let edge = edge().await;
    for host in [
        "HELLO.example.test",
        "hello.example.test.",
        "hello.example.test:80",
        "hello.example.test:443",
        "hello.example.test.:8443",
        "Hello.Example.TEST.",
    ] {
        let anonymous = edge.send(Raw::get(host, "/docs")).await;
        refused(&anonymous, 401, host);
        let seen = edge.send(Raw::get(host, "/docs").bearer(&good())).await;
        assert_eq!(seen.status, 200, "{host}: {}", seen.body);
    }
    // Neither a service nor an error of ours: nobody's.
    for host in [
        "hello.example.test..",
        "hello.example.test@evil.test",
        "evil.test@hello.example.test",
        "hello.example.test,other.example.test",
        "hello.example.test/docs",
        "hello.example.test:x",
        "hello.example.test\\@evil.test",
        "[::1]",
        "hello.example.test#",
        "hello%2eexample.test",
        "",
    ] {
        let seen = edge.send(Raw::get(host, "/docs").bearer(&good())).await;
        assert!([400, 404].contains(&seen.status), "{host}: {} {}", seen.status, seen.body);
    }
    let twice = Raw::get(edge.hello.host(), "/docs").header("Host", edge.other.host()).bearer(&good());
    let seen = edge.send(twice).await;
    assert!([400, 404].contains(&seen.status), "two hosts: {} {}", seen.status, seen.body);
    // The URI's host counts (RFC 9112 section 3.2.2), for the route and for the upstream.
    let absolute = format!("GET http://{}/docs HTTP/1.1", edge.hello.host());
    let seen = edge.send(Raw::line(absolute).header("host", edge.other.host()).bearer(&good())).await;
    assert_eq!(
        (seen.status, seen.upstream_saw("host")),
        (200, vec![edge.hello.host().to_owned()]),
        "{}",
        seen.body
    );
    let other = Raw::get(edge.other.host(), "/docs").bearer(&good());
    refused(&edge.send(other).await, 401, "a token for another service");
}

/// Line 10.
#[tokio::test]
async fn a_health_checks_user_agent_opens_nothing_cve_2026_34457() {
    let edge = edge().await;
    for agent in [
        "ELB-HealthChecker/2.0",
        "GoogleHC/1.0",
        "kube-probe/1.31",
        "Envoy/HC",
        "Amazon-Route53-Health-Check-Service",
    ] {
        let seen = edge
            .send(edge.get("/docs").header("user-agent", agent).header("x-envoy-health-check", "1"))
            .await;
        refused(&seen, 401, agent);
    }
    // What is open is a list of paths, and nothing beside them.
    assert_eq!(edge.send(edge.get("/healthz")).await.json()["path"], json!("/healthz"));
    for path in ["/healthzz", "/health", "/HEALTHZ", "/ping", "/docs/healthz"] {
        refused(&edge.send(edge.get(path)).await, 401, path);
    }
}
