//! Route configurations with their virtual hosts inside, for clients that cannot get them one by one.

use std::sync::Arc;

use api::ResourceType;
use bytes::{BufMut as _, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::{Key, Resource, Table, hash};

/// `RouteConfiguration.virtual_hosts`
const VIRTUAL_HOSTS: u32 = 2;

/// The same route configurations; where the virtual hosts of one come by VHDS, with those of `hosts` inside.
pub fn compose(routes: &Table, hosts: &Table) -> Table {
    routes.resources().map(|routes| with_hosts(routes, hosts)).collect()
}

fn with_hosts(routes: &Arc<Resource>, hosts: &Table) -> Arc<Resource> {
    let Some(body) = &routes.without_vhds else { return routes.clone() };
    // VHDS names a virtual host `<route configuration>/<name>`.
    let prefix = format!("{}/", routes.key.name);
    let size: usize = hosts.with_prefix(&prefix).map(|host| host.body.len() + 8).sum();
    let mut composed = BytesMut::with_capacity(body.len() + size);
    composed.put_slice(body);
    // Fields of an encoded message may be appended: repeated ones add up.
    for host in hosts.with_prefix(&prefix) {
        encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut composed);
        encode_varint(host.body.len() as u64, &mut composed);
        composed.put_slice(&host.body);
    }
    let parts = hosts.with_prefix(&prefix).map(|host| (&*host.key.name, &*host.version));
    let version = hash::of_set(parts.chain([("", &*routes.version)]));
    let key = Key { kind: ResourceType::RouteConfig, name: routes.key.name.clone() };
    let mut whole = Resource::new(key, routes.owner.clone(), version, composed.freeze());
    whole.ttl = routes.ttl;
    Arc::new(whole)
}

#[cfg(test)]
mod tests {
    use model::document::Document;
    use prost_reflect::Value;

    use super::*;
    use crate::{Bootstrap, decode};

    fn table(kind: &str, text: &str) -> Table {
        let document = Document {
            template: "t.yaml".into(),
            kind: kind.into(),
            text: text.to_owned(),
            ..Document::default()
        };
        decode(&document, &Bootstrap::default()).unwrap().into_iter().map(Arc::new).collect()
    }

    fn routes() -> Table {
        let vhds = "vhds: {config_source: {ads: {}, resource_api_version: V3}}";
        table("routes", &format!("resources:\n- {{name: edge, {vhds}}}\n- {{name: plain}}\n"))
    }

    fn hosts(names: &[&str]) -> Table {
        let host = |name: &&str| format!("- {{name: {name}, domains: [{}.test]}}\n", name.replace('/', "-"));
        table("virtual_hosts", &format!("resources:\n{}", names.iter().map(host).collect::<String>()))
    }

    #[test]
    fn virtual_hosts_stand_inside_the_route_configuration_that_they_name() {
        let composed = compose(&routes(), &hosts(&["edge/a", "edge/b", "edgy/c"]));
        let whole = composed.find("edge").unwrap().message().unwrap();
        assert!(!whole.has_field_by_name("vhds"));
        let inside = whole.get_field_by_name("virtual_hosts").unwrap();
        let names: Vec<_> = (inside.as_list().unwrap().iter())
            .map(|host| host.as_message().unwrap().get_field_by_name("name").unwrap().into_owned())
            .collect();
        assert_eq!(names, [Value::String("edge/a".into()), Value::String("edge/b".into())]);
        assert_eq!(composed.find("plain"), routes().find("plain"));
    }

    #[test]
    fn its_version_is_that_of_its_parts() {
        let version =
            |names: &[&str]| compose(&routes(), &hosts(names)).find("edge").unwrap().version.clone();
        assert_eq!(version(&["edge/a", "edgy/c"]), version(&["edge/a", "edgy/d"]));
        assert_ne!(version(&["edge/a"]), version(&["edge/a", "edge/b"]));
    }
}
