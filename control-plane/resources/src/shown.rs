//! Resources for people: YAML in which secrets are redacted.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};

use crate::{
    Resource,
    rules::is_sensitive,
    walk::{inside, is_any},
};

const REDACTED: &str = "[redacted]";

impl Resource {
    /// As YAML. What the protos mark as sensitive (`udpa.annotations.sensitive`) is redacted, through any depth.
    ///
    /// # Errors
    /// Never, for a resource that went through `decode`.
    pub fn yaml(&self) -> Result<String, String> {
        let mut message = self.message()?;
        redact(&mut message);
        serde_norway::to_string(&message).map_err(|error| error.to_string())
    }
}

fn redact(message: &mut DynamicMessage) {
    if is_any(message) {
        redact_inside(message);
        return;
    }
    for (field, value) in message.fields_mut() {
        if is_sensitive(&field) {
            cover(value);
        } else {
            each(value, &mut |value| {
                if let Value::Message(inner) = value {
                    redact(inner);
                }
            });
        }
    }
}

fn redact_inside(any: &mut DynamicMessage) {
    let body = inside(any).map(|mut inner| {
        redact(&mut inner);
        inner.encode_to_vec()
    });
    // What cannot be read might be a secret.
    any.set_field_by_name("value", Value::Bytes(body.unwrap_or_default().into()));
}

/// The items of a list or a map, or the value itself.
fn each(value: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::List(items) => items.iter_mut().for_each(visit),
        Value::Map(entries) => entries.values_mut().for_each(visit),
        value => visit(value),
    }
}

fn cover(value: &mut Value) {
    each(value, &mut |value| match value {
        Value::String(text) => REDACTED.clone_into(text),
        Value::Bytes(bytes) => *bytes = Bytes::from_static(REDACTED.as_bytes()),
        // The leaves of what is sensitive as a whole; numbers and choices tell nothing by themselves.
        Value::Message(message) => message.fields_mut().for_each(|(_, inner)| cover(inner)),
        _ => {}
    });
}

#[cfg(test)]
mod tests {
    use model::document::Document;

    use crate::{Bootstrap, decode};

    #[track_caller]
    fn yaml(kind: &str, text: &str) -> String {
        let document =
            Document { kind: kind.into(), text: format!("resources:\n{text}"), ..Document::default() };
        let resources = decode(&document, &Bootstrap::default()).unwrap_or_else(|error| panic!("{error}"));
        resources[0].yaml().unwrap()
    }

    #[test]
    fn keys_are_redacted_and_certificates_are_not() {
        let text = "- {name: a, tls_certificate: {certificate_chain: {inline_string: chain}, private_key: \
                    {inline_string: key}, password: {inline_bytes: a2V5}}}";
        let shown = yaml("secrets", text);
        assert!(shown.contains("chain") && shown.contains("[redacted]"), "{shown}");
        assert!(!shown.contains("inlineString: key") && !shown.contains("a2V5"), "{shown}");
    }

    #[test]
    fn a_secret_inside_an_any_is_redacted() {
        let text = "- name: a
  type: STATIC
  typed_extension_protocol_options:
    x:
      '@type': type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProtocolOptions
      auth_password: {inline_string: hunter2}
";
        let shown = yaml("clusters", text);
        assert!(shown.contains("[redacted]") && !shown.contains("hunter2"), "{shown}");
    }
}
