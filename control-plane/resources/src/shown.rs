//! Resources for people: YAML in which secrets are redacted.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use crate::{
    Resource,
    rules::is_sensitive,
    walk::{inside, is_any},
};

const REDACTED: &str = "[redacted]";
const HEADER_MATCHER: &str = "envoy.config.route.v3.HeaderMatcher";

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
    if message.descriptor().full_name() == HEADER_MATCHER && compares_a_credential(message) {
        let others = message.fields_mut().filter(|(field, _)| field.name() != "name");
        others.for_each(|(_, value)| cover(value));
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

/// What a request must carry to be believed is as secret as a key, and Envoy has no other place for it.
fn compares_a_credential(matcher: &DynamicMessage) -> bool {
    let name = matcher.get_field_by_name("name");
    let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or_default().to_ascii_lowercase();
    name.starts_with("x-gatehouse-")
        || ["authorization", "proxy-authorization", "cookie"].contains(&name.as_str())
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
    fn what_a_credential_is_compared_with_is_redacted() {
        let text = "- name: a
  virtual_hosts:
  - name: a
    domains: ['*']
    routes:
    - match: {prefix: /, headers: [{name: x-gatehouse-origin, string_match: {exact: hunter2}}, {name: x-of, string_match: {exact: all}}]}
      direct_response: {status: 200}
";
        let shown = yaml("routes", text);
        assert!(shown.contains("exact: '[redacted]'") && shown.contains("exact: all"), "{shown}");
        assert!(shown.contains("x-gatehouse-origin") && !shown.contains("hunter2"), "{shown}");
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
