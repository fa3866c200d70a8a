//! The broker over its routes, on a real store; no worker runs, so operations stay in progress until a test
//! ends them.

use axum::{
    body::Body,
    http::{Method, Request as HttpRequest, Response, StatusCode},
};
use http_body_util::BodyExt as _;
use jwt::testing::{ISSUER, keys};
use model::{
    SecretHash,
    instance::{Instance, OperationState},
    plan::Plan,
};
use serde_json::{Value, json};
use store::{Keys, SqliteStore, Write};
use tower::ServiceExt as _;

use super::*;

mod bindings;
mod osb;
mod tenants;

struct Bench {
    router: Router,
    store: Arc<SqliteStore>,
    platforms: watch::Sender<Arc<Platforms>>,
    faults: watch::Sender<Arc<Faults>>,
    issuers: watch::Sender<Arc<Issuers>>,
    _folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let hash = || SecretHash::of("secret", [7; 32]);
    bench_of(Platforms::unbounded([("dev".into(), hash()), ("other".into(), hash())]))
}

fn bench_of(platforms: Platforms) -> Bench {
    bench_with(platforms, &[Plan::Standard, Plan::Internal])
}

fn bench_with(platforms: Platforms, plans: &[Plan]) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("gatehouse.db"), Keys::default()).unwrap());
    let (sender, platforms) = watch::channel(Arc::new(platforms));
    let faults = watch::Sender::default();
    let issuers = watch::Sender::new(Arc::new(Issuers::from_iter([(ISSUER, Some(Arc::new(keys())))])));
    let broker = Broker {
        store: store.clone(),
        platforms,
        faults: faults.subscribe(),
        upstreams: UpstreamRule::LoopbackAllowed,
        plans: plans.into(),
        issuers: issuers.subscribe(),
        edge: Arc::default(),
    };
    Bench { router: broker.router(), store, platforms: sender, faults, issuers, _folder: folder }
}

fn parameters() -> Value {
    json!({
        "service": "hello", "hosts": ["hello.example.test"],
        "routes": [{"path": "/", "upstream": {"urls": ["http://127.0.0.1:9001"]}}],
        "auth": {"any": [{"jwt": {"issuer": "https://id.example.test/", "audiences": ["hello"], "algorithms": ["ES256"]}}]},
        "authz": {"default": "allow"}
    })
}

fn body() -> Value {
    json!({
        "service_id": SERVICE_ID, "plan_id": STANDARD_PLAN_ID, "organization_guid": "o", "space_guid": "s",
        "parameters": parameters(), "a_field_of_2_99": {}
    })
}

const PUT: &str = "/v2/service_instances/i-1?accepts_incomplete=true";

fn delete_uri() -> String {
    format!("{PUT}&service_id={SERVICE_ID}&plan_id={STANDARD_PLAN_ID}")
}

fn request(method: Method, uri: &str, body: &Value) -> HttpRequest<Body> {
    HttpRequest::builder()
        .method(method)
        .uri(uri)
        .header(
            "authorization",
            format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "dev:secret")),
        )
        .header("x-broker-api-version", "2.17")
        .header("x-broker-api-request-identity", "r-1")
        .body(Body::from(if body.is_null() { String::new() } else { body.to_string() }))
        .unwrap()
}

impl Bench {
    async fn raw(&self, request: HttpRequest<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, method: Method, uri: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.raw(request(method, uri, body)).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Ends the operation under way, as a worker would.
    async fn end(&self, state: OperationState, change: impl FnOnce(&mut Instance)) {
        let mut instance = self.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap();
        instance.operation.state = state;
        change(&mut instance);
        assert!(matches!(self.store.put(Write::of(&instance)).await.unwrap(), store::Put::Stored(_)));
    }

    async fn live() -> Self {
        let bench = bench();
        assert_eq!(bench.send(Method::PUT, PUT, &body()).await.0, StatusCode::ACCEPTED);
        bench.end(OperationState::Succeeded, |_| {}).await;
        bench
    }
}

#[tokio::test]
async fn answers_go_wrong_as_they_are_asked_to() {
    let bench = Bench::live().await;
    let ask = |faults: Value| {
        bench.faults.send_replace(Arc::new(serde_json::from_value(json!({"faults": faults})).unwrap()))
    };
    ask(json!([{"on": ["provision"], "instance": "chaos", "then": {"answer": 500}}]));
    let other = "/v2/service_instances/chaos-1?accepts_incomplete=true";
    assert_eq!(bench.send(Method::PUT, other, &body()).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(bench.store.get(&"chaos-1".parse().unwrap()).await.unwrap(), None, "nothing was done");
    assert_eq!(
        bench.send(Method::PUT, PUT, &body()).await.0,
        StatusCode::OK,
        "another's id begins otherwise"
    );
    ask(json!([{"on": ["deprovision"], "then": {"answer_afterwards": 503}, "times": 1}]));
    assert_eq!(
        bench.send(Method::DELETE, &delete_uri(), &Value::Null).await.0,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        bench.send(Method::DELETE, &delete_uri(), &Value::Null).await.0,
        StatusCode::ACCEPTED,
        "begun"
    );
    ask(json!([{"on": ["catalog"], "then": {"malformed": true}}]));
    assert_eq!(bench.send(Method::GET, "/v2/catalog", &Value::Null).await, (StatusCode::OK, Value::Null));
    let mut nobody = request(Method::GET, "/v2/catalog", &Value::Null);
    nobody.headers_mut().remove("authorization");
    assert_eq!(bench.raw(nobody).await.status(), StatusCode::UNAUTHORIZED, "only for who may ask at all");
}

#[tokio::test]
async fn without_credentials_nothing_is_answered() {
    let bench = bench();
    for (header, value) in
        [("authorization", ""), ("authorization", "Basic ZGV2Ondyb25n"), ("authorization", "Bearer x")]
    {
        let mut request = request(Method::GET, "/v2/catalog", &Value::Null);
        request.headers_mut().insert(header, value.parse().unwrap());
        let response = bench.raw(request).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{value}");
        assert!(response.headers().contains_key("www-authenticate"));
    }
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_412_and_the_request_identity_comes_back() {
    let bench = bench();
    for version in [None, Some("3.0"), Some("2"), Some("x")] {
        let mut request = request(Method::GET, "/v2/catalog", &Value::Null);
        request.headers_mut().remove("x-broker-api-version");
        if let Some(version) = version {
            request.headers_mut().insert("x-broker-api-version", version.parse().unwrap());
        }
        assert_eq!(bench.raw(request).await.status(), StatusCode::PRECONDITION_FAILED, "{version:?}");
    }
    let response = bench.raw(request(Method::GET, "/v2/catalog", &Value::Null)).await;
    assert_eq!(
        (response.status(), &response.headers()["x-broker-api-request-identity"]),
        (StatusCode::OK, &"r-1".parse().unwrap())
    );
}

#[tokio::test]
async fn a_provision_is_accepted_with_an_operation_and_a_job() {
    let bench = bench();
    let (status, answer) = bench.send(Method::PUT, PUT, &body()).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let jobs = bench.store.outbox().await.unwrap();
    assert_eq!(jobs[0].id, answer["operation"].as_str().unwrap());
    let (status, state) =
        bench.send(Method::GET, "/v2/service_instances/i-1/last_operation", &Value::Null).await;
    assert_eq!((status, &state["state"]), (StatusCode::OK, &json!("in progress")));
    assert_eq!(
        bench.send(Method::GET, "/v2/service_instances/i-1", &Value::Null).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn the_same_again_is_the_same_operation_and_anything_else_a_conflict() {
    let bench = bench();
    let first = bench.send(Method::PUT, PUT, &body()).await;
    assert_eq!(bench.send(Method::PUT, PUT, &body()).await, first);
    let mut other = body();
    other["parameters"]["service"] = json!("other");
    assert_eq!(bench.send(Method::PUT, PUT, &other).await.0, StatusCode::CONFLICT);
    bench.end(OperationState::Succeeded, |_| {}).await;
    assert_eq!(bench.send(Method::PUT, PUT, &body()).await, (StatusCode::OK, json!({})));
    assert_eq!(bench.send(Method::PUT, PUT, &other).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_failed_provision_may_begin_anew_with_a_new_revision() {
    let bench = bench();
    bench.send(Method::PUT, PUT, &body()).await;
    bench.end(OperationState::Failed, |_| {}).await;
    assert_eq!(bench.send(Method::PUT, PUT, &body()).await.0, StatusCode::ACCEPTED);
    assert_eq!(bench.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap().revision, 2);
}

#[tokio::test]
async fn what_never_was_live_is_not_said_to_be() {
    let bench = bench();
    bench.send(Method::PUT, PUT, &body()).await;
    bench.end(OperationState::Failed, |_| {}).await;
    let change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    assert_eq!(bench.send(Method::PATCH, PUT, &change).await.0, StatusCode::ACCEPTED);
    bench.end(OperationState::Failed, |_| {}).await;
    assert_eq!(bench.send(Method::PUT, PUT, &body()).await.0, StatusCode::ACCEPTED, "not 200");
}

#[tokio::test]
async fn bad_input_is_told_with_its_field_and_changes_nothing() {
    let bench = bench();
    for (field, value, word) in [
        ("service_id", json!("x"), "service_id:"),
        ("plan_id", json!("x"), "plan_id:"),
        ("organization_guid", json!(""), "organization_guid:"),
        ("space_guid", Value::Null, "space_guid:"),
        ("parameters", Value::Null, "parameters:"),
        ("parameters", json!({}), "hosts"),
    ] {
        let mut body = body();
        body[field] = value;
        let (status, answer) = bench.send(Method::PUT, PUT, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{field}");
        assert!(answer["description"].as_str().unwrap().contains(word), "{answer}");
    }
    let mut unknown_issuer = body();
    unknown_issuer["parameters"]["auth"]["any"][0]["jwt"]["issuer"] = json!("https://other.test/");
    let (status, answer) = bench.send(Method::PUT, PUT, &unknown_issuer).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        answer["description"].as_str().unwrap().contains("auth.any[0].jwt.issuer: one that operators"),
        "{answer}"
    );
    assert_eq!(
        bench.send(Method::PUT, "/v2/service_instances/a@b?accepts_incomplete=true", &body()).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(bench.send(Method::PUT, PUT, &json!("no object")).await.0, StatusCode::BAD_REQUEST);
    assert!(bench.store.outbox().await.unwrap().is_empty());
}

#[tokio::test]
async fn hosts_that_are_none_and_upstreams_that_nobody_may_reach_are_refused() {
    let bench = bench();
    let label = "x".repeat(300);
    let long = format!("{label}.example.test");
    for (pointer, value, words) in [
        ("/hosts/0", "10.0.0.1", "not an IP address"),
        ("/hosts/0", "::1", "not an IP address"),
        ("/hosts/0", "2130706433", "at least two labels"),
        ("/hosts/0", "*.*.example.test", "a wildcard is the first label"),
        ("/hosts/0", "*", "a wildcard is the first label"),
        ("/hosts/0", "höst.example.test", "write other scripts as xn--"),
        ("/hosts/0", "ｈello.example.test", "write other scripts as xn--"),
        ("/hosts/0", "hello\u{200b}.example.test", "write other scripts as xn--"),
        ("/hosts/0", "hello.example.test\u{0}", "write other scripts as xn--"),
        ("/hosts/0", "hello\u{2024}example.test", "write other scripts as xn--"),
        ("/hosts/0", "HELLO.example.test", "labels of a-z"),
        ("/hosts/0", long.as_str(), "hosts[0]: "),
        ("/routes/0/upstream/urls/0", "http://169.254.169.254", "metadata"),
        ("/routes/0/upstream/urls/0", "http://[fd00:ec2::254]", "metadata"),
        ("/routes/0/upstream/urls/0", "http://[::ffff:169.254.169.254]", "metadata"),
        ("/routes/0/upstream/urls/0", "http://metadata.google.internal", "metadata"),
        ("/routes/0/upstream/urls/0", "http://2852039166", "a DNS name in lower case or an IP address"),
        ("/routes/0/upstream/urls/0", "http://user@a.test", "no path, query or user"),
        ("/routes/0/upstream/urls/0", "file:///etc/passwd", "urls[0]: "),
    ] {
        let mut body = body();
        *body["parameters"].pointer_mut(pointer).unwrap() = json!(value);
        let (status, answer) = bench.send(Method::PUT, PUT, &body).await;
        let told = answer["description"].as_str().unwrap();
        assert!(status == StatusCode::BAD_REQUEST && told.contains(words), "{value:?}: {told}");
    }
    assert!(bench.store.outbox().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_too_large_or_too_deep_is_told_and_costs_little() {
    let bench = bench();
    let told = async |text: String| {
        let mut request = request(Method::PUT, PUT, &Value::Null);
        *request.body_mut() = Body::from(text);
        let response = bench.raw(request).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        (status, answer["description"].as_str().unwrap().to_owned())
    };
    let (status, _) = told("x".repeat(10 * 1024 * 1024)).await;
    assert_eq!(status, 413);
    let deep = format!("{{\"parameters\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let (status, words) = told(deep).await;
    assert!(status == 400 && words.contains("recursion limit"), "{words}");
    let mut large = body();
    let rule =
        |at: usize| json!({"allow": {"methods": ["GET"], "paths": [format!("/{at}/{}", "x".repeat(100))]}});
    large["parameters"]["authz"]["rules"] = (0..900).map(rule).collect();
    let (status, words) = told(large.to_string()).await;
    assert!(status == 400 && words.starts_with("parameters: at most 80000 bytes of JSON, got 1"), "{words}");
    assert!(bench.store.outbox().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_platform_must_accept_to_wait() {
    let bench = bench();
    let (status, answer) = bench.send(Method::PUT, "/v2/service_instances/i-1", &body()).await;
    assert_eq!((status, &answer["error"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("AsyncRequired")));
}

#[tokio::test]
async fn an_update_is_a_new_revision_and_the_same_again_is_nothing() {
    let bench = Bench::live().await;
    let mut change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    assert_eq!(bench.send(Method::PATCH, PUT, &change).await, (StatusCode::OK, json!({})));
    change["parameters"]["rate_limits"] = json!([{"limit": "3/minute"}]);
    assert_eq!(bench.send(Method::PATCH, PUT, &change).await.0, StatusCode::ACCEPTED);
    let instance = bench.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(instance.revision, 2);
    change["parameters"]["rate_limits"] = json!([{"limit": "4/minute"}]);
    let (status, answer) = bench.send(Method::PATCH, PUT, &change).await;
    assert_eq!((status, &answer["error"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("ConcurrencyError")));
    assert_eq!(
        bench.send(Method::DELETE, &delete_uri(), &Value::Null).await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test]
async fn an_update_of_what_is_not_there_is_404() {
    let (status, _) = bench().send(Method::PATCH, PUT, &json!({"service_id": SERVICE_ID})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_deprovision_ends_in_410() {
    let bench = Bench::live().await;
    assert_eq!(
        bench.send(Method::DELETE, PUT, &Value::Null).await.0,
        StatusCode::BAD_REQUEST,
        "ids are needed"
    );
    let first = bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    assert_eq!(first.0, StatusCode::ACCEPTED);
    assert_eq!(bench.send(Method::DELETE, &delete_uri(), &Value::Null).await, first);
    bench.end(OperationState::Succeeded, |instance| instance.gone = true).await;
    for uri in ["/v2/service_instances/i-1/last_operation", &delete_uri()] {
        let method = if uri.contains("last_operation") { Method::GET } else { Method::DELETE };
        assert_eq!(bench.send(method, uri, &Value::Null).await.0, StatusCode::GONE, "{uri}");
    }
    assert_eq!(bench.send(Method::PUT, PUT, &body()).await.0, StatusCode::ACCEPTED, "it may be made again");
    assert_eq!(
        bench.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap().revision,
        2,
        "with a new revision"
    );
}

#[tokio::test]
async fn an_instance_can_be_fetched_when_nothing_is_under_way() {
    let bench = Bench::live().await;
    let (status, answer) = bench.send(Method::GET, "/v2/service_instances/i-1", &Value::Null).await;
    assert_eq!((status, &answer["parameters"]), (StatusCode::OK, &parameters()));
    assert_eq!(
        bench.send(Method::GET, "/v2/service_instances/i-2", &Value::Null).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn another_operation_than_the_newest_is_a_bad_request() {
    let bench = Bench::live().await;
    let uri = "/v2/service_instances/i-1/last_operation?operation=other";
    assert_eq!(bench.send(Method::GET, uri, &Value::Null).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn another_platforms_instance_does_not_exist() {
    let bench = Bench::live().await;
    let as_other = |method, uri: &str, body: &Value| {
        let mut request = request(method, uri, body);
        let credentials = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "other:secret");
        request.headers_mut().insert("authorization", format!("Basic {credentials}").parse().unwrap());
        request
    };
    let change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    for (method, uri, body, expected) in [
        (Method::GET, "/v2/service_instances/i-1", Value::Null, StatusCode::NOT_FOUND),
        (Method::GET, "/v2/service_instances/i-1/last_operation", Value::Null, StatusCode::NOT_FOUND),
        (Method::PATCH, PUT, change, StatusCode::NOT_FOUND),
        (Method::PUT, PUT, body(), StatusCode::CONFLICT),
        (Method::DELETE, &delete_uri(), Value::Null, StatusCode::GONE),
    ] {
        assert_eq!(bench.raw(as_other(method.clone(), uri, &body)).await.status(), expected, "{method}");
    }
    let instance = bench.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((instance.version, instance.gone), (2, false), "nothing was changed");
}
