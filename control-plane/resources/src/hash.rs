//! The version of a resource: a hash of its content that does not depend on how it was encoded.
//!
//! Encoded protobuf will not do: maps encode in another order each time. So the hash is taken over the
//! canonical proto3 JSON with sorted keys.

use std::sync::Arc;

use prost_reflect::DynamicMessage;
use serde_json::Value;

/// 128 bits of BLAKE3, in hex.
const VERSION_HEX_CHARS: usize = 32;

pub(crate) fn version(message: &DynamicMessage) -> Result<Arc<str>, serde_json::Error> {
    let mut hasher = blake3::Hasher::new();
    feed(&mut hasher, &serde_json::to_value(message)?);
    Ok(hasher.finalize().to_hex()[..VERSION_HEX_CHARS].into())
}

/// The version of a set: a hash over names and versions, in the order given.
pub(crate) fn of_set<'a>(set: impl Iterator<Item = (&'a str, &'a str)>) -> Arc<str> {
    let mut hasher = blake3::Hasher::new();
    for (name, version) in set {
        tagged(&mut hasher, b'n', name.as_bytes());
        tagged(&mut hasher, b'v', version.as_bytes());
    }
    hasher.finalize().to_hex()[..VERSION_HEX_CHARS].into()
}

/// Each value is preceded by its type and length, so that different trees never feed the same bytes.
fn feed(hasher: &mut blake3::Hasher, value: &Value) {
    match value {
        Value::Null => tagged(hasher, b'n', b""),
        Value::Bool(is) => tagged(hasher, b'b', &[u8::from(*is)]),
        Value::Number(number) => tagged(hasher, b'#', number.to_string().as_bytes()),
        Value::String(text) => tagged(hasher, b's', text.as_bytes()),
        Value::Array(items) => {
            tagged(hasher, b'[', &(items.len() as u64).to_le_bytes());
            for item in items {
                feed(hasher, item);
            }
        }
        Value::Object(fields) => {
            tagged(hasher, b'{', &(fields.len() as u64).to_le_bytes());
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            for (name, field) in sorted {
                tagged(hasher, b'k', name.as_bytes());
                feed(hasher, field);
            }
        }
    }
}

fn tagged(hasher: &mut blake3::Hasher, tag: u8, bytes: &[u8]) {
    hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}
