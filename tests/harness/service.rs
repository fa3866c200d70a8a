//! Service files for tests.

use model::plan::Plan;
use serde_json::{Value, json};

/// A service file that works, to be changed by a test.
#[derive(Debug, Clone)]
pub struct Service {
    /// The parameters, as the broker takes them.
    pub parameters: Value,
}

impl Service {
    /// `name.example.test`, readable with the scope `read:<name>`, in front of the lab's upstream.
    pub fn new(name: &str, upstream_port: u16) -> Self {
        let parameters = json!({
            "service": name,
            "hosts": [format!("{name}.example.test")],
            "routes": [{"path": "/", "upstream": {"urls": [format!("http://127.0.0.1:{upstream_port}")]}}],
            "auth": {
                "any": [{"jwt": {"issuer": "https://id.example.test/", "audiences": [name], "algorithms": ["ES256"]}}],
                "anonymous": ["/healthz"]
            },
            "authz": {"rules": [{"allow": {"methods": ["GET"], "paths": ["/"], "scopes": [format!("read:{name}")]}}]},
        });
        Self { parameters }
    }

    /// Changes one field, by JSON pointer.
    #[must_use]
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        if let Some(place) = self.parameters.pointer_mut(pointer) {
            *place = value;
        } else {
            let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
            self.parameters.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"))[key] = value;
        }
        self
    }

    /// Opens it to API keys too.
    #[must_use]
    pub fn with_keys(mut self) -> Self {
        let any = self.parameters.pointer_mut("/auth/any").and_then(Value::as_array_mut);
        any.expect("a list").push(json!({"api_key": {}}));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.parameters["service"].as_str().unwrap_or_default()
    }

    /// Its first host.
    pub fn host(&self) -> &str {
        self.parameters["hosts"][0].as_str().unwrap_or_default()
    }

    /// The OSB id of the plan that it asks for.
    pub fn plan_id(&self) -> &'static str {
        let plan = self.parameters["plan"].as_str();
        Plan::ALL.into_iter().find(|one| Some(one.name()) == plan).unwrap_or_default().id()
    }

    /// The instance id that tests give it.
    pub fn id(&self) -> String {
        format!("id-{}", self.name())
    }
}
