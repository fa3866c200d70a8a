//! What every store must do with revocations.

use model::{
    audit::Event,
    revocation::{ApiKeyId, IssuerSince, SKEW, Subject, Token, What, table::Full},
};

use super::*;

/// Far from any expiry.
const LATER: u64 = 4_000_000_000;

fn entry(what: What) -> Revocation {
    let expires = if matches!(what, What::ApiKey(_)) { 0 } else { LATER };
    Revocation { name: what.name(), what, expires, at: 1_000, by: "ann".into() }
}

pub(super) fn token(jti: &str, subject: Option<&str>) -> Revocation {
    entry(What::Token(Token { issuer: "i".into(), jti: jti.into(), subject: subject.map(Into::into) }))
}

fn since(since: u64) -> Revocation {
    entry(What::IssuerSince(IssuerSince { issuer: "i".into(), since }))
}

fn key(id: &str) -> Revocation {
    entry(What::ApiKey(ApiKeyId { id: id.into() }))
}

async fn known(store: &dyn Store) -> (Vec<Revocation>, u64) {
    let (mut entries, version) = store.revocations(None).await.unwrap().expect("nothing is known");
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    (entries, version)
}

fn stored(entry: &Revocation) -> Revoke {
    Revoke::Stored { entries: vec![entry.clone()], widened: Vec::new() }
}

async fn what_is_revoked_stays_so_until_it_is_taken_back(store: &dyn Store) {
    let (none, first) = known(store).await;
    assert_eq!(none, []);
    assert_eq!(store.revocations(Some(first)).await.unwrap(), None);
    let mut changes = store.changes();
    changes.mark_unchanged();
    let early = since(500);
    assert_eq!(store.revoke(&early).await.unwrap(), stored(&early));
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
    let (one, second) = known(store).await;
    assert_eq!(one, [early]);
    assert_ne!(first, second);
    let late = since(700);
    assert_eq!(store.revoke(&late).await.unwrap(), stored(&late));
    assert_eq!(store.revoke(&since(600)).await.unwrap(), stored(&late), "that is revoked already");
    assert_eq!(store.revocation(&late.name).await.unwrap(), Some(late.clone()));
    assert_eq!(store.revocation("never").await.unwrap(), None);
    let (one, third) = known(store).await;
    assert_eq!(one, std::slice::from_ref(&late));
    assert_eq!(store.revoke(&late).await.unwrap(), stored(&late));
    assert_eq!(store.revocations(Some(third)).await.unwrap(), None, "nothing has changed");
    assert_eq!(store.take_back(&late.name, "bob").await.unwrap(), Some(late.clone()));
    assert_eq!(store.take_back(&late.name, "bob").await.unwrap(), None);
    let (none, fourth) = known(store).await;
    assert_eq!(none, []);
    assert_ne!(third, fourth);
    let log = store.audit(&Query { platform: Some("operators".into()), ..Query::default() }).await.unwrap();
    let told: Vec<_> = log
        .iter()
        .map(|entry| match &entry.event {
            Event::Revoked { revocation, .. } => (entry.owner.tenant.as_str(), revocation.what.clone()),
            Event::Restored { operator, revocation } => (operator.as_str(), revocation.what.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [("bob", late.what.clone()), ("ann", late.what.clone()), ("ann", since(500).what)]);
}

async fn what_has_expired_is_swept(store: &dyn Store) {
    let old = Revocation { expires: 1_500, ..token("old", None) };
    store.revoke(&old).await.unwrap();
    store.revoke(&key("0a")).await.unwrap();
    store.sweep_revocations().await.unwrap();
    assert_eq!(known(store).await.0, [key("0a")], "a key never expires");
    assert_eq!(store.sweep_revocations().await.unwrap(), 0);
    store.take_back(&key("0a").name, "ann").await.unwrap();
}

pub(super) async fn all(store: &dyn Store) {
    what_is_revoked_stays_so_until_it_is_taken_back(store).await;
    what_has_expired_is_swept(store).await;
}

/// Of a store with room for three.
async fn a_full_table_widens_and_never_drops(store: &dyn Store) {
    for jti in ["1", "2", "3"] {
        store.revoke(&token(jti, Some("alice"))).await.unwrap();
    }
    let Revoke::Stored { entries, widened } = store.revoke(&key("0a")).await.unwrap() else {
        panic!("there is room")
    };
    let what = What::Subject(Subject { issuer: "i".into(), sub: "alice".into(), since: 1_000 + SKEW });
    assert_eq!(widened.iter().map(|entry| &entry.what).collect::<Vec<_>>(), [&what]);
    assert_eq!(entries.len(), 2);
    let (all, _) = known(store).await;
    let left: Vec<_> = all.iter().filter(|one| matches!(one.what, What::Token(_))).collect();
    assert_eq!((all.len(), left.len()), (3, 1), "{all:?}");
    let log = store.audit(&Query { platform: Some("operators".into()), ..Query::default() }).await.unwrap();
    let Event::Revoked { widened: told, .. } = &log[0].event else { panic!("{log:?}") };
    assert_eq!(told, &widened);

    for id in ["0b", "0c"] {
        store.revoke(&key(id)).await.unwrap();
    }
    let (before, version) = known(store).await;
    assert_eq!(store.revoke(&key("0d")).await.unwrap(), Revoke::Full(Full(4)));
    assert_eq!(store.revocations(Some(version)).await.unwrap(), None, "nothing was changed");
    assert_eq!(before.len(), 3);
}

/// Of a store with room for three hundred: more becomes part of another entry than one transaction takes.
async fn of_many_at_once_none_is_lost(store: &dyn Store) {
    for at in 0..300 {
        let subject = format!("s-{}", at % 140);
        store.restore_revocation(&token(&at.to_string(), Some(&subject))).await.unwrap();
    }
    let all = known(store).await.0;
    assert_eq!(all.len(), 300);
    for at in 300..330 {
        store.revoke(&token(&at.to_string(), None)).await.unwrap();
    }
    let (all, _) = known(store).await;
    assert!(all.len() <= 300, "{}", all.len());
    for at in 0..330 {
        let subject = format!("s-{}", at % 140);
        let is_revoked = all.iter().any(|entry| match &entry.what {
            What::Token(Token { jti, .. }) => *jti == at.to_string(),
            What::Subject(Subject { sub, .. }) => at < 300 && *sub == subject,
            _ => false,
        });
        assert!(is_revoked, "{at}");
    }
}

#[tokio::test]
async fn a_full_table_widens_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| SqliteStore::open(&folder.path().join(name), Keys::default()).unwrap();
    a_full_table_widens_and_never_drops(&open("three.db").with_most_revocations(3)).await;
    of_many_at_once_none_is_lost(&open("many.db").with_most_revocations(300)).await;
}

#[tokio::test]
async fn a_full_table_widens_in_dynamodb() {
    for most in [3, 300] {
        let folder = tempfile::tempdir().unwrap();
        let (_aws, table) = dynamodb(folder.path()).await;
        let store = DynamoStore::open(table, Sealing::With(Keys::default())).await.unwrap();
        let store = store.with_most_revocations(most);
        match most {
            3 => a_full_table_widens_and_never_drops(&store).await,
            _ => of_many_at_once_none_is_lost(&store).await,
        }
    }
}
