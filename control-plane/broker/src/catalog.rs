//! What platforms can order (OSB "Catalog Management").

use axum::extract::State;
use model::plan::{Limits, Plan};
use serde_json::{Value, json};

use crate::{Broker, answer::Answer};

/// Of the one service that there is.
pub const SERVICE_ID: &str = "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01";
/// Route, DNS and certificate.
pub const STANDARD_PLAN_ID: &str = Plan::Standard.id();

/// Of all plans: raised when what an instance gets changes so that its platform has to ask for it (OSB "Maintenance
/// Info").
pub(crate) const MAINTENANCE_VERSION: &str = "1.0.0";

/// A platform gives up on an operation after so long.
const MAX_POLLING_SECS: u32 = 600;
/// A CDN takes its time.
const MAX_POLLING_SECS_CDN: u32 = 7_200;

pub(crate) async fn catalog(State(broker): State<Broker>) -> Answer {
    let platforms = broker.platforms.borrow().clone();
    Answer::ok(document(&broker.plans, |plan| platforms.limits(plan)))
}

fn document(plans: &[Plan], limits: impl Fn(Plan) -> Limits) -> Value {
    let plans: Vec<_> = plans.iter().map(|plan| described(*plan, limits(*plan))).collect();
    json!({
        "services": [{
            "id": SERVICE_ID,
            "name": "gatehouse-edge",
            "description": "Hosts and routes at the edge, with authentication, authorization and rate limits",
            "tags": ["edge", "envoy", "http"],
            "bindable": true,
            "plan_updateable": true,
            "instances_retrievable": true,
            "bindings_retrievable": true,
            "metadata": { "displayName": "Gatehouse edge" },
            "plans": plans
        }]
    })
}

fn described(plan: Plan, limits: Limits) -> Value {
    let (description, polling) = match plan {
        Plan::Standard => ("Routes, DNS and a certificate", MAX_POLLING_SECS),
        Plan::Edge => ("Routes, DNS and a certificate, behind a CDN with a firewall", MAX_POLLING_SECS_CDN),
        Plan::Internal => {
            ("Routes, DNS and a certificate, within the company's networks only", MAX_POLLING_SECS)
        }
    };
    let mut parameters = model::service_schema().clone();
    let fields = &mut parameters["properties"];
    fields["plan"]["enum"] = json!([plan]);
    fields["hosts"]["maxItems"] = json!(limits.hosts);
    fields["routes"]["maxItems"] = json!(limits.routes);
    let schema = json!({ "parameters": parameters });
    let bullets = [
        format!("{} hosts", limits.hosts),
        format!("{} routes", limits.routes),
        format!("{} API keys for its clients", limits.bindings),
        format!("{} requests a second on each node", limits.requests_per_second),
    ];
    json!({
        "id": plan.id(),
        "name": plan,
        "description": description,
        "metadata": { "bullets": bullets },
        "free": true,
        "bindable": true,
        "binding_rotatable": true,
        "plan_updateable": true,
        "maximum_polling_duration": polling,
        "maintenance_info": { "version": MAINTENANCE_VERSION, "description": "The first" },
        "schemas": {
            "service_instance": { "create": schema, "update": schema },
            "service_binding": { "create": { "parameters": model::binding::bind_schema() } }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OSB "Schemas Object": `$schema` is there, no external references, at most 64 kB.
    #[test]
    fn the_published_schema_keeps_the_rules_of_osb() {
        let document = document(&Plan::ALL, |_| Limits::default());
        let plan = &document["services"][0]["plans"][0];
        let schema = &plan["schemas"]["service_instance"]["create"]["parameters"];
        assert!(schema["$schema"].is_string());
        let text = schema.to_string();
        assert!(text.len() <= 64 * 1024);
        assert!(
            text.match_indices("\"$ref\":\"").all(|(at, found)| text[at + found.len()..].starts_with('#'))
        );
    }
}
