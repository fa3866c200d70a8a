//! The error of every typed check.

use std::fmt;

/// A value that its type forbids: which field, which value, which rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}, got {value}")]
pub struct Invalid {
    /// Path of the field, as its author writes it: `any[0].jwt.audiences`.
    pub field: String,
    /// The offending value, shortened.
    pub value: String,
    /// What would be accepted.
    pub rule: String,
}

/// Longer values say nothing more and could fill a log.
const MAX_VALUE_CHARS: usize = 80;

impl Invalid {
    /// `value` is shown quoted and cut at 80 characters; never pass a secret.
    pub fn new(field: impl Into<String>, value: impl fmt::Display, rule: impl Into<String>) -> Self {
        let text = value.to_string();
        let mut shown: String = text.chars().take(MAX_VALUE_CHARS).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Self { field: field.into(), value: format!("{shown:?}"), rule: rule.into() }
    }

    /// A field that must be there and is not.
    pub fn missing(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), value: "nothing".into(), rule: rule.into() }
    }

    /// The same error, seen from the field that holds this one.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => parent.to_owned(),
            field if field.starts_with('[') => format!("{parent}{field}"),
            field => format!("{parent}.{field}"),
        };
        self
    }
}
