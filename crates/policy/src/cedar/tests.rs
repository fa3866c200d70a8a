//! What validates, what each kind of request is told, and that slicing changes nothing.

use std::time::{Duration, UNIX_EPOCH};

use api::pb::authz::{Cedar as Wire, cedar::Resource};
use proptest::{prelude::*, sample::subsequence};

use super::*;

const SCHEMA: &str = "
entity Team in [Group];
entity Folder in [Folder] = { team: Team };
entity Doc in [Folder] = { owner: User, open: Bool, reviewers: Set<User>, limit?: Long };
";

const ENTITIES: &str = r#"[
    {"uid": {"type": "Group", "id": "staff"}, "attrs": {}, "parents": []},
    {"uid": {"type": "Group", "id": "dev"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]},
    {"uid": {"type": "Team", "id": "red"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]},
    {"uid": {"type": "Folder", "id": "top"}, "attrs": {"team": {"__entity": {"type": "Team", "id": "red"}}}, "parents": []},
    {"uid": {"type": "Folder", "id": "plans"}, "attrs": {"team": {"__entity": {"type": "Team", "id": "red"}}},
     "parents": [{"type": "Folder", "id": "top"}]},
    {"uid": {"type": "Doc", "id": "a"}, "parents": [{"type": "Folder", "id": "plans"}], "attrs": {
        "owner": {"__entity": {"type": "User", "id": "alice"}}, "open": false, "limit": 9223372036854775807,
        "reviewers": [{"__entity": {"type": "User", "id": "bob"}}]}}
]"#;

fn cedar(schema: &str, policies: &str, entities: &str) -> Cedar {
    let resource = |path: &str, entity: &str, id: &str| Resource {
        path: path.into(),
        entity: entity.into(),
        id: id.into(),
    };
    let resources = vec![
        resource("=/docs/{doc}", "Doc", "{doc}"),
        resource("/folders/{folder}", "Folder", "{folder}"),
        resource("/users/{user}", "User", "{user}"),
    ];
    let wire =
        Wire { schema: schema.into(), policies: policies.into(), resources, entities: entities.into() };
    wire.try_into().unwrap()
}

fn compiled(policies: &str) -> Compiled {
    Compiled::new(&cedar(SCHEMA, policies, ENTITIES)).unwrap()
}

fn identity(subject: &str) -> Identity<'_> {
    Identity {
        subject,
        issuer: Some("https://id.example.test/"),
        tenant: Some("acme"),
        method: "jwt",
        scopes: &["read", "write"],
        groups: &["dev"],
    }
}

fn request<'a>(method: &'a str, path: &'a str, subject: &'a str) -> Request<'a> {
    Request {
        method,
        host: "Docs.Example.test",
        path: RequestPath::parse(path).unwrap(),
        address: Some([10, 1, 2, 3].into()),
        // 2026-01-02T03:04:05Z
        time: Some(UNIX_EPOCH + Duration::from_secs(1_767_323_045)),
        identity: identity(subject),
    }
}

/// What one policy says of alice's GET of a path.
#[track_caller]
fn says(condition: &str, path: &str, expected: bool) {
    let compiled = compiled(&format!("permit (principal, action, resource) when {{ {condition} }};"));
    let verdict = compiled.decide(&request("GET", path, "alice"));
    let wanted = if expected { Verdict::Permit("policy-0") } else { Verdict::Neither };
    assert_eq!(verdict, wanted, "{condition}");
}

/// What a text is refused with.
#[track_caller]
fn refused(schema: &str, policies: &str, entities: &str, expected: &str) {
    let error = Compiled::new(&cedar(schema, policies, entities)).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

const ANY: &str = "permit (principal, action, resource);";

#[test]
fn an_identity_is_a_user_in_its_groups() {
    says("principal == User::\"alice\"", "/", true);
    says("principal.subject == \"alice\" && principal.method == \"jwt\"", "/", true);
    says("principal has issuer && principal.issuer == \"https://id.example.test/\"", "/", true);
    says("principal has tenant && principal.tenant == \"acme\"", "/", true);
    says("principal.scopes.containsAll([\"read\", \"write\"])", "/", true);
    says("principal.scopes.contains(\"admin\")", "/", false);
    says("principal in Group::\"dev\"", "/", true);
    says("principal in Group::\"staff\"", "/", true);
    says("principal in Group::\"suspended\"", "/", false);
}

#[test]
fn the_context_is_what_is_known_of_the_request() {
    says("context.host == \"docs.example.test\"", "/a", true);
    says("context.path == \"/grün\"", "/gr%C3%BCn?x=y", true);
    says("context.address.isInRange(ip(\"10.0.0.0/8\"))", "/", true);
    says("context.address.isInRange(ip(\"192.168.0.0/16\"))", "/", false);
    says("context.time == datetime(\"2026-01-02T03:04:05Z\")", "/", true);
    says("context.captures has doc && context.captures.doc == \"a\"", "/docs/a", true);
    says("context.captures has doc", "/folders/a", false);
}

#[test]
fn a_path_is_about_the_entity_that_it_is_mapped_to_or_is_one_itself() {
    says("resource == Doc::\"a\"", "/docs/a", true);
    says("resource == Doc::\"a\"", "/docs/a/more", false);
    says("resource == Path::\"/docs/a/more\"", "/docs/a/more", true);
    says("resource is Folder && resource == Folder::\"x\"", "/folders/x/y", true);
    says("resource == principal", "/users/alice", true);
    says("resource == principal", "/users/bob", false);
}

#[test]
fn entities_have_attributes_and_ancestors_as_far_as_policies_may_look() {
    says("resource is Doc && resource.owner == principal && !resource.open", "/docs/a", true);
    says("resource is Doc && resource.reviewers.contains(User::\"bob\")", "/docs/a", true);
    says("resource in Folder::\"top\"", "/docs/a", true);
    says("resource is Folder && resource.team in Group::\"staff\"", "/folders/plans", true);
    says("resource in Folder::\"top\"", "/docs/unknown", false);
}

#[test]
fn a_method_is_an_action_and_no_other_is() {
    let compiled = compiled("permit (principal, action in [Action::\"GET\", Action::\"HEAD\"], resource);");
    for (method, expected) in [
        ("GET", Verdict::Permit("policy-0")),
        ("HEAD", Verdict::Permit("policy-0")),
        ("PUT", Verdict::Neither),
    ] {
        assert_eq!(compiled.decide(&request(method, "/", "alice")), expected, "{method}");
    }
    for method in ["get", "Get", "PROPFIND", "TRACE", ""] {
        let verdict = compiled.decide(&request(method, "/", "alice"));
        assert!(matches!(verdict, Verdict::Failed { policy: REQUEST, .. }), "{method}: {verdict:?}");
    }
}

#[test]
fn a_forbid_wins_and_policies_are_told_by_their_names() {
    let compiled = compiled(
        "permit (principal, action, resource);
        @id(\"no-deletes\") forbid (principal, action == Action::\"DELETE\", resource);
        @id(\"again\") permit (principal, action, resource);",
    );
    assert_eq!(compiled.decide(&request("GET", "/", "alice")), Verdict::Permit("policy-0"));
    assert_eq!(compiled.decide(&request("DELETE", "/", "alice")), Verdict::Forbid("no-deletes"));
}

#[test]
fn an_error_of_any_policy_is_told_even_where_another_permits_or_forbids() {
    let fails = "@id(\"fails\") forbid (principal, action, resource is Doc) when { resource.open };";
    let compiled = compiled(&format!("{ANY} {fails}"));
    assert_eq!(compiled.decide(&request("GET", "/docs/a", "alice")), Verdict::Permit("policy-0"));
    let Verdict::Failed { policy, cause } = compiled.decide(&request("GET", "/docs/unknown", "alice")) else {
        panic!("an entity that is not there has no attributes");
    };
    assert_eq!(policy, "fails");
    assert!(cause.contains("Doc::\"unknown\""), "{cause}");
    assert_eq!(compiled.decide(&request("GET", "/other", "alice")), Verdict::Permit("policy-0"));

    let overflows =
        "forbid (principal, action, resource is Doc) when { resource has limit && resource.limit + 1 > 0 };";
    let compiled = self::compiled(&format!("{ANY} {overflows}"));
    let verdict = compiled.decide(&request("GET", "/docs/a", "alice"));
    assert!(matches!(verdict, Verdict::Failed { policy: "policy-1", .. }), "{verdict:?}");
}

#[test]
fn what_cannot_be_asked_is_an_error() {
    let asks = "when { context.address.isLoopback() || context.time > datetime(\"2026-01-01\") }";
    let compiled = self::compiled(&format!("permit (principal, action, resource) {asks};"));
    assert!(compiled.needs_address() && compiled.needs_time());
    let nowhere = Request { address: None, ..request("GET", "/", "alice") };
    let never = Request { time: None, ..request("GET", "/", "alice") };
    for unknown in [nowhere, never] {
        assert!(matches!(compiled.decide(&unknown), Verdict::Failed { policy: "policy-0", .. }));
    }
    let compiled = self::compiled(ANY);
    assert!(!compiled.needs_address() && !compiled.needs_time());
    let path = format!("/{}", "a".repeat(MAX_PATH_BYTES));
    assert!(matches!(compiled.decide(&request("GET", &path, "alice")), Verdict::Failed { .. }));
    let longest = &path[..MAX_PATH_BYTES];
    assert_eq!(compiled.decide(&request("GET", longest, "alice")), Verdict::Permit("policy-0"));
    let ipv6 = Request { address: Some("2001:db8::1".parse().unwrap()), ..request("GET", "/", "alice") };
    assert_eq!(compiled.decide(&ipv6), Verdict::Permit("policy-0"));
}

#[test]
fn a_mistake_in_a_policy_is_told_with_its_place() {
    refused(SCHEMA, "permit (principal, action\n  resource);", "", "policies: line 2, column 3: ");
    refused(
        SCHEMA,
        "permit (principal, action, resource)\nwhen { resource is Doc\n && resource.ownr == principal };",
        "",
        "policies: line 3, column 5: for policy `policy-0`, attribute `ownr`",
    );
    refused(SCHEMA, "permit (principal, action == Action::\"view\", resource);", "", "Action::\"view\"");
    refused(SCHEMA, "permit (principal, action, resource is Dock);", "", "policies: line 1, column ");
    refused(SCHEMA, "permit (principal is Doc, action, resource);", "", "policy-0");
    refused(
        SCHEMA,
        &format!(
            "{ANY}\n@id(\"never\")\nforbid (principal, action, resource) when {{ principal.subject == \"a\" && false }};"
        ),
        "",
        "policies: line 2, column 1: for policy `never`, policy is impossible",
    );
    refused(SCHEMA, "permit (principal == ?principal, action, resource);", "", "slots of a template");
    refused(SCHEMA, &format!("@id(\"a b\") {ANY}"), "", "@id: 1 to 64 printable characters");
    refused(SCHEMA, &format!("@id(\"a\") {ANY} @id(\"a\") {ANY}"), "", "@id: another one for each policy");
    refused(SCHEMA, &format!("{ANY} @id(\"policy-0\") {ANY}"), "", "got \"policy-0\" twice");
    refused(SCHEMA, "// nothing", "", "policies: at least one policy, got none");
    refused(
        SCHEMA,
        "permit (principal, action, resource) when { principal.subject == \"\u{202e}a\" };",
        "",
        "policies: line 1, column ",
    );
    let deep = "permit (principal, action, resource is Doc) when { User::\"x\".subject == \"y\" };";
    refused(SCHEMA, deep, "", "policies: line 1, column ");
}

#[test]
fn a_mistake_in_a_schema_is_told_with_its_place() {
    refused("entity Doc;\nentity Folder\nentity User;", ANY, "", "schema: line 3, column 1: ");
    refused(
        "entity Folder;",
        ANY,
        "",
        "resources[0].entity: a type of entity that the schema declares, got \"Doc\"",
    );
    refused("entity Doc, Folder; entity User;", ANY, "", "schema: ");
    refused(&format!("{SCHEMA} entity X = {{ y: Nothing }};"), ANY, "", "Nothing");
    let view = "action view appliesTo { principal: User, resource: Doc };";
    refused(&format!("{SCHEMA} {view}"), ANY, "", "schema: no actions: those are the HTTP methods");
    refused(&format!("{SCHEMA} namespace A {{ {view} }}"), ANY, "", "got A::Action::\"view\"");
    refused(&format!("{SCHEMA} {}", view.replace("view", "GET")), ANY, "", "schema: ");
}

#[test]
fn a_service_cannot_change_what_the_base_means() {
    let schema = format!("{SCHEMA} type ipaddr = String; type datetime = String;");
    let inside =
        "permit (principal, action, resource) when { context.address.isInRange(ip(\"10.0.0.0/8\")) };";
    assert!(Compiled::new(&cedar(&schema, inside, "")).is_ok());
}

#[test]
fn entities_are_what_the_schema_allows() {
    refused(SCHEMA, ANY, "{", "entities: ");
    refused(SCHEMA, ANY, "null", "entities: a list that operators keep, got none");
    refused(
        SCHEMA,
        ANY,
        r#"[{"uid": {"type": "Cat", "id": "x"}, "attrs": {}, "parents": []}]"#,
        "entities: ",
    );
    refused(
        SCHEMA,
        ANY,
        r#"[{"uid": {"type": "Doc", "id": "x"}, "attrs": {}, "parents": []}]"#,
        "Doc::\"x\"",
    );
    let user = r#"[{"uid": {"type": "User", "id": "alice"}, "parents": [],
        "attrs": {"subject": "alice", "method": "jwt", "scopes": ["admin"]}}]"#;
    refused(SCHEMA, ANY, user, "entities: no User: who a user is, the credential says, got User::\"alice\"");
    let ring = r#"[{"uid": {"type": "Group", "id": "a"}, "attrs": {}, "parents": [{"type": "Group", "id": "b"}]},
        {"uid": {"type": "Group", "id": "b"}, "attrs": {}, "parents": [{"type": "Group", "id": "a"}]}]"#;
    refused(SCHEMA, ANY, ring, "entities: ");
    let group = |at| format!(r#"{{"uid":{{"type":"Group","id":"{at}"}},"attrs":{{}},"parents":[]}}"#);
    let many = |number: usize| format!("[{}]", (0..number).map(group).collect::<Vec<_>>().join(","));
    refused(SCHEMA, ANY, &many(10_001), "entities: at most 10000, got 10001");
    assert!(Compiled::new(&cedar(SCHEMA, ANY, &many(10_000))).is_ok());
}

#[test]
fn policies_are_sliced_by_what_their_heads_say() {
    let compiled = compiled(
        "permit (principal, action == Action::\"GET\", resource is Doc);
        permit (principal, action == Action::\"PUT\", resource is Doc);
        permit (principal, action, resource == Folder::\"a\");
        permit (principal is User in Group::\"dev\", action, resource in Folder::\"top\");
        permit (principal == User::\"alice\", action, resource);",
    );
    for (method, path, expected) in [
        ("GET", "/docs/a", 3),
        ("PUT", "/docs/a", 3),
        ("DELETE", "/docs/a", 2),
        ("GET", "/folders/a", 3),
        ("GET", "/", 2),
        ("TRACE", "/", 0),
    ] {
        let path = RequestPath::parse(path).unwrap();
        assert_eq!(compiled.policies_for(method, path), expected, "{method} {path:?}");
    }
}

#[test]
fn a_slice_is_bounded_and_the_whole_is_not() {
    let policy = |at: usize, action: &str| {
        format!("permit (principal, {action}, resource) when {{ principal.subject == \"{at}\" }};")
    };
    let all = |number: usize, action: &str| (0..number).map(|at| policy(at, action)).collect::<String>();
    refused(
        SCHEMA,
        &all(101, "action"),
        "",
        "policies: at most 100 that can be about Action::\"GET\" of a Doc",
    );
    let many = all(100, "action == Action::\"GET\"") + &all(100, "action == Action::\"PUT\"");
    assert_eq!(compiled(&many).policies_for("GET", RequestPath::parse("/").unwrap()), 100);
}

const PRINCIPALS: [&str; 4] =
    ["principal", "principal == User::\"alice\"", "principal is User", "principal in Group::\"staff\""];
const ACTIONS: [&str; 3] =
    ["action", "action == Action::\"GET\"", "action in [Action::\"PUT\", Action::\"GET\"]"];
const RESOURCES: [&str; 7] = [
    "resource",
    "resource == Doc::\"a\"",
    "resource is Doc",
    "resource is Doc in Folder::\"top\"",
    "resource in Folder::\"top\"",
    "resource == Path::\"/\"",
    "resource is Folder",
];
/// With those that fail: of a document that is not there, and by arithmetic.
const CONDITIONS: [&str; 5] = [
    "",
    "when { principal.subject == \"alice\" }",
    "when { resource is Doc && resource.owner == principal }",
    "unless { context.captures has doc }",
    "when { resource is Doc && resource has limit && resource.limit * 2 > 0 }",
];

/// All policies that the parts can make, less those that can never apply.
fn pool() -> Vec<String> {
    let mut pool = Vec::new();
    for principal in PRINCIPALS {
        for action in ACTIONS {
            for resource in RESOURCES {
                for condition in CONDITIONS {
                    let is_never = condition.starts_with("when { resource is Doc")
                        && (resource.contains("Path") || resource.ends_with("is Folder"));
                    for effect in ["permit", "forbid"].into_iter().filter(|_| !is_never) {
                        pool.push(format!("{effect} ({principal}, {action}, {resource}) {condition};\n"));
                    }
                }
            }
        }
    }
    pool
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Fewer policies are looked at, and nothing is answered otherwise: not even an error is lost.
    #[test]
    fn a_slice_answers_as_all_policies_do(chosen in subsequence(pool(), 1..12)) {
        let compiled = compiled(&chosen.concat());
        let source = cedar(SCHEMA, &chosen.concat(), ENTITIES);
        let whole = PolicySet::from_policies(source::policies(&source.policies).unwrap()).unwrap();
        for method in ["GET", "PUT", "DELETE"] {
            for path in ["/", "/docs/a", "/docs/unknown", "/folders/plans", "/users/bob"] {
                for subject in ["alice", "bob"] {
                    let request = request(method, path, subject);
                    let sliced = compiled.decide(&request);
                    // Several can fail, and which of them is told is no promise; that one did is.
                    let of_all = compiled.decide_among(&request, |_| Some(&whole));
                    let same = matches!((&sliced, &of_all), (Verdict::Failed { .. }, Verdict::Failed { .. }));
                    prop_assert!(same || sliced == of_all, "{method} {path} {subject}: {sliced:?} {of_all:?}");
                }
            }
        }
    }
}
