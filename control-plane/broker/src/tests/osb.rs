//! The rules of OSB 2.17 for brokers, by their numbers in `docs/osb-conformance.md`.

use super::*;

pub(super) fn code(answer: &(StatusCode, Value)) -> (u16, Option<&str>) {
    (answer.0.as_u16(), answer.1["error"].as_str())
}

pub(super) const ASYNC: (u16, Option<&str>) = (422, Some("AsyncRequired"));
pub(super) const BUSY: (u16, Option<&str>) = (422, Some("ConcurrencyError"));
pub(super) const LAST: &str = "/v2/service_instances/i-1/last_operation";
pub(super) const INSTANCE: &str = "/v2/service_instances/i-1";

fn change(pointer: &str, value: Value) -> Value {
    let mut change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    *change.pointer_mut(pointer).unwrap() = value;
    change
}

pub(super) fn limited(limit: &str) -> Value {
    let mut change = json!({"service_id": SERVICE_ID, "parameters": parameters()});
    change["parameters"]["rate_limits"] = json!([{"limit": limit}]);
    change
}

pub(super) async fn state(bench: &Bench) -> Instance {
    bench.store.get(&"i-1".parse().unwrap()).await.unwrap().unwrap()
}

async fn catalog() -> Value {
    bench().send(Method::GET, "/v2/catalog", &Value::Null).await.1
}

#[tokio::test]
async fn osb_h1_unknown_fields_are_ignored() {
    let mut body = body();
    body["context"] = json!({"platform": "cloudfoundry", "of": {"2": [31]}});
    assert_eq!(bench().send(Method::PUT, PUT, &body).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn osb_h2_without_credentials_it_is_401() {
    let mut request = request(Method::GET, "/v2/catalog", &Value::Null);
    request.headers_mut().remove("authorization");
    assert_eq!(bench().raw(request).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn osb_h3_another_version_of_the_api_is_412() {
    for (version, status) in [("2.16", 200), ("2.99", 200), ("1.0", 412), ("3.0", 412)] {
        let mut request = request(Method::GET, "/v2/catalog", &Value::Null);
        request.headers_mut().insert("x-broker-api-version", version.parse().unwrap());
        assert_eq!(bench().raw(request).await.status().as_u16(), status, "{version}");
    }
}

#[tokio::test]
async fn osb_h4_the_request_identity_comes_back_also_with_a_refusal() {
    for uri in ["/v2/catalog", INSTANCE, "/v2/service_instances/a@b"] {
        let response = bench().raw(request(Method::GET, uri, &Value::Null)).await;
        assert_eq!(response.headers()["x-broker-api-request-identity"], "r-1", "{uri}");
    }
}

#[tokio::test]
async fn osb_h5_an_originating_identity_that_is_none_is_told() {
    let mut request = request(Method::GET, "/v2/catalog", &Value::Null);
    request.headers_mut().insert("x-broker-api-originating-identity", "cloudfoundry !".parse().unwrap());
    assert_eq!(bench().raw(request).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn osb_h6_answers_are_json_whatever_they_say() {
    let bench = bench();
    let long = "x".repeat(2 * 1024 * 1024);
    for (method, uri, body, status) in [
        (Method::GET, "/v2/catalog", "", 200),
        (Method::PUT, PUT, "{", 400),
        (Method::PUT, PUT, long.as_str(), 413),
        (Method::GET, "/v2/service_instances/%ff", "", 400),
        (Method::POST, "/v2/catalog", "", 405),
        (Method::GET, "/v2/nothing", "", 404),
    ] {
        let mut request = request(method, uri, &Value::Null);
        *request.body_mut() = Body::from(body.to_owned());
        let response = bench.raw(request).await;
        assert_eq!(response.status().as_u16(), status, "{uri}");
        assert_eq!(response.headers()["content-type"], "application/json", "{uri}");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let told: Value = serde_json::from_slice(&text).unwrap();
        assert!(status == 200 || !told["description"].as_str().unwrap().is_empty(), "{uri}: {told}");
    }
}

#[tokio::test]
async fn osb_h7_ids_are_percent_decoded() {
    let bench = Bench::live().await;
    let (status, _) = bench.send(Method::GET, "/v2/service_instances/i%2D1", &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn osb_e1_e2_e3_and_e5_refusals_have_the_words_of_the_spec_and_change_nothing() {
    let bench = Bench::live().await;
    let before = state(&bench).await;
    let mut other_version = limited("3/minute");
    other_version["maintenance_info"] = json!({"version": "9.9.9"});
    for (method, uri, body, expected) in [
        (Method::PATCH, INSTANCE, limited("3/minute"), ASYNC),
        (Method::PATCH, PUT, other_version, (422, Some("MaintenanceInfoConflict"))),
        (Method::PATCH, PUT, change("/parameters/hosts", json!(["no host"])), (400, None)),
        (Method::DELETE, INSTANCE, Value::Null, (400, None)),
    ] {
        let answer = bench.send(method.clone(), uri, &body).await;
        assert_eq!(code(&answer), expected, "{method} {uri}");
        assert!(!answer.1["description"].as_str().unwrap().is_empty());
        if let Some(error) = answer.1.get("error") {
            assert!(error.as_str().unwrap().chars().all(char::is_alphanumeric), "one word: {error}");
        }
    }
    assert_eq!(state(&bench).await, before);
}

#[tokio::test]
async fn osb_e4_what_is_left_is_told_only_of_failed_changes() {
    let bench = Bench::live().await;
    let told = async || {
        let answer = bench.send(Method::GET, LAST, &Value::Null).await.1;
        (answer.get("instance_usable").is_some(), answer.get("update_repeatable").is_some())
    };
    assert_eq!(told().await, (false, false), "after a provision");
    bench.send(Method::PATCH, PUT, &limited("3/minute")).await;
    assert_eq!(told().await, (false, false), "in progress");
    bench.end(OperationState::Failed, |_| {}).await;
    assert_eq!(told().await, (true, true), "a failed update");
    bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    bench.end(OperationState::Failed, |_| {}).await;
    assert_eq!(told().await, (true, false), "a failed deprovision");
}

#[tokio::test]
async fn osb_c1_c2_c3_and_c4_services_and_plans_are_named_once_and_always_alike() {
    let first = catalog().await;
    assert_eq!(catalog().await, first);
    let mut ids = std::collections::BTreeSet::new();
    for service in first["services"].as_array().unwrap() {
        for field in ["name", "id", "description"] {
            assert!(!service[field].as_str().unwrap().is_empty(), "{field}");
        }
        assert!(service["bindable"].is_boolean());
        assert!(ids.insert(service["id"].to_string()));
        let mut names = std::collections::BTreeSet::new();
        let plans = service["plans"].as_array().unwrap();
        assert!(!plans.is_empty());
        for plan in plans {
            assert!(ids.insert(plan["id"].to_string()) && names.insert(plan["name"].to_string()));
            assert!(!plan["description"].as_str().unwrap().is_empty());
        }
    }
}

#[tokio::test]
async fn osb_c5_and_c6_schemas_and_versions_are_as_the_spec_wants_them() {
    for plan in catalog().await["services"][0]["plans"].as_array().unwrap() {
        for (of, kind) in
            [("service_instance", "create"), ("service_instance", "update"), ("service_binding", "create")]
        {
            let schema = &plan["schemas"][of][kind]["parameters"];
            let text = schema.to_string();
            assert!(schema["$schema"].is_string() && text.len() <= 64 * 1024);
            assert!(text.split("\"$ref\":\"").skip(1).all(|rest| rest.starts_with('#')));
        }
        let version = plan["maintenance_info"]["version"].as_str().unwrap();
        assert_eq!(version.split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3, "{version}");
    }
}

#[tokio::test]
async fn osb_c7_what_is_offered_is_said() {
    let service = &catalog().await["services"][0];
    assert_eq!(
        (&service["plan_updateable"], &service["instances_retrievable"]),
        (&json!(true), &json!(true))
    );
    assert_eq!((&service["bindable"], &service["bindings_retrievable"]), (&json!(true), &json!(true)));
    assert_eq!(service["plans"][0]["binding_rotatable"], true);
    assert_eq!(service.get("requires"), None);
}

#[tokio::test]
async fn osb_a1_what_takes_time_is_only_done_for_who_waits() {
    let bench = Bench::live().await;
    for (method, uri, body) in [
        (Method::PUT, "/v2/service_instances/i-2".to_owned(), body()),
        (Method::PATCH, INSTANCE.to_owned(), limited("3/minute")),
        (Method::DELETE, delete_uri().replace("accepts_incomplete=true&", ""), Value::Null),
    ] {
        assert_eq!(code(&bench.send(method.clone(), &uri, &body).await), ASYNC, "{method}");
    }
}

#[tokio::test]
async fn osb_a2_a3_and_a4_the_same_request_while_it_is_in_progress_is_the_same_operation() {
    let bench = bench();
    let first = bench.send(Method::PUT, PUT, &body()).await;
    assert_eq!((first.0, bench.send(Method::PUT, PUT, &body()).await == first), (StatusCode::ACCEPTED, true));
    assert!((1..=10_000).contains(&first.1["operation"].as_str().unwrap().len()));
    bench.end(OperationState::Succeeded, |_| {}).await;
    let update = bench.send(Method::PATCH, PUT, &limited("3/minute")).await;
    assert_eq!(update.0, StatusCode::ACCEPTED);
    assert_eq!(bench.send(Method::PATCH, PUT, &limited("3/minute")).await, update);
    assert_eq!(code(&bench.send(Method::PATCH, PUT, &limited("4/minute")).await), BUSY, "another change");
    bench.end(OperationState::Succeeded, |_| {}).await;
    let gone = bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    assert_eq!(
        (gone.0, bench.send(Method::DELETE, &delete_uri(), &Value::Null).await == gone),
        (StatusCode::ACCEPTED, true)
    );
}

#[tokio::test]
async fn osb_a6_the_last_operation_is_told_until_there_is_another() {
    let bench = bench();
    assert_eq!(bench.send(Method::GET, LAST, &Value::Null).await.0, StatusCode::NOT_FOUND);
    bench.send(Method::PUT, PUT, &body()).await;
    for (ended, told) in [(None, "in progress"), (Some(OperationState::Succeeded), "succeeded")] {
        if let Some(state) = ended {
            bench.end(state, |_| {}).await;
        }
        let (status, answer) = bench.send(Method::GET, LAST, &Value::Null).await;
        assert_eq!((status, &answer["state"]), (StatusCode::OK, &json!(told)));
        assert!(!answer["description"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn osb_a7_a_poll_may_name_the_plan_before_the_change() {
    let bench = Bench::live().await;
    let internal = Plan::Internal.id();
    let mut change = change("/parameters/hosts", json!(["hello.internal.test"]));
    change["plan_id"] = json!(internal);
    assert_eq!(bench.send(Method::PATCH, PUT, &change).await.0, StatusCode::ACCEPTED);
    for plan in [STANDARD_PLAN_ID, internal] {
        let uri = format!("{LAST}?service_id={SERVICE_ID}&plan_id={plan}");
        assert_eq!(bench.send(Method::GET, &uri, &Value::Null).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn osb_k1_k2_and_k3_one_operation_at_a_time() {
    let bench = Bench::live().await;
    bench.send(Method::PATCH, PUT, &limited("3/minute")).await;
    assert_eq!(code(&bench.send(Method::GET, INSTANCE, &Value::Null).await), BUSY);
    assert_eq!(code(&bench.send(Method::DELETE, &delete_uri(), &Value::Null).await), BUSY);
    bench.end(OperationState::Succeeded, |_| {}).await;
    bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    assert_eq!(
        code(&bench.send(Method::PUT, PUT, &body()).await).0,
        409,
        "it is another's by its parameters"
    );
    assert_eq!(code(&bench.send(Method::PATCH, PUT, &limited("4/minute")).await), BUSY);
}

#[tokio::test]
async fn osb_p2_p3_and_p5_the_same_again_is_200_or_202_and_another_409() {
    let bench = bench();
    let other = {
        let mut other = body();
        other["space_guid"] = json!("another");
        other
    };
    assert_eq!(bench.send(Method::PUT, PUT, &body()).await.0, StatusCode::ACCEPTED);
    assert_eq!(bench.send(Method::PUT, PUT, &other).await.0, StatusCode::CONFLICT, "while it is made");
    bench.end(OperationState::Succeeded, |_| {}).await;
    assert_eq!(bench.send(Method::PUT, PUT, &body()).await, (StatusCode::OK, json!({})));
    assert_eq!(bench.send(Method::PUT, PUT, &other).await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn osb_p4_what_must_be_there_is() {
    let bench = bench();
    for field in ["service_id", "plan_id", "organization_guid", "space_guid"] {
        let mut body = body();
        body.as_object_mut().unwrap().remove(field);
        let (status, answer) = bench.send(Method::PUT, PUT, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{field}");
        assert!(answer["description"].as_str().unwrap().starts_with(field), "{answer}");
    }
}

#[tokio::test]
async fn osb_p6_and_u4_another_version_of_the_plan_is_a_conflict() {
    let bench = bench();
    let mut outdated = body();
    outdated["maintenance_info"] = json!({"version": "0.9.0"});
    let conflict = (422, Some("MaintenanceInfoConflict"));
    assert_eq!(code(&bench.send(Method::PUT, PUT, &outdated).await), conflict);
    outdated["maintenance_info"] = json!({"version": "1.0.0"});
    assert_eq!(bench.send(Method::PUT, PUT, &outdated).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn osb_u1_u2_and_u3_what_is_left_out_of_an_update_stays() {
    let bench = Bench::live().await;
    let nothing = json!({"service_id": SERVICE_ID});
    assert_eq!(bench.send(Method::PATCH, PUT, &nothing).await, (StatusCode::OK, json!({})));
    let mut to_internal = change("/parameters/hosts", json!(["hello.internal.test"]));
    to_internal["plan_id"] = json!(Plan::Internal.id());
    assert_eq!(bench.send(Method::PATCH, PUT, &to_internal).await.0, StatusCode::ACCEPTED);
    assert_eq!(state(&bench).await.plan(), Plan::Internal);
    bench.end(OperationState::Succeeded, |_| {}).await;
    let mut further = change("/parameters/hosts", json!(["hello.internal.test"]));
    further["parameters"]["rate_limits"] = json!([{"limit": "3/minute"}]);
    assert_eq!(bench.send(Method::PATCH, PUT, &further).await.0, StatusCode::ACCEPTED);
    assert_eq!(state(&bench).await.plan(), Plan::Internal, "without a plan_id the plan stays");
}

#[tokio::test]
async fn osb_u5_a_change_that_is_none_is_400() {
    let bench = Bench::live().await;
    for body in [json!({}), json!({"service_id": "x"}), json!({"service_id": SERVICE_ID, "plan_id": "x"})] {
        assert_eq!(bench.send(Method::PATCH, PUT, &body).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
}

#[tokio::test]
async fn osb_d1_d3_d4_and_o1_a_deletion_is_safe_whatever_there_is() {
    let bench = bench();
    for left_out in ["service_id", "plan_id"] {
        let uri = delete_uri().replace(left_out, "x");
        assert_eq!(
            bench.send(Method::DELETE, &uri, &Value::Null).await.0,
            StatusCode::BAD_REQUEST,
            "{left_out}"
        );
    }
    let (status, answer) = bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    assert_eq!((status, answer), (StatusCode::GONE, json!({})), "of what never was");
    bench.send(Method::PUT, PUT, &body()).await;
    bench.end(OperationState::Failed, |_| {}).await;
    let deleted = bench.send(Method::DELETE, &delete_uri(), &Value::Null).await;
    assert_eq!(deleted.0, StatusCode::ACCEPTED, "orphan mitigation of a failed provision");
    bench.end(OperationState::Succeeded, |instance| instance.gone = true).await;
    assert_eq!(bench.send(Method::GET, LAST, &Value::Null).await, (StatusCode::GONE, json!({})));
    assert_eq!(bench.send(Method::DELETE, &delete_uri(), &Value::Null).await.0, StatusCode::GONE);
}

#[tokio::test]
async fn osb_g1_an_instance_is_fetched_from_its_end_on() {
    let bench = bench();
    bench.send(Method::PUT, PUT, &body()).await;
    assert_eq!(bench.send(Method::GET, INSTANCE, &Value::Null).await.0, StatusCode::NOT_FOUND);
    bench.end(OperationState::Succeeded, |_| {}).await;
    let (status, answer) = bench.send(Method::GET, INSTANCE, &Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&answer["plan_id"], &answer["parameters"]), (&json!(STANDARD_PLAN_ID), &parameters()));
}

#[tokio::test]
async fn a_plan_allows_so_much_and_is_only_had_where_it_is_offered() {
    let bench = bench();
    let limits = model::plan::Limits { hosts: 1, routes: 1, ..model::plan::Limits::default() };
    let told = async |pointer: &str, value: Value, words: &str| {
        let mut body = body();
        *body.pointer_mut(pointer).unwrap() = value;
        let (status, answer) = bench.send(Method::PUT, PUT, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(answer["description"].as_str().unwrap().contains(words), "{answer}");
    };
    told("/plan_id", json!(Plan::Edge.id()), "plan_id: must be one of").await;
    let platforms = bench.platforms.borrow().as_ref().clone().with_limits(Plan::Standard, limits);
    bench.platforms.send_replace(Arc::new(platforms));
    let two = json!(["a.example.test", "b.example.test"]);
    told("/parameters/hosts", two, "hosts: at most 1 with the plan standard, got 2").await;
    told("/parameters/hosts", json!(["a.internal.test"]), "is a private name").await;
    let plan = json!({"plan": "internal"});
    let mut otherwise = parameters();
    otherwise.as_object_mut().unwrap().extend(plan.as_object().unwrap().clone());
    told("/parameters", otherwise, "plan: standard, which is what is ordered, got internal").await;
    let catalog = bench.send(Method::GET, "/v2/catalog", &Value::Null).await.1;
    let schema = &catalog["services"][0]["plans"][0]["schemas"]["service_instance"]["create"]["parameters"];
    assert_eq!(schema["properties"]["hosts"]["maxItems"], 1);
}
