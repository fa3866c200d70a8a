//! Whether the policies of a service could decide: by the very engine that the sidecars have.

use api::pb;
use model::cedar::Cedar;
use policy::cedar::Compiled;

/// The field, the line and column of its text, and the rule of each mistake.
pub(crate) fn check(cedar: &Cedar) -> Result<(), String> {
    const FIELD: &str = "authz.cedar";
    let resources = cedar.resources.iter().map(|resource| pb::authz::cedar::Resource {
        path: resource.path.clone(),
        entity: resource.entity.clone(),
        id: resource.id.clone(),
    });
    let wire = pb::authz::Cedar {
        schema: cedar.schema.clone(),
        policies: cedar.policies.clone(),
        resources: resources.collect(),
        // The operators' list is not known here: the gate looks at it.
        entities: String::new(),
    };
    let typed = api::cedar::Cedar::try_from(wire).map_err(|why| why.within(FIELD).to_string())?;
    Compiled::new(&typed).map(drop).map_err(|why| why.within(FIELD).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), expected: &str) {
        let mut written = json!({
            "schema": "entity Doc;\n",
            "policies": "permit (principal, action, resource is Doc);\n",
            "resources": [{"path": "/docs/{doc}", "entity": "Doc", "id": "{doc}"}],
        });
        change(&mut written);
        let told = super::check(&serde_json::from_value(written).unwrap()).err().unwrap_or_default();
        assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{told}");
    }

    #[test]
    fn the_example_that_people_copy_validates() {
        let text = std::fs::read_to_string("../../examples/authz/cedar.yaml").unwrap();
        let file: Value = serde_norway::from_str(&text).unwrap();
        super::check(&serde_json::from_value(file["authz"]["cedar"].clone()).unwrap()).unwrap();
    }

    #[test]
    fn a_mistake_is_told_with_its_field_and_line() {
        check(|_| (), "");
        check(|cedar| cedar["entities"] = json!("docs"), "");
        check(
            |cedar| cedar["policies"] = json!("permit (principal, action, resource)\nwhen { resource.x };\n"),
            "authz.cedar.policies: line 2, column 8: for policy `policy-0`, ",
        );
        check(
            |cedar| cedar["schema"] = json!("entity Doc;\nentity"),
            "authz.cedar.schema: line 2, column 7: ",
        );
        check(
            |cedar| cedar["resources"][0]["path"] = json!("/docs/*"),
            "authz.cedar.resources[0].path: a path without a query, wildcard or regex, got \"/docs/*\"",
        );
        check(
            |cedar| cedar["resources"][0]["entity"] = json!("Dock"),
            "authz.cedar.resources[0].entity: a type of entity that the schema declares, got \"Dock\"",
        );
    }
}
