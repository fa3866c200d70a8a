//! What a service writes to decide with Cedar. Here it is only data: the broker reads it with the engine itself.

use serde::{Deserialize, Serialize};

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
