//! Bindings: the rules of OSB by their numbers, and what becomes of the keys.

use model::{audit, binding::Binding, instance::Published, plan::Limits};

use super::{
    osb::{ASYNC, BUSY, INSTANCE, LAST, code, limited, state},
    *,
};

const BINDING: &str = "/v2/service_instances/i-1/service_bindings/b-1";

fn bind() -> Value {
    json!({"service_id": SERVICE_ID, "plan_id": STANDARD_PLAN_ID, "parameters": {"name": "billing", "scopes": ["read"]}})
}

fn begin(of: &str) -> String {
    format!("{of}?accepts_incomplete=true")
}

fn unbind(of: &str) -> String {
    format!("{}&service_id={SERVICE_ID}&plan_id={STANDARD_PLAN_ID}", begin(of))
}

/// Ends the operation under way, as a worker would.
fn settled(instance: &mut Instance, state: OperationState) {
    match state {
        OperationState::Succeeded => {
            instance.published = Some(Published::wanted_of(instance).unwrap());
            instance.proven.clone_from(&instance.published);
            instance.operation.state = state;
        }
        _ => instance.fail(None, "the fleet is away"),
    }
    instance.settle();
}

impl Bench {
    /// Live, and taking API keys.
    async fn open() -> Self {
        let bench = bench();
        let mut body = body();
        body["parameters"]["auth"]["any"].as_array_mut().unwrap().push(json!({"api_key": {}}));
        assert_eq!(bench.send(Method::PUT, PUT, &body).await.0, StatusCode::ACCEPTED);
        bench.settle(OperationState::Succeeded).await;
        bench
    }

    async fn settle(&self, state: OperationState) {
        self.end(state, |instance| settled(instance, state)).await;
    }

    async fn bound() -> Self {
        let bench = Self::open().await;
        assert_eq!(bench.send(Method::PUT, &begin(BINDING), &bind()).await.0, StatusCode::ACCEPTED);
        bench.settle(OperationState::Succeeded).await;
        bench
    }

    async fn fetched(&self) -> Value {
        let (status, answer) = self.send(Method::GET, BINDING, &Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// Ids of the keys that the fleet has.
    async fn keys(&self) -> Vec<String> {
        let proven = state(self).await.proven.unwrap();
        proven.keys.into_iter().map(|key| key.id).collect()
    }

    async fn binding(&self) -> Binding {
        state(self).await.bindings[&"b-1".parse().unwrap()].clone()
    }
}

#[tokio::test]
async fn osb_b1_and_b2_the_same_binding_again_is_the_same_and_another_is_409() {
    let bench = Bench::open().await;
    let mut other = bind();
    other["parameters"]["name"] = json!("sales");
    let first = bench.send(Method::PUT, &begin(BINDING), &bind()).await;
    assert_eq!((first.0, first.1.get("credentials")), (StatusCode::ACCEPTED, None));
    assert_eq!(bench.send(Method::PUT, &begin(BINDING), &bind()).await, first);
    assert_eq!(bench.send(Method::PUT, &begin(BINDING), &other).await.0, StatusCode::CONFLICT);
    bench.settle(OperationState::Succeeded).await;
    let again = bench.send(Method::PUT, &begin(BINDING), &bind()).await;
    assert_eq!((again.0, again.1["credentials"].get("api_key_secret")), (StatusCode::OK, None));
    assert_eq!(bench.send(Method::PUT, &begin(BINDING), &other).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn osb_b4_and_b7_the_secret_is_told_once_and_written_down_that_it_was() {
    let bench = Bench::bound().await;
    let first = bench.fetched().await;
    let (id, secret) = (&first["credentials"]["api_key_id"], &first["credentials"]["api_key_secret"]);
    let (id, secret) = (id.as_str().unwrap(), secret.as_str().unwrap());
    assert_eq!(first["credentials"]["api_key"], format!("gatehouse_{id}_{secret}"));
    assert_eq!(first["credentials"]["header"], "x-api-key");
    assert_eq!(
        first["endpoints"],
        json!([{"host": "hello.example.test", "ports": ["443"], "protocol": "tcp"}])
    );
    assert!(bench.binding().await.key.hash.is_of(secret));
    let second = bench.fetched().await;
    assert_eq!(
        (second["credentials"].get("api_key_secret"), second["credentials"].get("api_key")),
        (None, None)
    );
    assert_eq!(second["credentials"]["api_key_id"], id);
    let log = bench.store.audit(&audit::Query::default()).await.unwrap();
    let shown = log.iter().filter(|entry| matches!(entry.event, audit::Event::Shown { .. })).count();
    assert_eq!(shown, 1);
    let everything = serde_json::to_string(&(state(&bench).await, log)).unwrap();
    assert!(!everything.contains(secret));
}

#[tokio::test]
async fn osb_r1_a_key_can_take_anothers_place_and_both_are_good_until_the_first_goes() {
    let bench = Bench::bound().await;
    let next = "/v2/service_instances/i-1/service_bindings/b-2";
    let rotation = |of: &str| json!({"service_id": SERVICE_ID, "plan_id": STANDARD_PLAN_ID, "predecessor_binding_id": of});
    let unknown = bench.send(Method::PUT, &begin(next), &rotation("b-7")).await;
    assert_eq!(unknown.0, StatusCode::BAD_REQUEST, "{}", unknown.1);
    assert_eq!(bench.send(Method::PUT, &begin(next), &rotation("b-1")).await.0, StatusCode::ACCEPTED);
    bench.settle(OperationState::Succeeded).await;
    let (_, second) = bench.send(Method::GET, next, &Value::Null).await;
    assert_eq!(second["credentials"]["subject"], "billing", "of its predecessor");
    assert_eq!(second["credentials"]["scopes"], json!(["read"]));
    assert_eq!(bench.keys().await.len(), 2);
    bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await;
    bench.settle(OperationState::Succeeded).await;
    assert_eq!(bench.keys().await, [second["credentials"]["api_key_id"].as_str().unwrap()]);
}

#[tokio::test]
async fn osb_r2_a_binding_is_fetched_from_its_end_on() {
    let bench = Bench::open().await;
    bench.send(Method::PUT, &begin(BINDING), &bind()).await;
    assert_eq!(bench.send(Method::GET, BINDING, &Value::Null).await.0, StatusCode::NOT_FOUND);
    bench.settle(OperationState::Succeeded).await;
    bench.fetched().await;
    bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await;
    assert_eq!(bench.send(Method::GET, BINDING, &Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn osb_x1_an_unbind_is_202_and_410_of_what_is_not_there() {
    let bench = Bench::bound().await;
    for left_out in ["service_id", "plan_id"] {
        let uri = unbind(BINDING).replace(left_out, "x");
        assert_eq!(bench.send(Method::DELETE, &uri, &Value::Null).await.0, StatusCode::BAD_REQUEST);
    }
    let sync = unbind(BINDING).replace("accepts_incomplete=true&", "");
    assert_eq!(code(&bench.send(Method::DELETE, &sync, &Value::Null).await), ASYNC);
    let first = bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await;
    assert_eq!(first.0, StatusCode::ACCEPTED);
    assert_eq!(bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await, first);
    bench.settle(OperationState::Succeeded).await;
    let last = format!("{BINDING}/last_operation");
    for uri in [last.as_str(), &format!("{last}?operation=op")] {
        assert_eq!(bench.send(Method::GET, uri, &Value::Null).await, (StatusCode::GONE, json!({})));
    }
    assert_eq!(
        bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await,
        (StatusCode::GONE, json!({}))
    );
    assert_eq!(bench.keys().await, [""; 0]);
}

#[tokio::test]
async fn one_operation_at_a_time_of_an_instance_and_its_bindings() {
    let bench = Bench::open().await;
    assert_eq!(code(&bench.send(Method::PUT, BINDING, &bind()).await), ASYNC);
    bench.send(Method::PUT, &begin(BINDING), &bind()).await;
    let other = "/v2/service_instances/i-1/service_bindings/b-2";
    assert_eq!(code(&bench.send(Method::PUT, &begin(other), &bind()).await), BUSY);
    assert_eq!(code(&bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await), BUSY);
    assert_eq!(code(&bench.send(Method::PATCH, PUT, &limited("3/minute")).await), BUSY);
    assert_eq!(code(&bench.send(Method::DELETE, &delete_uri(), &Value::Null).await), BUSY);
    // The instance itself is as it was.
    assert_eq!(bench.send(Method::GET, INSTANCE, &Value::Null).await.0, StatusCode::OK);
    assert_eq!(bench.send(Method::GET, LAST, &Value::Null).await.1["state"], "succeeded");
    let (_, answer) = bench.send(Method::GET, &format!("{BINDING}/last_operation"), &Value::Null).await;
    assert_eq!((&answer["state"], answer["steps"].as_array().unwrap().len()), (&json!("in progress"), 2));
}

#[tokio::test]
async fn a_bind_that_failed_gives_nothing_and_can_be_tried_again_or_taken_away() {
    let bench = Bench::open().await;
    bench.send(Method::PUT, &begin(BINDING), &bind()).await;
    let first = bench.binding().await.key.id;
    bench.settle(OperationState::Failed).await;
    let last = format!("{BINDING}/last_operation");
    let (_, answer) = bench.send(Method::GET, &last, &Value::Null).await;
    assert_eq!((&answer["state"], &answer["description"]), (&json!("failed"), &json!("the fleet is away")));
    assert_eq!(bench.send(Method::GET, BINDING, &Value::Null).await.0, StatusCode::NOT_FOUND);
    assert_eq!(bench.binding().await.secret, None);
    assert_eq!(bench.send(Method::PUT, &begin(BINDING), &bind()).await.0, StatusCode::ACCEPTED);
    assert_ne!(bench.binding().await.key.id, first);
    bench.settle(OperationState::Failed).await;
    assert_eq!(bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await.0, StatusCode::ACCEPTED);
    bench.settle(OperationState::Succeeded).await;
    assert_eq!(bench.send(Method::GET, &last, &Value::Null).await.0, StatusCode::GONE);
}

/// Whatever becomes of the operation: nothing returns to a key that was to go.
#[tokio::test]
async fn a_key_that_was_to_go_does_not_come_back() {
    let bench = Bench::bound().await;
    bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await;
    bench
        .end(OperationState::InProgress, |instance| {
            instance.published = Some(Published::wanted_of(instance).unwrap());
            instance.fail(None, "the fleet is away");
            instance.settle();
        })
        .await;
    let after = state(&bench).await;
    assert_eq!((after.published.unwrap().keys, after.proven.unwrap().keys), (Vec::new(), Vec::new()));
    assert_eq!(bench.send(Method::GET, BINDING, &Value::Null).await.0, StatusCode::NOT_FOUND);
    assert_eq!(bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn what_cannot_be_bound_is_told_with_its_reason() {
    let bench = Bench::live().await;
    bench.settle(OperationState::Succeeded).await;
    let told = async |bench: &Bench, uri: &str, body: &Value| {
        let (status, answer) = bench.send(Method::PUT, &begin(uri), body).await;
        (status.as_u16(), answer["description"].as_str().unwrap_or_default().to_owned())
    };
    let (status, words) = told(&bench, BINDING, &bind()).await;
    assert!(status == 422 && words.contains("add `- api_key: {}`"), "{words}");
    let bench = Bench::open().await;
    let unknown = "/v2/service_instances/i-9/service_bindings/b-1";
    assert_eq!(told(&bench, unknown, &bind()).await.0, 404);
    assert_eq!(told(&bench, "/v2/service_instances/i-1/service_bindings/b%401", &bind()).await.0, 400);
    for (pointer, value, words) in [
        ("/service_id", json!("x"), "service_id: "),
        ("/plan_id", json!(Plan::Internal.id()), "plan_id: "),
        ("/parameters/name", json!("a b"), "parameters: name: "),
        ("/parameters", json!({"scope": "x"}), "parameters: "),
    ] {
        let mut body = bind();
        *body.pointer_mut(pointer).unwrap() = value;
        let (status, told) = told(&bench, BINDING, &body).await;
        assert!(status == 400 && told.starts_with(words), "{status} {told}");
    }
    let mut large = bind();
    large["bind_resource"] = json!({"route": "x".repeat(5_000)});
    let (status, words) = told(&bench, BINDING, &large).await;
    assert!(status == 400 && words.starts_with("bind_resource and parameters: at most 4096"), "{words}");
    let limits = Limits { bindings: 0, ..Limits::default() };
    let platforms = bench.platforms.borrow().as_ref().clone().with_limits(Plan::Standard, limits);
    bench.platforms.send_replace(Arc::new(platforms));
    let (status, words) = told(&bench, BINDING, &bind()).await;
    assert!(status == 422 && words.starts_with("at most 0 bindings"), "{words}");
}

#[tokio::test]
async fn keys_go_with_their_service() {
    let bench = Bench::bound().await;
    bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    bench.end(OperationState::Succeeded, Instance::leave).await;
    assert_eq!(state(&bench).await.bindings.len(), 0);
    assert_eq!(bench.send(Method::DELETE, &unbind(BINDING), &Value::Null).await.0, StatusCode::GONE);
}
