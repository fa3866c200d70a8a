//! The ids of service instances and of their bindings.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The id that the platform gave a service instance. Resources, policies and rate-limit domains are named
/// after it, so it holds nothing that could mean something in such a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(Arc<str>);

/// OSB asks for a globally unique, non-empty string, and recommends a GUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instance_id: 1 to 64 of the characters A-Z a-z 0-9 - . _, got {0:?}")]
pub struct InvalidInstanceId(String);

impl FromStr for InstanceId {
    type Err = InvalidInstanceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_plain(text) { Ok(Self(text.into())) } else { Err(InvalidInstanceId(shortened(text))) }
    }
}

fn is_plain(text: &str) -> bool {
    let fits = (1..=64).contains(&text.len());
    fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The id that the platform gave a binding; unique within its instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BindingId(String);

/// As ids of instances.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("binding_id: 1 to 64 of the characters A-Z a-z 0-9 - . _, got {0:?}")]
pub struct InvalidBindingId(String);

impl FromStr for BindingId {
    type Err = InvalidBindingId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_plain(text) { Ok(Self(text.to_owned())) } else { Err(InvalidBindingId(shortened(text))) }
    }
}

impl TryFrom<String> for BindingId {
    type Error = InvalidBindingId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<BindingId> for String {
    fn from(id: BindingId) -> Self {
        id.0
    }
}

impl fmt::Display for BindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidInstanceId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl InstanceId {
    /// Of an item of a context list, which owns resources as a service does. No platform can give such an id.
    pub fn of_item(list: &str, key: &str) -> Self {
        Self(format!("{list}/{key}").into())
    }

    /// Of something that concerns all instances, in the place of one.
    pub(crate) fn of_all(what: &'static str) -> Self {
        Self(what.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_break_out_of_a_resource_name_is_refused() {
        for id in ["", "a/b", "a@1", "a b", "ä", &"x".repeat(65), "a\n"] {
            assert!(id.parse::<InstanceId>().is_err() && id.parse::<BindingId>().is_err(), "{id:?}");
        }
        assert!("5d3a1c3e-1111-4222-8333-944445555666".parse::<InstanceId>().is_ok());
    }
}
