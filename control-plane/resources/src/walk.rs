//! Goes through a message and everything inside it, through `Any` too.

use std::{borrow::Cow, fmt};

use api::descriptor_pool;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value};

/// From the document to a message or a value in it: `resources[0].filter_chains[1].name`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Path(Vec<Step>);

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Field(FieldDescriptor),
    At(usize),
    Of(MapKey),
}

/// Deeper than any message that Envoy takes; an `Any` can hold another one, and so on.
const MAX_DEPTH: usize = 100;

impl Path {
    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The field that it ends in, or in whose list or map it ends.
    pub(crate) fn last_field(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| match step {
            Step::Field(field) => Some(field.name()),
            Step::At(_) | Step::Of(_) => None,
        })
    }

    /// The same path with another step.
    pub(crate) fn to(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(field) if at == 0 => f.write_str(field.name())?,
                Step::Field(field) => write!(f, ".{}", field.name())?,
                Step::At(index) => write!(f, "[{index}]")?,
                Step::Of(MapKey::String(key)) => write!(f, "[{key:?}]")?,
                Step::Of(key) => write!(f, "[{}]", Value::from(key.clone()))?,
            }
        }
        Ok(())
    }
}

/// Visits the message and every one inside it, each before those that it holds.
pub(crate) fn walk(message: &DynamicMessage, visit: &mut dyn FnMut(&Path, &DynamicMessage)) {
    descend(&mut Path::default(), message, visit);
}

fn descend(path: &mut Path, message: &DynamicMessage, visit: &mut dyn FnMut(&Path, &DynamicMessage)) {
    if path.0.len() > MAX_DEPTH {
        return;
    }
    let message = unpacked(message);
    visit(path, &message);
    for (field, value) in message.fields() {
        if !holds_messages(&field) {
            continue;
        }
        path.0.push(Step::Field(field));
        match value {
            Value::Message(inner) => descend(path, inner, visit),
            Value::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    path.0.push(Step::At(at));
                    if let Some(inner) = item.as_message() {
                        descend(path, inner, visit);
                    }
                    path.0.pop();
                }
            }
            Value::Map(entries) => {
                for (key, item) in entries {
                    path.0.push(Step::Of(key.clone()));
                    if let Some(inner) = item.as_message() {
                        descend(path, inner, visit);
                    }
                    path.0.pop();
                }
            }
            _ => {}
        }
        path.0.pop();
    }
}

/// What an `Any` holds stands in its place, in JSON and here.
fn unpacked(message: &DynamicMessage) -> Cow<'_, DynamicMessage> {
    if is_any(message) {
        inside(message).map_or(Cow::Borrowed(message), Cow::Owned)
    } else {
        Cow::Borrowed(message)
    }
}

pub(crate) fn is_any(message: &DynamicMessage) -> bool {
    message.descriptor().full_name() == "google.protobuf.Any"
}

/// What an `Any` holds, if it is of a type that we know.
pub(crate) fn inside(any: &DynamicMessage) -> Option<DynamicMessage> {
    let (url, body) = (any.get_field_by_name("type_url")?, any.get_field_by_name("value")?);
    let descriptor = descriptor_pool().get_message_by_name(url.as_str()?.rsplit('/').next()?)?;
    DynamicMessage::decode(descriptor, body.as_bytes()?.clone()).ok()
}

fn holds_messages(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            matches!(entry.map_entry_value_field().kind(), Kind::Message(_))
        }
        Kind::Message(_) => true,
        _ => false,
    }
}
