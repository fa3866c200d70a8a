//! The templates that come with the binary.

macro_rules! defaults {
    ($($name:literal),* $(,)?) => {
        /// File name and text.
        pub(crate) const ALL: &[(&str, &str)] = &[$(($name, include_str!(concat!("../defaults/", $name)))),*];
    };
}

defaults![
    "authn_key_sets.yaml",
    "authn_policies.yaml",
    "authn_identity_keys.yaml",
    "authn_revocations.yaml",
    "authz_guardrails.yaml",
    "authz_policies.yaml",
    "clusters.yaml",
    "edge_clusters.yaml",
    "endpoints.yaml",
    "listeners.yaml",
    "rate_limits.yaml",
    "routes.yaml",
    "secrets.yaml",
    "unknown_hosts.yaml",
    "virtual_hosts.yaml",
];

#[cfg(test)]
mod tests {
    use minijinja::{context, value::Serde};
    use model::{ServiceFile, UpstreamRule};
    use serde_json::{Value, json};

    use crate::{ForEach, Templates};

    /// What is checked and explained offline is what the sidecar gets: there is one conversion, and the template adds nothing.
    #[test]
    fn rules_are_rendered_as_they_were_converted() {
        let templates = Templates::load(None).unwrap();
        let rule = json!({"methods": ["GET"], "paths": ["/users/{id}"], "where": ["{id} == sub"], "groups": ["{{ a }}"],
                          "time": {"from": "08:00", "zone": "UTC"}});
        let file = json!({
            "service": "hello", "hosts": ["hello.example.test"], "auth": {"anonymous": ["/healthz"]},
            "routes": [{"path": "/", "upstream": {"urls": ["http://a.test"]}}],
            "authz": {"mode": "shadow", "rules": [{"allow": rule}, {"deny": {"groups": ["suspended"]}}]},
        });
        let service = ServiceFile::parse(&file, UpstreamRule::NoLoopback).unwrap();
        let policy = api::json("gatehouse.authz.v1.Policy", &service.authz_policy("i-1", 7));
        let own = context! { authz_policy => Serde(&policy), authz => Serde(&service.authz) };
        let scope = context! { service => own };
        let name = "authz_policies.yaml";
        let document = templates.render(name, &templates.headers[name], None, &scope).unwrap();
        let rendered: Value = serde_norway::from_str(&document.text).unwrap();
        assert_eq!(rendered["resources"], json!([policy]));
    }

    #[test]
    fn the_keys_of_issuers_are_the_edges_alone() {
        let templates = Templates::load(None).unwrap();
        let sources = ["issuers".to_owned()].into();
        assert!(templates.reads(&ForEach::Edge, &sources));
        assert!(!templates.reads(&ForEach::Service, &sources), "a rotation renders no service anew");
        let issuers = json!([
            {"issuer": "https://a.test/", "jwks": "{\"keys\":[]}", "uri": "https://a.test/jwks"},
            {"issuer": "https://b.test/", "jwks": "{}", "uri": null, "servers": ["https://keys.test/", "http://plain.test/"]},
        ]);
        let scope = context! { context => context! { issuers => Serde(&issuers) } };
        let name = "authn_key_sets.yaml";
        let document = templates.render(name, &templates.headers[name], None, &scope).unwrap();
        let rendered: Value = serde_norway::from_str(&document.text).unwrap();
        let sets = json!([
            {"name": "https://a.test/", "jwks": "{\"keys\":[]}", "uri": "https://a.test/jwks", "servers": []},
            {"name": "https://b.test/", "jwks": "{}", "servers": ["https://keys.test/"]},
        ]);
        assert_eq!(rendered["resources"], sets);
    }
}
