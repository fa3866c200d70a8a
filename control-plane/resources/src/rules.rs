//! The rules that stand in the protos (protoc-gen-validate's `validate.rules`), which Envoy checks before it takes
//! a message. Read from the descriptors once for each message, and kept.

mod test;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use api::descriptor_pool;
use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, Kind,
    MessageDescriptor, OneofDescriptor, ReflectMessage as _, Value,
};

use self::test::{Test, is_empty, shown};
use crate::walk::{Path, Step};

/// A value that breaks a rule.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) path: Path,
    /// `envoy.config.cluster.v3.Cluster.connect_timeout/duration.gt`: what a template can except itself from.
    pub(crate) rule: String,
    /// The rule and the value.
    pub(crate) text: String,
    /// Nothing of the value may be shown.
    pub(crate) is_secret: bool,
}

/// Adds every rule that the message breaks by itself, without those inside it. Values are left out when `is_secret`.
pub(crate) fn check(path: &Path, message: &DynamicMessage, is_secret: bool, violations: &mut Vec<Violation>) {
    MessageRules::of(&message.descriptor()).check(path, message, is_secret, violations);
}

/// Whether there is such a rule: a typing error must not pass for an exception.
pub(crate) fn exists(rule: &str) -> bool {
    let Some((field, _)) = rule.split_once('/') else { return false };
    let message =
        field.rsplit_once('.').and_then(|(message, _)| descriptor_pool().get_message_by_name(message));
    message.is_some_and(|message| MessageRules::of(&message).ids().any(|id| id == rule))
}

/// Whether the protos mark the field as a secret (`udpa.annotations.sensitive`).
pub(crate) fn is_sensitive(field: &FieldDescriptor) -> bool {
    SENSITIVE.is_set(&field.options()) || OUR_SECRETS.contains(&field.full_name())
}

/// The fields of our own protos that hold secrets, or what one can be guessed by.
const OUR_SECRETS: [&str; 3] = [
    "gatehouse.authn.v1.Basic.User.hash",
    "gatehouse.authn.v1.IdentityKey.private_key",
    "gatehouse.authn.v1.Introspection.client_secret",
];

/// The rules of one message type, without those inside it.
#[derive(Debug, Default)]
struct MessageRules {
    one_of: Vec<OneofDescriptor>,
    fields: Vec<FieldRules>,
}

#[derive(Debug)]
struct FieldRules {
    field: FieldDescriptor,
    is_required: bool,
    /// `udpa.annotations.sensitive`
    is_sensitive: bool,
    value: Tests,
    /// Of the items of a list, or the values of a map.
    items: Tests,
    keys: Tests,
}

#[derive(Debug, Default)]
struct Tests {
    /// An empty value passes.
    ignores_empty: bool,
    /// With the rule's name: `uint32.lte`.
    tests: Vec<(String, Test)>,
}

static RULES: LazyLock<Extension> = LazyLock::new(|| Extension::new("validate.rules"));
static REQUIRED: LazyLock<Extension> = LazyLock::new(|| Extension::new("validate.required"));
static SENSITIVE: LazyLock<Extension> = LazyLock::new(|| Extension::new("udpa.annotations.sensitive"));
/// Bounded by the number of messages in the descriptors, about 1,600.
static KNOWN: LazyLock<Mutex<HashMap<String, Arc<MessageRules>>>> = LazyLock::new(Mutex::default);

/// An extension of the descriptors' options; its absence from the pinned ones would switch all checks off.
struct Extension(ExtensionDescriptor);

impl Extension {
    fn new(name: &str) -> Self {
        let found = descriptor_pool().get_extension_by_name(name);
        Self(found.unwrap_or_else(|| panic!("{name} is part of the pinned descriptors")))
    }

    fn of(&self, options: &DynamicMessage) -> Option<Value> {
        options.has_extension(&self.0).then(|| options.get_extension(&self.0).into_owned())
    }

    fn is_set(&self, options: &DynamicMessage) -> bool {
        self.of(options).and_then(|value| value.as_bool()).unwrap_or(false)
    }
}

impl MessageRules {
    fn of(message: &MessageDescriptor) -> Arc<Self> {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = known.get(message.full_name()) {
            return rules.clone();
        }
        let rules = Arc::new(Self::read(message));
        known.insert(message.full_name().to_owned(), rules.clone());
        rules
    }

    fn read(message: &MessageDescriptor) -> Self {
        Self {
            one_of: message.oneofs().filter(|one_of| REQUIRED.is_set(&one_of.options())).collect(),
            fields: message.fields().filter_map(FieldRules::read).collect(),
        }
    }

    fn check(&self, path: &Path, message: &DynamicMessage, is_secret: bool, violations: &mut Vec<Violation>) {
        for one_of in &self.one_of {
            if !one_of.fields().any(|field| message.has_field(&field)) {
                let choices: Vec<_> = one_of.fields().map(|field| field.name().to_owned()).collect();
                violations.push(Violation {
                    path: path.clone(),
                    rule: required(one_of),
                    text: format!("one of {} must be set, got none", choices.join(", ")),
                    is_secret,
                });
            }
        }
        for rules in &self.fields {
            rules.check(path, message, is_secret, violations);
        }
    }

    fn ids(&self) -> impl Iterator<Item = String> {
        self.one_of.iter().map(required).chain(self.fields.iter().flat_map(FieldRules::ids))
    }
}

fn required(one_of: &OneofDescriptor) -> String {
    format!("{}/required", one_of.full_name())
}

impl FieldRules {
    fn read(field: FieldDescriptor) -> Option<Self> {
        let options = field.options();
        let rules = RULES.of(&options)?;
        let rules = rules.as_message()?;
        let mut read = Self {
            is_required: false,
            is_sensitive: is_sensitive(&field),
            value: Tests::default(),
            items: Tests::default(),
            keys: Tests::default(),
            field,
        };
        let of = enum_of(&read.field);
        for (kind, of_kind) in rules.fields() {
            let Some(of_kind) = of_kind.as_message() else { continue };
            for (rule, value) in of_kind.fields() {
                match (kind.name(), rule.name()) {
                    (_, "required") => read.is_required |= value.as_bool().unwrap_or(false),
                    ("repeated", "items") | ("map", "values") => {
                        read.items = Tests::read(of.as_ref(), value);
                    }
                    ("map", "keys") => read.keys = Tests::read(None, value),
                    _ => read.value.add(of.as_ref(), kind.name(), of_kind, rule.name(), value),
                }
            }
        }
        Some(read)
    }

    fn check(&self, path: &Path, message: &DynamicMessage, is_secret: bool, violations: &mut Vec<Violation>) {
        let field = &self.field;
        let is_secret = is_secret || self.is_sensitive;
        let is_set = message.has_field(field);
        // Of a oneof, which may hold another field, the oneof says whether one is required.
        let is_choice = field.containing_oneof().is_some_and(|one_of| !one_of.is_synthetic());
        if self.is_required && !is_set && !is_choice {
            violations.push(Violation {
                path: path.to(Step::Field(field.clone())),
                rule: self.id("required"),
                text: "must be set, got nothing".into(),
                is_secret,
            });
            return;
        }
        let has_presence = field.supports_presence() && field.cardinality() != Cardinality::Repeated;
        if !is_set && has_presence {
            return;
        }
        let value = message.get_field(field);
        let mut check = |tests: &Tests, value: &Value, step: Option<Step>| {
            for (name, why) in tests.broken_by(value) {
                let path = path.to(Step::Field(field.clone()));
                let got = if is_secret { "what is not shown".to_owned() } else { shown(value) };
                violations.push(Violation {
                    path: step.clone().map_or_else(|| path.clone(), |step| path.to(step)),
                    rule: self.id(name),
                    text: format!("{why}, got {got}"),
                    is_secret,
                });
            }
        };
        check(&self.value, &value, None);
        match &*value {
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    check(&self.items, item, Some(Step::At(at)));
                }
            }
            Value::Map(entries) => {
                for (key, item) in entries {
                    check(&self.keys, &key.clone().into(), Some(Step::Of(key.clone())));
                    check(&self.items, item, Some(Step::Of(key.clone())));
                }
            }
            _ => {}
        }
    }

    fn id(&self, name: &str) -> String {
        format!("{}/{name}", self.field.full_name())
    }

    fn ids(&self) -> impl Iterator<Item = String> {
        let tests = [&self.value, &self.items, &self.keys].into_iter().flat_map(|tests| &tests.tests);
        let required = self.is_required.then(|| self.id("required"));
        tests.map(|(name, _)| self.id(name)).chain(required)
    }
}

/// Whose values the field, its items or its map's values are.
fn enum_of(field: &FieldDescriptor) -> Option<EnumDescriptor> {
    match field.kind() {
        Kind::Enum(of) => Some(of),
        Kind::Message(entry) if field.is_map() => enum_of(&entry.map_entry_value_field()),
        _ => None,
    }
}

impl Tests {
    /// Of a `FieldRules` message.
    fn read(of: Option<&EnumDescriptor>, rules: &Value) -> Self {
        let mut tests = Self::default();
        for (kind, of_kind) in rules.as_message().into_iter().flat_map(DynamicMessage::fields) {
            let Some(of_kind) = of_kind.as_message() else { continue };
            for (rule, value) in of_kind.fields() {
                tests.add(of, kind.name(), of_kind, rule.name(), value);
            }
        }
        tests
    }

    fn add(
        &mut self,
        of: Option<&EnumDescriptor>,
        kind: &str,
        of_kind: &DynamicMessage,
        rule: &str,
        value: &Value,
    ) {
        if rule == "ignore_empty" {
            self.ignores_empty = value.as_bool().unwrap_or(false);
        } else if let Some(test) = Test::read(of, kind, of_kind, rule, value) {
            self.tests.push((format!("{kind}.{rule}"), test));
        }
    }

    /// The names of the rules, and what they say.
    fn broken_by(&self, value: &Value) -> impl Iterator<Item = (&str, String)> {
        let tests = if self.ignores_empty && is_empty(value) { &[][..] } else { &self.tests };
        tests
            .iter()
            .filter(|(_, test)| !test.passes(value))
            .map(|(name, test)| (name.as_str(), test.to_string()))
    }
}
