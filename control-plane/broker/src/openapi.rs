//! What can be asked here, as an `OpenAPI` 3.1 document: for client generators and for tests, which ask all of it.

use axum::Json;
use model::plan::Plan;
use serde_json::{Value, json};

use crate::{SERVICE_ID, STANDARD_PLAN_ID};

pub(crate) async fn openapi() -> Json<Value> {
    Json(document())
}

/// Inside this document references begin at its root.
fn service_schema() -> Value {
    let text = model::service_schema().to_string();
    let text = text.replace("\"#/definitions/", "\"#/components/schemas/Service/definitions/");
    serde_json::from_str(&text).unwrap_or_default()
}

fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gatehouse's service broker",
            "version": "2.17",
            "description": "The Open Service Broker API, 2.17: https://github.com/openservicebrokerapi/servicebroker"
        },
        "security": [{ "platform": [] }],
        "paths": {
            "/v2/catalog": { "get": operation("catalog", "What can be ordered", &[VERSION], None, &[
                ("200", "The catalog", "Catalog"),
            ]) },
            "/v2/service_instances/{instance_id}": {
                "put": operation("provision", "Order a service", &[VERSION, ID, INCOMPLETE, IDENTITY],
                    Some("Provision"), &[
                    ("200", "It is there, and just so", "Empty"),
                    ("202", "It is being made", "Accepted"),
                    ("409", "It is there, and otherwise", "Error"),
                    ("422", "It cannot be had, or only asynchronously, or not now", "Error"),
                ]),
                "patch": operation("update", "Change a service", &[VERSION, ID, INCOMPLETE, IDENTITY],
                    Some("Update"), &[
                    ("200", "There is nothing to change", "Empty"),
                    ("202", "It is being changed", "Accepted"),
                    ("404", "There is none", "Error"),
                    ("422", "It cannot be had, or only asynchronously, or not now", "Error"),
                ]),
                "delete": operation("deprovision", "Take a service away",
                    &[VERSION, ID, INCOMPLETE, IDENTITY, SERVICE, PLAN], None, &[
                    ("202", "It is being taken away", "Accepted"),
                    ("410", "There is none", "Empty"),
                    ("422", "Only asynchronously, or not now", "Error"),
                ]),
                "get": operation("fetch", "What a service is", &[VERSION, ID], None, &[
                    ("200", "As it was ordered", "Instance"),
                    ("404", "There is none, or it is being made", "Error"),
                    ("422", "It is being changed", "Error"),
                ]),
            },
            "/v2/service_instances/{instance_id}/last_operation": {
                "get": operation("last_operation", "How far an order is", &[VERSION, ID, OPERATION], None, &[
                    ("200", "So far", "LastOperation"),
                    ("404", "There is no such service", "Error"),
                    ("410", "It is gone", "Empty"),
                ]),
            },
            "/v2/service_instances/{instance_id}/service_bindings/{binding_id}": {
                "put": operation("bind", "Give an API key to a client of a service",
                    &[VERSION, ID, BINDING, INCOMPLETE, IDENTITY], Some("Bind"), &[
                    ("200", "It is there, and just so", "Binding"),
                    ("202", "It is being made", "Accepted"),
                    ("404", "There is no such service", "Error"),
                    ("409", "It is there, and otherwise", "Error"),
                    ("422", "It cannot be had, or only asynchronously, or not now", "Error"),
                ]),
                "delete": operation("unbind", "Take an API key away",
                    &[VERSION, ID, BINDING, INCOMPLETE, IDENTITY, SERVICE, PLAN], None, &[
                    ("202", "It is being taken away", "Accepted"),
                    ("410", "There is none", "Empty"),
                    ("422", "Only asynchronously, or not now", "Error"),
                ]),
                "get": operation("fetch_binding", "The key: with its secret the first time, and never again",
                    &[VERSION, ID, BINDING], None, &[
                    ("200", "The key", "Binding"),
                    ("404", "There is none, or it is being made or taken away", "Error"),
                    ("422", "Others ask for it at the same time", "Error"),
                ]),
            },
            "/v2/service_instances/{instance_id}/service_bindings/{binding_id}/last_operation": {
                "get": operation("last_binding_operation", "How far a binding is",
                    &[VERSION, ID, BINDING, OPERATION], None, &[
                    ("200", "So far", "LastOperation"),
                    ("404", "There is no such binding", "Error"),
                    ("410", "It is gone", "Empty"),
                ]),
            },
        },
        "components": {
            "securitySchemes": { "platform": { "type": "http", "scheme": "basic" } },
            "parameters": parameters(),
            "schemas": schemas(),
        },
    })
}

const VERSION: &str = "Version";
const ID: &str = "InstanceId";
const BINDING: &str = "BindingId";
const INCOMPLETE: &str = "AcceptsIncomplete";
const IDENTITY: &str = "OriginatingIdentity";
const SERVICE: &str = "ServiceId";
const PLAN: &str = "PlanId";
const OPERATION: &str = "Operation";

/// With the answers that every call may have.
fn operation(
    id: &str,
    summary: &str,
    parameters: &[&str],
    body: Option<&str>,
    answers: &[(&str, &str, &str)],
) -> Value {
    let reference = |kind: &str, name: &str| json!({ "$ref": format!("#/components/{kind}/{name}") });
    let json_of = |schema: &str| json!({ "application/json": { "schema": reference("schemas", schema) } });
    let everywhere = [
        ("400", "A field is missing or wrong; the description names it", "Error"),
        ("401", "Credentials are missing or wrong", "Error"),
        ("412", "The version of the API is missing or another one", "Error"),
    ];
    let responses: serde_json::Map<_, _> = (answers.iter().chain(&everywhere))
        .map(|(status, description, schema)| {
            let response = json!({ "description": description, "content": json_of(schema) });
            ((*status).to_owned(), response)
        })
        .collect();
    let parameters: Vec<_> = parameters.iter().map(|name| reference("parameters", name)).collect();
    let mut operation = json!({
        "operationId": id,
        "summary": summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = body {
        operation["requestBody"] = json!({ "required": true, "content": json_of(body) });
        let too_large =
            json!({ "description": "The body is larger than 1 MiB", "content": json_of("Error") });
        operation["responses"]["413"] = too_large;
    }
    operation
}

fn plan_ids() -> Value {
    json!({ "enum": Plan::ALL.map(Plan::id), "example": STANDARD_PLAN_ID })
}

/// A small service.
fn example() -> Value {
    json!({
        "service": "hello",
        "hosts": ["hello.example.test"],
        "routes": [{ "path": "/", "upstream": { "urls": ["https://hello.internal.example:8443"] } }],
        "auth": { "anonymous": ["/"] },
        "authz": { "default": "allow" }
    })
}

fn parameters() -> Value {
    let parameter = |name: &str, place: &str, required: bool, schema: Value| json!({ "name": name, "in": place, "required": required, "schema": schema });
    json!({
        VERSION: parameter("X-Broker-API-Version", "header", true,
            json!({ "type": "string", "pattern": "^2\\.[0-9]{1,9}$", "example": "2.17" })),
        ID: parameter("instance_id", "path", true,
            json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$", "example": "id-hello" })),
        BINDING: parameter("binding_id", "path", true,
            json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$", "example": "key-1" })),
        INCOMPLETE: parameter("accepts_incomplete", "query", false, json!({ "enum": ["true", "false"] })),
        IDENTITY: parameter("X-Broker-API-Originating-Identity", "header", false,
            json!({ "type": "string", "example": "cloudfoundry eyJ1c2VyX2lkIjogIjEifQ==" })),
        SERVICE: parameter("service_id", "query", true, json!({ "const": SERVICE_ID })),
        PLAN: parameter("plan_id", "query", true, plan_ids()),
        OPERATION: parameter("operation", "query", false, json!({ "type": "string", "maxLength": 10_000 })),
    })
}

fn schemas() -> Value {
    let id = json!({ "type": "string", "minLength": 1 });
    let maintenance = json!({
        "type": "object",
        "required": ["version"],
        "properties": { "version": { "type": "string" } }
    });
    json!({
        "Service": service_schema(),
        "Empty": { "type": "object", "maxProperties": 0 },
        "Error": {
            "type": "object",
            "required": ["description"],
            "properties": {
                "error": { "enum": ["AsyncRequired", "ConcurrencyError", "MaintenanceInfoConflict"] },
                "description": { "type": "string", "minLength": 1 }
            }
        },
        "Accepted": {
            "type": "object",
            "required": ["operation"],
            "properties": { "operation": { "type": "string", "minLength": 1, "maxLength": 10_000 } }
        },
        "Provision": {
            "type": "object",
            "required": ["service_id", "plan_id", "organization_guid", "space_guid", "parameters"],
            "properties": {
                "service_id": { "const": SERVICE_ID },
                "plan_id": plan_ids(),
                "organization_guid": id,
                "space_guid": id,
                "context": { "type": "object" },
                "maintenance_info": maintenance,
                "parameters": { "$ref": "#/components/schemas/Service" }
            },
            "example": {
                "service_id": SERVICE_ID, "plan_id": STANDARD_PLAN_ID, "organization_guid": "o", "space_guid": "s",
                "parameters": example()
            }
        },
        "Update": {
            "type": "object",
            "required": ["service_id"],
            "properties": {
                "service_id": { "const": SERVICE_ID },
                "plan_id": plan_ids(),
                "context": { "type": "object" },
                "maintenance_info": maintenance,
                "parameters": { "$ref": "#/components/schemas/Service" }
            },
            "example": { "service_id": SERVICE_ID, "parameters": example() }
        },
        "Bind": bind(),
        "Binding": binding(&id),
        "Instance": {
            "type": "object",
            "required": ["service_id", "plan_id", "parameters"],
            "properties": {
                "service_id": { "const": SERVICE_ID },
                "plan_id": { "type": "string" },
                "parameters": { "type": "object" },
                "maintenance_info": maintenance
            }
        },
        "LastOperation": {
            "type": "object",
            "required": ["state", "description"],
            "properties": {
                "state": { "enum": ["in progress", "succeeded", "failed"] },
                "description": { "type": "string", "minLength": 1 },
                "instance_usable": { "type": "boolean" },
                "update_repeatable": { "type": "boolean" },
                "steps": { "type": "array", "items": { "type": "object" } },
                "revision": { "type": "integer" }
            }
        },
        "Catalog": {
            "type": "object",
            "required": ["services"],
            "properties": { "services": { "type": "array", "items": {
                "type": "object",
                "required": ["id", "name", "description", "bindable", "plans"],
                "properties": {
                    "id": id, "name": id, "description": id, "bindable": { "type": "boolean" },
                    "plans": { "type": "array", "minItems": 1, "items": {
                        "type": "object",
                        "required": ["id", "name", "description"],
                        "properties": { "id": id, "name": id, "description": id }
                    } }
                }
            } } }
        }
    })
}

fn bind() -> Value {
    json!({
        "type": "object",
        "required": ["service_id", "plan_id"],
        "properties": {
            "service_id": { "const": SERVICE_ID },
            "plan_id": plan_ids(),
            "context": { "type": "object" },
            "bind_resource": { "type": "object" },
            "predecessor_binding_id": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" },
            "parameters": model::binding::bind_schema()
        },
        "example": {
            "service_id": SERVICE_ID, "plan_id": STANDARD_PLAN_ID, "parameters": { "name": "billing" }
        }
    })
}

fn binding(id: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["credentials", "endpoints"],
        "properties": {
            "credentials": {
                "type": "object",
                "required": ["api_key_id", "header", "subject", "scopes", "uris"],
                "properties": {
                    "api_key_id": id,
                    "api_key_secret": { "description": "The first time only", "type": "string" },
                    "api_key": { "description": "Id and secret, as requests carry them", "type": "string" },
                    "header": { "type": ["string", "null"] },
                    "subject": id,
                    "scopes": { "type": "array", "items": id },
                    "uris": { "type": "array", "items": id }
                }
            },
            "endpoints": { "type": "array", "items": {
                "type": "object",
                "required": ["host", "ports"],
                "properties": {
                    "host": id, "ports": { "type": "array", "items": id }, "protocol": { "type": "string" }
                }
            } },
            "parameters": { "type": "object" }
        }
    })
}

#[cfg(test)]
mod tests {
    use model::{ServiceFile, UpstreamRule};

    use super::*;

    #[test]
    fn the_example_can_be_ordered() {
        ServiceFile::parse(&example(), UpstreamRule::NoLoopback).unwrap();
    }

    /// Every reference of the document leads somewhere in it.
    #[test]
    fn no_reference_dangles() {
        let document = document();
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
        let mut count = 0;
        for reference in references {
            assert!(document.pointer(reference).is_some(), "{reference}");
            count += 1;
        }
        assert!(count > 50, "{count}");
    }
}
