//! What platforms can order (OSB "Catalog Management").

use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::answer::Answer;

/// Of the one service that there is.
pub const SERVICE_ID: &str = "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01";
/// Route, DNS and certificate.
pub const STANDARD_PLAN_ID: &str = "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e11";

/// Of all plans: raised when what an instance gets changes so that its platform has to ask for it (OSB "Maintenance
/// Info").
pub(crate) const MAINTENANCE_VERSION: &str = "1.0.0";

/// A platform gives up on an operation after so long.
const MAX_POLLING_SECS: u32 = 600;

pub(crate) async fn catalog() -> impl IntoResponse {
    Answer::ok(document())
}

fn document() -> Value {
    let schema = json!({ "parameters": model::service_schema() });
    json!({
        "services": [{
            "id": SERVICE_ID,
            "name": "gatehouse-edge",
            "description": "Hosts and routes at the edge, with authentication, authorization and rate limits",
            "tags": ["edge", "envoy", "http"],
            "bindable": false,
            "plan_updateable": false,
            "instances_retrievable": true,
            "metadata": { "displayName": "Gatehouse edge" },
            "plans": [{
                "id": STANDARD_PLAN_ID,
                "name": "standard",
                "description": "Routes, DNS and a certificate",
                "free": true,
                "bindable": false,
                "plan_updateable": false,
                "maximum_polling_duration": MAX_POLLING_SECS,
                "maintenance_info": { "version": MAINTENANCE_VERSION, "description": "The first" },
                "schemas": { "service_instance": { "create": schema, "update": schema } }
            }]
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OSB "Schemas Object": `$schema` is there, no external references, at most 64 kB.
    #[test]
    fn the_published_schema_keeps_the_rules_of_osb() {
        let plan = &document()["services"][0]["plans"][0];
        let schema = &plan["schemas"]["service_instance"]["create"]["parameters"];
        assert!(schema["$schema"].is_string());
        let text = schema.to_string();
        assert!(text.len() <= 64 * 1024);
        assert!(
            text.match_indices("\"$ref\":\"").all(|(at, found)| text[at + found.len()..].starts_with('#'))
        );
    }
}
