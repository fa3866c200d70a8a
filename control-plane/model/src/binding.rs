//! Bindings: an API key of a service for one of its clients (OSB "Binding").

use std::{fmt, sync::LazyLock};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    BindingId, SecretHash,
    instance::{OperationKind, OperationState},
};

/// What a service has given to one of its clients.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    /// What the platform asked for, kept as it came, to tell a repeat from a conflict.
    pub request: BindRequest,
    /// What the sidecars know of the key.
    pub key: ApiKey,
    /// The secret, until it was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The newest operation upon it: its id,
    pub operation: String,
    /// whether it binds or unbinds,
    pub kind: OperationKind,
    /// how far it is,
    pub state: OperationState,
    /// and that for people.
    pub description: String,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("key", &self.key)
            .field("kind", &self.kind)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// What a platform asks for in a bind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BindRequest {
    /// Of the catalog.
    pub service_id: String,
    /// Of the catalog.
    pub plan_id: String,
    /// What the key is for, as the platform knows it: opaque to us.
    pub bind_resource: Option<Value>,
    /// The binding that this one takes the place of.
    pub predecessor: Option<BindingId>,
    /// [`BindParameters`], as they came.
    pub parameters: Option<Value>,
}

/// A key as the sidecars get it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    /// What stands before the secret: hexadecimal.
    pub id: String,
    /// Of the secret.
    pub hash: SecretHash,
    /// Who has it, as the service's upstream and its rules are told.
    pub subject: String,
    /// What its bearer may do.
    pub scopes: Vec<String>,
}

/// The `parameters` of a bind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BindParameters {
    /// Who has the key; without it what the platform binds.
    pub name: Option<String>,
    /// What its bearer may do.
    pub scopes: Vec<String>,
}

/// In the header, before id and secret: what tools that look for leaked secrets can find a key by.
pub const KEY_PREFIX: &str = "gatehouse_";

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let word = json!({ "type": "string", "pattern": "^[\\x21-\\x7e]+$", "maxLength": 256 });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "An API key",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": { "description": "Who has the key; the service is told it as the subject.", "allOf": [word] },
            "scopes": {
                "description": "What its bearer may do, for the rules of the service.",
                "type": "array",
                "maxItems": 50,
                "uniqueItems": true,
                "items": word
            }
        }
    })
});

static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| match jsonschema::draft7::new(&SCHEMA) {
        Ok(validator) => validator,
        Err(error) => panic!("the schema is part of the binary and must be one: {error}"),
    });

/// The JSON Schema that the catalog publishes.
pub fn bind_schema() -> &'static Value {
    &SCHEMA
}

impl BindParameters {
    /// Nothing is as good as an empty object.
    ///
    /// # Errors
    /// They are not what the schema says; the text names field and rule.
    pub fn parse(parameters: Option<&Value>) -> Result<Self, String> {
        let Some(parameters) = parameters.filter(|parameters| !parameters.is_null()) else {
            return Ok(Self::default());
        };
        if let Some(error) = VALIDATOR.iter_errors(parameters).next() {
            return Err(crate::service_file::told(&error));
        }
        serde_json::from_value(parameters.clone()).map_err(|error| error.to_string())
    }
}

impl Binding {
    /// Whether requests may use it, as far as it is asked for: not when it is to go, and not when it never came.
    pub(crate) fn is_wanted(&self) -> bool {
        self.kind == OperationKind::Bind && self.state != OperationState::Failed
    }

    /// Its last operation is under way.
    pub fn in_progress(&self) -> bool {
        self.state == OperationState::InProgress
    }

    /// It was made, and nothing came after that.
    pub fn is_made(&self) -> bool {
        self.kind == OperationKind::Bind && self.state == OperationState::Succeeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_bind_are_checked_by_field() {
        let read = |value: Value| BindParameters::parse(Some(&value));
        let good = read(json!({"name": "billing", "scopes": ["read:hello"]})).unwrap();
        assert_eq!((good.name.as_deref(), good.scopes.len()), (Some("billing"), 1));
        assert_eq!(read(Value::Null), Ok(BindParameters::default()));
        for (value, words) in [
            (json!([]), "is not of type"),
            (json!({"nam": "x"}), "'nam' was unexpected"),
            (json!({"name": "a b"}), "name: "),
            (json!({"name": 7}), "name: "),
            (json!({"scopes": ["a", "a"]}), "scopes: "),
            (json!({"scopes": [""]}), "scopes[0]: "),
        ] {
            let told = read(value).unwrap_err();
            assert!(told.contains(words), "{told}");
        }
    }
}
