//! What a service writes to decide with Cedar.

use api::pb;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `authz.cedar` of the service file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cedar {
    /// What it adds to the schema of the engine.
    #[serde(default)]
    pub schema: String,
    /// In Cedar's policy syntax.
    pub policies: String,
    /// Which entity stands behind a path; the first that matches.
    #[serde(default)]
    pub resources: Vec<CedarResource>,
    /// The name of a list in the context source `entities`.
    #[serde(default)]
    pub entities: Option<String>,
    /// What `authz.tests` have in the place of that list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test_entities: Vec<Value>,
}

/// Which entity stands behind a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CedarResource {
    /// `/docs/{doc}` or `=/docs/{doc}`.
    pub path: String,
    /// A type of the schema.
    pub entity: String,
    /// With the captures of the path: `{doc}`.
    pub id: String,
}

impl Cedar {
    /// What the sidecar gets; the operators' list comes with the template.
    pub(crate) fn wire(&self) -> pb::authz::Cedar {
        let resources = self.resources.iter().map(|resource| pb::authz::cedar::Resource {
            path: resource.path.clone(),
            entity: resource.entity.clone(),
            id: resource.id.clone(),
        });
        pb::authz::Cedar {
            schema: self.schema.clone(),
            policies: self.policies.clone(),
            resources: resources.collect(),
            entities: String::new(),
        }
    }

    /// As the sidecar would get them; nothing where there are none.
    pub(crate) fn entities_for_tests(&self) -> String {
        if self.test_entities.is_empty() {
            return String::new();
        }
        Value::from(self.test_entities.clone()).to_string()
    }
}
