//! The tables of the store, and what leads from those of one release to those of the next.

use sqlite::Part;

pub(super) const TABLES: Part = Part { name: "store", migrations: &[FIRST, OWNERS, TURNS, REVOCATIONS] };

/// Files that are older than the numbering have these tables already.
const FIRST: &str = "
    CREATE TABLE IF NOT EXISTS instances (
        id TEXT PRIMARY KEY, version INTEGER NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS instances_by_position ON instances (position);
    CREATE TABLE IF NOT EXISTS hosts (host TEXT PRIMARY KEY, instance TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS hosts_by_instance ON hosts (instance);
    CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS reports (
        replica TEXT NOT NULL, grp TEXT NOT NULL, body TEXT NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (replica, grp)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS controls (grp TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS sizes (grp TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS positions (last INTEGER NOT NULL) STRICT;
    INSERT INTO positions SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM positions);
";

/// What one process does for all, and what was found by it.
const TURNS: &str = "
    CREATE TABLE turns (task TEXT PRIMARY KEY, holder TEXT NOT NULL, until_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE drift (body TEXT NOT NULL) STRICT;
";

/// What was withdrawn before its time.
const REVOCATIONS: &str = "
    CREATE TABLE revocations (name TEXT PRIMARY KEY, expires INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE INDEX revocations_by_expiry ON revocations (expires) WHERE expires > 0;
    CREATE TABLE revocations_version (last INTEGER NOT NULL) STRICT;
    INSERT INTO revocations_version VALUES (0);
";

/// Instances and hosts belong to a tenant of a platform, hosts cool down, and changes are written into a log.
const OWNERS: &str = "
    UPDATE instances SET body = json_remove(
        json_set(body, '$.request.owner', json_object(
            'platform', json_extract(body, '$.request.platform'),
            'tenant', json_extract(body, '$.request.organization_guid'))),
        '$.request.platform');
    ALTER TABLE instances ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE instances ADD COLUMN present INTEGER NOT NULL DEFAULT 1;
    UPDATE instances SET
        owner = json_extract(body, '$.request.owner.platform') || '/' || json_extract(body, '$.request.owner.tenant'),
        present = NOT json_extract(body, '$.gone');
    CREATE INDEX instances_by_owner ON instances (owner) WHERE present;
    ALTER TABLE hosts ADD COLUMN owner TEXT NOT NULL DEFAULT '';
    ALTER TABLE hosts ADD COLUMN freed_at_ms INTEGER;
    UPDATE hosts SET owner = COALESCE((SELECT owner FROM instances WHERE id = hosts.instance), '');
    CREATE INDEX hosts_by_owner ON hosts (owner) WHERE freed_at_ms IS NULL;
    CREATE INDEX hosts_by_freeing ON hosts (freed_at_ms) WHERE freed_at_ms IS NOT NULL;
    CREATE TABLE audit (
        position INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, platform TEXT NOT NULL,
        instance TEXT NOT NULL, body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX audit_by_instance ON audit (instance, position);
    CREATE INDEX audit_by_platform ON audit (platform, position);
    CREATE INDEX audit_by_time ON audit (at_ms);
";

#[cfg(test)]
mod tests {
    use model::{
        InstanceId,
        instance::{Instance, Request},
        platforms::Owner,
    };
    use serde_json::json;
    use sqlite::{Database, Written, rusqlite::params};

    use super::*;
    use crate::{Claim, Claimant, Keys, Refusal, SqliteStore, Store as _};

    /// As the first release wrote it.
    fn first_body(made: &Instance) -> String {
        let mut body = serde_json::to_value(made).unwrap();
        let request = body["request"].as_object_mut().unwrap();
        request.remove("owner");
        request.insert("platform".into(), json!("cf"));
        request.insert("organization_guid".into(), json!("org"));
        body.to_string()
    }

    #[tokio::test]
    async fn a_file_of_the_first_release_is_brought_forward() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gatehouse.db");
        let id: InstanceId = "i-1".parse().unwrap();
        let mut made = Instance::provision(id.clone(), Request::offline(json!({})), "op".into());
        made.version = 1;
        let body = first_body(&made);
        let first = Database::open(&path).unwrap();
        first.bring_forward(Part { name: "store", migrations: &[FIRST] }).unwrap();
        let write = move |db: &sqlite::rusqlite::Connection| {
            db.execute("INSERT INTO instances VALUES ('i-1', 1, 1, ?1)", params![body])?;
            Ok(Written::Keep(db.execute("INSERT INTO hosts VALUES ('a.test', 'i-1')", [])?))
        };
        first.write(write).await.unwrap();
        drop(first);
        let store = SqliteStore::open(&path, Keys::default()).unwrap();
        let owner = Owner { platform: "cf".into(), tenant: "org".into() };
        made.request.owner = owner.clone();
        made.request.organization_guid = "org".into();
        assert_eq!(store.get(&id).await.unwrap(), Some(made));
        let other = "i-2".parse().unwrap();
        let claimant =
            Claimant { instance: &other, owner: &owner, most: Some(1), cool_down: std::time::Duration::ZERO };
        for (name, why) in [("a.test", Refusal::Taken(id)), ("b.test", Refusal::OverQuota)] {
            let host = model::Host::try_from(name.to_owned()).unwrap();
            let refused = Claim::Refused { at: 0, why };
            assert_eq!(store.may_claim(&[host], &claimant).await.unwrap(), refused);
        }
    }
}
