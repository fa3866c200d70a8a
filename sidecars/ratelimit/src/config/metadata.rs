//! Between JSON and protobuf's `Struct`.

use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use serde_json::Map;

pub(super) fn to_struct(map: Map<String, serde_json::Value>) -> Struct {
    Struct { fields: map.into_iter().map(|(name, value)| (name, to_value(value))).collect() }
}

fn to_value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        // Protobuf has no other numbers here.
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(to_value).collect() })
        }
        serde_json::Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    Value { kind: Some(kind) }
}

pub(super) fn to_json(map: Struct) -> Map<String, serde_json::Value> {
    map.fields.into_iter().map(|(name, value)| (name, value_to_json(value))).collect()
}

fn value_to_json(value: Value) -> serde_json::Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        // A whole number is one again: extensions have some.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(Kind::NumberValue(number))
            if number.fract().abs() < f64::EPSILON && (0.0..9e15).contains(&number) =>
        {
            (number as u64).into()
        }
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(value_to_json).collect(),
        Some(Kind::StructValue(map)) => to_json(map).into(),
    }
}
