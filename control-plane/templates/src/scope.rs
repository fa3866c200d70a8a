//! What every template sees: the edge's settings and the context, made ready once for thousands of renders.

use std::collections::BTreeMap;

use minijinja::{Value, value::Serde};
use model::{
    InstanceId,
    context::{Item, Values},
    node::Transport,
};
use serde_json::{Value as Json, json};

/// The variables `edge` and `context`.
#[derive(Debug, Clone)]
pub struct Scope {
    pub(crate) edge: Value,
    pub(crate) context: Value,
    stream: Value,
    rest: Value,
}

/// A list that is none; what was rendered of it before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("context.{list}{place}: {rule}")]
pub struct InvalidList {
    list: String,
    place: String,
    rule: String,
}

/// A fleet's hosts; each item costs a few KB of resources.
const MAX_ITEMS: usize = 100_000;
/// A name that is longer is none.
const MAX_KEY_CHARS: usize = 256;

impl Scope {
    /// Of the edge's settings and the context's values.
    pub fn new(edge: &Json, values: &Values) -> Self {
        let source = |transport| Value::from(Serde(&config_source(transport, edge)));
        Self {
            edge: Value::from(Serde(edge)),
            context: Value::from(Serde(values)),
            stream: source(Transport::Stream),
            rest: source(Transport::Rest),
        }
    }

    /// Where a resource says that those which it names come from: the stream that it came by itself, or polls.
    pub(crate) fn config_source(&self, transport: Transport) -> Value {
        match transport {
            Transport::Stream => self.stream.clone(),
            Transport::Rest => self.rest.clone(),
        }
    }
}

fn config_source(transport: Transport, edge: &Json) -> Json {
    match transport {
        Transport::Stream => json!({"ads": {}, "resource_api_version": "V3"}),
        Transport::Rest => json!({
            "resource_api_version": "V3",
            "api_config_source": {
                "api_type": "REST",
                "transport_api_version": "V3",
                "cluster_names": [edge["rest"]["cluster"]],
                "refresh_delay": edge["rest"]["refresh_delay"],
                "request_timeout": edge["rest"]["request_timeout"],
            },
        }),
    }
}

/// The items of a list in the context, by their ids.
///
/// # Errors
/// The first item that cannot be told apart from the others, or the list itself.
pub fn items(list: &str, key: &str, values: &Values) -> Result<BTreeMap<InstanceId, Item>, InvalidList> {
    let refuse = |place: String, rule: String| InvalidList { list: list.to_owned(), place, rule };
    let mut path = list.split('.');
    let source = path.next().and_then(|name| values.get(name)).map(|value| &**value);
    let found = path.fold(source, |value, name| value?.get(name));
    let found = found.ok_or_else(|| refuse(String::new(), "is not in the context".into()))?;
    let found = found.as_array().ok_or_else(|| refuse(String::new(), "must be a list".into()))?;
    if found.len() > MAX_ITEMS {
        return Err(refuse(String::new(), format!("at most {MAX_ITEMS} items, got {}", found.len())));
    }
    let mut items = BTreeMap::new();
    for (at, value) in found.iter().enumerate() {
        let place = || format!("[{at}].{key}");
        let name = value.get(key).and_then(Json::as_str).filter(|name| is_key(name));
        let name =
            name.ok_or_else(|| refuse(place(), format!("a text of 1 to {MAX_KEY_CHARS} characters")))?;
        let id = InstanceId::of_item(list, name);
        let item = Item { id: id.clone(), list: list.into(), value: value.clone() };
        if items.insert(id, item).is_some() {
            return Err(refuse(place(), format!("must be another one for each item, got {name:?} twice")));
        }
    }
    Ok(items)
}

fn is_key(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= MAX_KEY_CHARS && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[track_caller]
    fn check(list: &str, hosts: Json, expected: &str) {
        let values = Values::from([("hosts".to_owned(), Arc::new(hosts))]);
        let told = match items(list, "name", &values) {
            Ok(items) => items.keys().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn items_are_told_apart_by_their_key() {
        check("hosts", json!([{"name": "b"}, {"name": "a"}]), "hosts/a hosts/b");
        check("hosts.eu", json!({"eu": [{"name": "b"}]}), "hosts.eu/b");
        check("hosts", json!([]), "");
    }

    #[test]
    fn what_is_no_list_of_named_items_is_refused_with_its_place() {
        check("nothing", json!([]), "context.nothing: is not in the context");
        check("hosts.eu", json!({}), "context.hosts.eu: is not in the context");
        check("hosts", json!({}), "context.hosts: must be a list");
        check("hosts", json!([{"name": "a"}, {}]), "context.hosts[1].name: a text of 1 to 256 characters");
        check("hosts", json!([{"name": 1}]), "context.hosts[0].name: a text of 1 to 256 characters");
        check("hosts", json!([{"name": "a\n"}]), "context.hosts[0].name: a text of 1 to 256 characters");
        let twice = "context.hosts[1].name: must be another one for each item, got \"a\" twice";
        check("hosts", json!([{"name": "a"}, {"name": "a"}]), twice);
    }
}
