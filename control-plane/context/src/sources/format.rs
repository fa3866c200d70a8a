//! From text to a value.

use serde_json::Value;

use super::settings::Origin;

/// How a source is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Yaml,
    Json,
    Toml,
    Text,
}

impl Format {
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        match name {
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            "toml" => Ok(Self::Toml),
            "text" => Ok(Self::Text),
            _ => Err(format!("one of yaml, json, toml and text, got {name:?}")),
        }
    }

    /// By the ending of the name; JSON is YAML, so anything else is that.
    pub(crate) fn of(origin: &Origin) -> Self {
        let path = match origin {
            Origin::File(path) => path.to_string_lossy().into_owned(),
            Origin::Http { url, .. } => url.path().to_owned(),
            Origin::S3 { key, .. } => key.clone(),
            Origin::Inline(_) => return Self::Json,
        };
        match path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).as_deref() {
            Some("json") => Self::Json,
            Some("toml") => Self::Toml,
            Some("txt") => Self::Text,
            _ => Self::Yaml,
        }
    }

    /// Reads a text. Except for `text` it must be a mapping or a list: an error page is a YAML string too.
    pub(crate) fn parse(self, text: &str) -> Result<Value, String> {
        let value: Value = match self {
            Self::Text => return Ok(Value::String(text.to_owned())),
            Self::Json => serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?,
            Self::Toml => toml::from_str(text).map_err(|error| format!("not TOML: {}", error.message()))?,
            Self::Yaml => {
                // The generic reader is the one that refuses duplicate keys.
                let generic = serde_norway::from_str::<serde_norway::Value>(text);
                let generic = generic.map_err(|error| format!("not YAML: {error}"))?;
                serde_norway::from_value(generic).map_err(|error| format!("not YAML: {error}"))?
            }
        };
        match value {
            Value::Object(_) | Value::Array(_) => Ok(value),
            Value::Null => Err("a mapping or a list, got nothing".into()),
            other => {
                let shown: String = other.to_string().chars().take(MAX_SHOWN_CHARS).collect();
                Err(format!("a mapping or a list, got {shown}"))
            }
        }
    }
}

/// Enough to recognise an error page.
const MAX_SHOWN_CHARS: usize = 60;
