//! Policies in Cedar, from the service file and operators' entities to what a real Envoy answers.

use std::{fs, path::PathBuf};

use reqwest::Method;
use serde_json::{Value, json};
use tests::{Lab, Service, eventually};

const SCHEMA: &str = "
entity Doc = { owner: User, archived: Bool };
entity Tenant;
";

const POLICIES: &str = r#"
@id("owners")
permit (principal, action, resource is Doc) when { resource.owner == principal };

@id("staff-reads")
permit (principal in Group::"staff", action in [Action::"GET", Action::"HEAD"], resource is Doc);

@id("own-tenant")
permit (principal, action, resource is Tenant)
when { principal has tenant && context.captures has tenant && context.captures.tenant == principal.tenant };

@id("archived")
forbid (principal, action in [Action::"PUT", Action::"DELETE"], resource is Doc) when { resource.archived };

@id("inside")
forbid (principal, action, resource == Path::"/open/inside")
unless { context.address.isInRange(ip("10.0.0.0/8")) };
"#;

/// Two documents, and a group in another one.
fn docs(owner: &str, archived: &Value) -> Value {
    let doc = |id: &str, archived: &Value| {
        json!({"uid": {"type": "Doc", "id": id}, "parents": [],
               "attrs": {"owner": {"__entity": {"type": "User", "id": owner}}, "archived": archived}})
    };
    let dev = json!({"uid": {"type": "Group", "id": "dev"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]});
    json!({"docs": [doc("a", archived), doc("old", &json!(true)), dev]})
}

/// A lab whose operators keep this list, and the file that it comes from.
async fn lab_with(entities: &Value) -> (Lab, PathBuf) {
    let mut file = PathBuf::new();
    let lab = Lab::with(|layout| {
        file = layout.data_dir.join("entities.json");
        fs::write(&file, entities.to_string()).expect("a file");
        let sources = layout.data_dir.join("sources.yaml");
        let text = format!("sources: {{entities: {{file: {}}}}}", file.display());
        fs::write(&sources, text).expect("a file");
        layout.control_plane_args.push(format!("--sources={}", sources.display()));
    })
    .await;
    (lab, file)
}

fn service(lab: &Lab) -> Service {
    let cedar = json!({
        "schema": SCHEMA,
        "policies": POLICIES,
        "resources": [
            {"path": "/docs/{doc}", "entity": "Doc", "id": "{doc}"},
            {"path": "/tenants/{tenant}", "entity": "Tenant", "id": "{tenant}"},
        ],
        "entities": "docs",
    });
    let rules = json!([{"allow": {"methods": ["GET"], "paths": ["/open"]}}]);
    lab.service("docs")
        .with("/auth/any/0/jwt/tenant_claim", json!("tid"))
        .with("/authz", json!({"rules": rules, "cedar": cedar}))
}

async fn token(lab: &Lab, subject: &str, claims: &[&str]) -> String {
    let mut args = vec!["token", "--audience", "docs", "--subject", subject];
    args.extend(claims.iter().flat_map(|claim| ["--claim", claim]));
    let (good, text) = lab.run(&args).await;
    assert!(good, "{text}");
    text.trim().to_owned()
}

/// The status, and the rule that the access log names.
async fn answers(lab: &Lab, method: &str, path: &str, token: &str, expected: (u16, &str)) {
    let method: Method = method.parse().expect("a method");
    let request = lab.request(method.clone(), "docs.example.test", path).bearer_auth(token);
    let answer = lab.send(request).await.expect("Envoy answers");
    assert_eq!(answer.status, expected.0, "{method} {path}: {}", answer.body);
    let record = lab.logged(path).await;
    assert_eq!(record["authz_rule"], expected.1, "{method} {path}");
}

#[tokio::test]
async fn policies_decide_by_groups_tenants_resources_and_entities() {
    let (lab, file) = lab_with(&docs("alice", &json!(false))).await;
    lab.live(&service(&lab)).await;
    let alice = token(&lab, "alice", &["tid=\"acme\""]).await;
    let bob = token(&lab, "bob", &[]).await;
    let dev = token(&lab, "carol", &["groups=[\"dev\"]"]).await;

    answers(&lab, "GET", "/docs/a", &alice, (200, "cedar:owners")).await;
    answers(&lab, "PUT", "/docs/a/by-alice", &alice, (200, "cedar:owners")).await;
    answers(&lab, "GET", "/docs/a/by-bob", &bob, (403, "default")).await;
    answers(&lab, "GET", "/docs/a/by-carol", &dev, (200, "cedar:staff-reads")).await;
    answers(&lab, "PUT", "/docs/a/put-by-carol", &dev, (403, "default")).await;
    answers(&lab, "DELETE", "/docs/old", &alice, (403, "cedar:archived")).await;

    answers(&lab, "GET", "/tenants/acme", &alice, (200, "cedar:own-tenant")).await;
    answers(&lab, "GET", "/tenants/other", &alice, (403, "default")).await;
    answers(&lab, "GET", "/tenants/acme/bob", &bob, (403, "default")).await;

    answers(&lab, "GET", "/open/x", &bob, (200, "rule-0")).await;
    answers(&lab, "GET", "/open/inside", &bob, (403, "cedar:inside")).await;
    let nobody = lab.get("docs.example.test", "/open/x", None).await;
    assert_eq!(nobody.status, 401);

    // A document that nobody has told the edge about has no owner: that is an error, and not a document for all.
    answers(&lab, "GET", "/docs/unknown", &alice, (403, "cedar-error:owners")).await;
    answers(&lab, "GET", "/docs/unknown/by-carol", &dev, (403, "cedar-error:owners")).await;

    fs::write(&file, docs("bob", &json!(false)).to_string()).expect("a file");
    eventually("the document is bob's", || async {
        (lab.get("docs.example.test", "/docs/a", Some(&bob)).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(lab.get("docs.example.test", "/docs/a", Some(&alice)).await.status, 403);

    // What the schema does not allow changes nothing, and operators are told.
    fs::write(&file, docs("alice", &json!("no")).to_string()).expect("a file");
    eventually("the status tells of the entities", || async {
        lab.status().await.to_string().contains("cedar.entities: ").then_some(())
    })
    .await;
    assert_eq!(lab.get("docs.example.test", "/docs/a", Some(&bob)).await.status, 200);
    lab.stop().await;
}

#[tokio::test]
async fn what_does_not_validate_is_refused_at_apply_with_its_line() {
    let (lab, _) = lab_with(&docs("alice", &json!(false))).await;
    let good = service(&lab);
    for (pointer, value, expected) in [
        (
            "/authz/cedar/policies",
            json!("permit (principal, action, resource is Doc)\nwhen { resource.ownr == principal };\n"),
            "parameters: authz.cedar.policies: line 2, column 8: for policy `policy-0`, attribute `ownr`",
        ),
        ("/authz/cedar/policies", json!("permit (principal)"), "parameters: authz.cedar.policies: line 1, "),
        (
            "/authz/cedar/schema",
            json!("entity Doc;\nentity Tenant\n"),
            "parameters: authz.cedar.schema: line 2, column 14: ",
        ),
        (
            "/authz/cedar/resources/1/entity",
            json!("Tenants"),
            "parameters: authz.cedar.resources[1].entity: a type of entity that the schema declares",
        ),
        ("/authz/default", json!("allow"), "parameters: authz.default: deny, where Cedar decides too"),
    ] {
        let answer = lab.provision(&good.clone().with(pointer, value)).await;
        assert_eq!(answer.status, 400, "{expected}");
        let description = answer.json()["description"].to_string();
        assert!(description.contains(expected), "{description}");
    }
    let unknown = good.with("/authz/cedar/entities", json!("nowhere"));
    assert_eq!(lab.provision(&unknown).await.status, 202);
    let (state, description) = lab.ended(&unknown).await;
    assert_eq!(state, "failed");
    let told = "authz_policies.yaml: resources[0].cedar.entities: a list that operators keep, got none";
    assert!(description.contains(told), "{description}");
    lab.stop().await;
}
