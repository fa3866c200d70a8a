//! Platforms, tenants, quotas, and the log of what they did.

use model::{
    Host, InstanceId,
    audit::{Event, Query},
    instance::OperationKind,
    platforms::Owner,
};
use store::{Claim, Claimant};

use super::*;

/// Two platforms that share a domain; tenants of `dev` have one instance and two hosts.
fn platforms() -> Platforms {
    let secrets = [SecretHash::of("old", [1; 32]).to_string(), SecretHash::of("secret", [2; 32]).to_string()];
    serde_json::from_value(json!({
        "platforms": {
            "dev": {"secrets": secrets, "quota": {"instances": 1, "hosts": 2}, "hosts": [
                {"name": "*.example.test"}, {"name": "*.a.example.test", "tenants": ["a"]},
            ]},
            "other": {"secrets": secrets, "tenant": "originating_identity.username", "hosts": [{"name": "*.example.test"}]},
        }
    }))
    .unwrap()
}

fn bounded() -> Bench {
    bench_of(platforms())
}

fn uri(id: &str) -> String {
    format!("/v2/service_instances/{id}?accepts_incomplete=true")
}

fn of_tenant(tenant: &str, hosts: &[&str]) -> Value {
    let mut body = body();
    body["organization_guid"] = json!(tenant);
    body["parameters"]["hosts"] = json!(hosts);
    body
}

#[track_caller]
fn told((status, answer): &(StatusCode, Value), expected: StatusCode, words: &str) {
    assert_eq!(*status, expected, "{answer}");
    let description = answer["description"].as_str().unwrap_or_default();
    assert!(description.contains(words), "{description:?} does not say {words:?}");
}

async fn status_with(bench: &Bench, credentials: &str) -> StatusCode {
    let mut request = request(Method::GET, "/v2/catalog", &Value::Null);
    let encoded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, credentials);
    request.headers_mut().insert("authorization", format!("Basic {encoded}").parse().unwrap());
    bench.raw(request).await.status()
}

/// As a build server signs in: with a token of its own, whose claims say which platform and tenant it is.
#[tokio::test]
async fn a_token_of_a_platforms_issuer_is_as_good_as_a_secret() {
    let bench = bench_of(
        serde_json::from_value(json!({
            "platforms": {"ci": {
                "tokens": {"issuer": ISSUER, "audience": "gatehouse", "claims": {"owner": "acme"}},
                "tenant": "token.repository", "hosts": [{"name": "*.example.test", "tenants": ["acme/shop"]}],
            }},
        }))
        .unwrap(),
    );
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let claims = json!({
        "iss": ISSUER, "sub": "repo:acme/shop", "aud": "gatehouse", "exp": now + 60,
        "owner": "acme", "repository": "acme/shop",
    });
    let ask = async |change: Value| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let token = jwt::testing::token(&jwt::testing::header(), &claims);
        let mut request = request(Method::PUT, PUT, &body());
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        bench.raw(request).await.status().as_u16()
    };
    for (change, status) in [
        (json!({"owner": "mallory"}), 401),
        (json!({"owner": ["acme"]}), 401),
        (json!({"aud": "other"}), 401),
        (json!({"iss": "https://evil.test/"}), 401),
        (json!({"exp": now - 60}), 401),
        (json!({"repository": "acme/other"}), 400),
        (json!({"repository": 7}), 400),
        (json!({}), 202),
    ] {
        assert_eq!(ask(change.clone()).await, status, "{change}");
    }
    // Another repository of the same platform has nothing to do with it.
    let as_other = async |method: Method, uri: String, body: Value| {
        let mut claims = claims.clone();
        claims["repository"] = json!("acme/other");
        let token = jwt::testing::token(&jwt::testing::header(), &claims);
        let mut request = request(method, &uri, &body);
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        bench.raw(request).await.status().as_u16()
    };
    let one = "/v2/service_instances/i-1";
    let binding = format!("{one}/service_bindings/b?accepts_incomplete=true");
    let ids = json!({"service_id": SERVICE_ID, "plan_id": STANDARD_PLAN_ID});
    for (method, uri, body, status) in [
        (Method::GET, one.to_owned(), Value::Null, 404),
        (Method::GET, format!("{one}/last_operation"), Value::Null, 404),
        (Method::PATCH, PUT.to_owned(), ids.clone(), 404),
        (Method::DELETE, delete_uri(), Value::Null, 410),
        (Method::PUT, binding, ids, 404),
    ] {
        assert_eq!(as_other(method.clone(), uri.clone(), body).await, status, "{method} {uri}");
    }
    let made = bench.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(made.request.owner.to_string(), "ci/acme/shop");
    let log = bench.store.audit(&model::audit::Query::default()).await.unwrap();
    let model::audit::Event::Asked { by, .. } = &log[0].event else { panic!("{log:?}") };
    assert_eq!(by.subject.as_deref(), Some("repo:acme/shop"));
}

/// Keys come and go with the issuer; that it is configured does not.
#[tokio::test]
async fn an_issuer_without_keys_is_known_and_signs_nobody_in() {
    let bench = bench();
    let platforms = json!({"platforms": {"ci": {
        "secrets": [SecretHash::of("secret", [7; 32]).to_string()],
        "tokens": {"issuer": ISSUER, "audience": "gatehouse", "claims": {"owner": "acme"}},
        "hosts": [{"name": "*.example.test"}],
    }}});
    bench.platforms.send_replace(Arc::new(serde_json::from_value(platforms).unwrap()));
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let claims = json!({"iss": ISSUER, "sub": "s", "aud": "gatehouse", "exp": now + 60, "owner": "acme"});
    let token = jwt::testing::token(&jwt::testing::header(), &claims);
    let ask = async |authorization: String| {
        let mut request = request(Method::PUT, PUT, &body());
        request.headers_mut().insert("authorization", authorization.parse().unwrap());
        bench.raw(request).await.status().as_u16()
    };
    let basic = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "ci:secret");
    bench.issuers.send_replace(Arc::new(Issuers::from_iter([(ISSUER, None)])));
    assert_eq!(ask(format!("Bearer {token}")).await, 401);
    assert_eq!(ask(format!("Basic {basic}")).await, 202, "a service may trust an issuer that is away");
    bench
        .issuers
        .send_replace(Arc::new(Issuers::from_iter([(ISSUER, Some(Arc::new(jwt::testing::keys())))])));
    assert_eq!(ask(format!("Bearer {token}")).await, 202);
    bench.issuers.send_replace(Arc::default());
    assert_eq!(ask(format!("Basic {basic}")).await, 400, "and no issuer that nobody configured");
}

#[tokio::test]
async fn a_secret_can_be_replaced_while_both_are_good() {
    let bench = bounded();
    for credentials in ["dev:old", "dev:secret", "other:secret"] {
        assert_eq!(status_with(&bench, credentials).await, StatusCode::OK, "{credentials}");
    }
    for credentials in ["dev:", "dev:older", "nobody:secret", "dev"] {
        assert_eq!(status_with(&bench, credentials).await, StatusCode::UNAUTHORIZED, "{credentials}");
    }
    bench
        .platforms
        .send_replace(Arc::new(Platforms::unbounded([("dev".into(), SecretHash::of("secret", [3; 32]))])));
    assert_eq!(status_with(&bench, "dev:old").await, StatusCode::UNAUTHORIZED);
    assert_eq!(status_with(&bench, "dev:secret").await, StatusCode::OK);
    assert_eq!(status_with(&bench, "other:secret").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_tenant_has_as_many_instances_as_it_may() {
    let bench = bounded();
    let first = of_tenant("t", &["one.example.test"]);
    assert_eq!(bench.send(Method::PUT, &uri("i-1"), &first).await.0, StatusCode::ACCEPTED);
    assert_eq!(bench.send(Method::PUT, &uri("i-1"), &first).await.0, StatusCode::ACCEPTED, "the same again");
    let second = of_tenant("t", &["two.example.test"]);
    let refused = bench.send(Method::PUT, &uri("i-2"), &second).await;
    told(&refused, StatusCode::UNPROCESSABLE_ENTITY, "quota: \"t\" has the 1 service instances");
    assert_eq!(bench.store.get(&"i-2".parse().unwrap()).await.unwrap(), None);
    assert_eq!(bench.store.outbox().await.unwrap().len(), 1, "no job of what was refused");
    let others = of_tenant("u", &["two.example.test"]);
    assert_eq!(bench.send(Method::PUT, &uri("i-2"), &others).await.0, StatusCode::ACCEPTED);
    bench.end(OperationState::Succeeded, |instance| instance.gone = true).await;
    assert_eq!(
        bench.send(Method::PUT, &uri("i-3"), &first).await.0,
        StatusCode::ACCEPTED,
        "there is room again"
    );
    let refused = bench.send(Method::PUT, &uri("i-1"), &first).await;
    told(&refused, StatusCode::UNPROCESSABLE_ENTITY, "quota");
}

#[tokio::test]
async fn hosts_are_under_the_rules_and_the_quota() {
    let bench = bounded();
    let put = async |tenant: &str, hosts: &[&str]| {
        bench.send(Method::PUT, &uri("i-1"), &of_tenant(tenant, hosts)).await
    };
    told(
        &put("t", &["x.example.test", "x.test"]).await,
        StatusCode::BAD_REQUEST,
        "parameters: hosts[1]: x.test is under no domain of this platform",
    );
    told(
        &put("t", &["x.a.example.test"]).await,
        StatusCode::BAD_REQUEST,
        "hosts[0]: x.a.example.test belongs to others by the rule for \"*.a.example.test\"",
    );
    told(
        &put("t", &["x.example.test", "y.example.test", "z.example.test"]).await,
        StatusCode::UNPROCESSABLE_ENTITY,
        "parameters: hosts[2]: z.example.test would be one more than the 2 hosts that \"t\" may have",
    );
    assert_eq!(put("a", &["x.a.example.test"]).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_host_of_another_is_told_at_once_and_kept_for_a_while() {
    let bench = bounded();
    let host = Host::try_from("taken.example.test".to_owned()).unwrap();
    let (id, owner) =
        ("i-9".parse::<InstanceId>().unwrap(), Owner { platform: "dev".into(), tenant: "u".into() });
    let claimant =
        Claimant { instance: &id, owner: &owner, most: None, cool_down: platforms().host_cool_down() };
    assert_eq!(bench.store.claim(&[host], &claimant).await.unwrap(), Claim::Held);
    let theirs = of_tenant("t", &["taken.example.test"]);
    let refused = bench.send(Method::PUT, &uri("i-1"), &theirs).await;
    let words = "hosts[0]: taken.example.test belongs to another service instance";
    told(&refused, StatusCode::UNPROCESSABLE_ENTITY, words);
    bench.store.release(&id, &[]).await.unwrap();
    let refused = bench.send(Method::PUT, &uri("i-1"), &theirs).await;
    told(&refused, StatusCode::UNPROCESSABLE_ENTITY, "was another tenant's, and is kept for it until 2");
    let own = of_tenant("u", &["taken.example.test"]);
    assert_eq!(bench.send(Method::PUT, &uri("i-2"), &own).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn an_update_keeps_to_the_rules_too() {
    let bench = bounded();
    assert_eq!(
        bench.send(Method::PUT, PUT, &of_tenant("t", &["one.example.test"])).await.0,
        StatusCode::ACCEPTED
    );
    bench.end(OperationState::Succeeded, |_| {}).await;
    let mut change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    change["parameters"]["hosts"] = json!(["x.a.example.test"]);
    told(&bench.send(Method::PATCH, PUT, &change).await, StatusCode::BAD_REQUEST, "belongs to others");
    change["parameters"]["hosts"] = json!(["two.example.test"]);
    assert_eq!(bench.send(Method::PATCH, PUT, &change).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn the_tenant_is_whom_the_platform_says_it_is() {
    let bench = bounded();
    let as_other = |identity: Option<&str>| {
        let mut request = request(Method::PUT, &uri("i-1"), &of_tenant("ignored", &["one.example.test"]));
        let headers = request.headers_mut();
        let encoded = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
        headers.insert("authorization", format!("Basic {}", encoded("other:secret")).parse().unwrap());
        if let Some(identity) = identity {
            let value = format!("kubernetes {}", encoded(identity));
            headers.insert("x-broker-api-originating-identity", value.parse().unwrap());
        }
        request
    };
    for (identity, status) in [
        (None, StatusCode::BAD_REQUEST),
        (Some("no JSON"), StatusCode::BAD_REQUEST),
        (Some("[]"), StatusCode::BAD_REQUEST),
        (Some(r#"{"uid": "7"}"#), StatusCode::BAD_REQUEST),
        (Some(r#"{"username": "duke"}"#), StatusCode::ACCEPTED),
    ] {
        assert_eq!(bench.raw(as_other(identity)).await.status(), status, "{identity:?}");
    }
    let instance = bench.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(instance.request.owner.to_string(), "other/duke");
}

#[tokio::test]
async fn every_change_is_in_the_audit_log() {
    let bench = bench();
    let mut request = request(Method::PUT, PUT, &body());
    let identity = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, r#"{"user_id": "duke"}"#);
    request
        .headers_mut()
        .insert("x-broker-api-originating-identity", format!("cloudfoundry {identity}").parse().unwrap());
    assert_eq!(bench.raw(request).await.status(), StatusCode::ACCEPTED);
    bench.end(OperationState::Succeeded, |_| {}).await;
    let mut change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    change["parameters"]["service"] = json!("hello-2");
    assert_eq!(bench.send(Method::PATCH, PUT, &change).await.0, StatusCode::ACCEPTED);
    bench.end(OperationState::Succeeded, |_| {}).await;
    assert_eq!(bench.send(Method::DELETE, &delete_uri(), &Value::Null).await.0, StatusCode::ACCEPTED);
    assert_eq!(bench.send(Method::PATCH, PUT, &change).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let mut entries = bench.store.audit(&Query::default()).await.unwrap();
    entries.reverse();
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| {
            let Event::Asked { kind, by, before, after } = &entry.event else { panic!("{entry:?}") };
            let service = |state: &Option<model::audit::State>| {
                state.as_ref().map(|state| state.parameters["service"].clone())
            };
            (*kind, by.request.as_deref(), by.identity.clone(), service(before), service(after))
        })
        .collect();
    let (first, second) = (Some(json!("hello")), Some(json!("hello-2")));
    assert_eq!(
        seen,
        [
            (OperationKind::Provision, Some("r-1"), Some(json!({"user_id": "duke"})), None, first.clone()),
            (OperationKind::Update, Some("r-1"), None, first, second.clone()),
            (OperationKind::Deprovision, Some("r-1"), None, second, None),
        ]
    );
    let of = async |query| bench.store.audit(&query).await.unwrap().len();
    assert_eq!(of(Query { instance: Some("i-2".parse().unwrap()), ..Query::default() }).await, 0);
    assert_eq!(of(Query { platform: Some("dev".into()), ..Query::default() }).await, 3);
    assert_eq!(of(Query { before: Some(entries[1].position), ..Query::default() }).await, 1);
}

#[tokio::test]
async fn another_version_of_the_plan_is_a_conflict() {
    let bench = bench();
    let mut with = body();
    with["maintenance_info"] = json!({"version": "0.9.0"});
    let (status, answer) = bench.send(Method::PUT, PUT, &with).await;
    assert_eq!(
        (status, &answer["error"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("MaintenanceInfoConflict"))
    );
    let catalog = bench.send(Method::GET, "/v2/catalog", &Value::Null).await.1;
    with["maintenance_info"] = catalog["services"][0]["plans"][0]["maintenance_info"].clone();
    assert_eq!(bench.send(Method::PUT, PUT, &with).await.0, StatusCode::ACCEPTED);
    bench.end(OperationState::Succeeded, |_| {}).await;
    let change = json!({"service_id": SERVICE_ID, "maintenance_info": {"version": "2.0.0"}});
    let (status, answer) = bench.send(Method::PATCH, PUT, &change).await;
    assert_eq!(
        (status, &answer["error"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("MaintenanceInfoConflict"))
    );
}

/// OSB "Polling Last Operation": both fields are there only where they mean something.
#[tokio::test]
async fn a_failed_change_says_what_is_left() {
    let bench = Bench::live().await;
    let uri = "/v2/service_instances/i-1/last_operation";
    assert_eq!(bench.send(Method::GET, uri, &Value::Null).await.1.get("instance_usable"), None);
    let mut change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    change["parameters"]["service"] = json!("hello-2");
    bench.send(Method::PATCH, PUT, &change).await;
    bench.end(OperationState::Failed, |_| {}).await;
    let (_, answer) = bench.send(Method::GET, uri, &Value::Null).await;
    assert_eq!((&answer["instance_usable"], &answer["update_repeatable"]), (&json!(false), &json!(true)));
    bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    bench.end(OperationState::Failed, |_| {}).await;
    let (_, answer) = bench.send(Method::GET, uri, &Value::Null).await;
    assert_eq!((answer.get("instance_usable"), answer.get("update_repeatable")), (Some(&json!(false)), None));
}
