//! What becomes of a table of revocations when one more comes: it stays within its bound, and whatever was revoked stays
//! revoked. A full table widens; it never drops.

use std::collections::BTreeMap;

use super::{IssuerSince, Revocation, SKEW, Session, Subject, Token, What};

/// All of them, by name.
pub type Table = BTreeMap<String, Revocation>;

/// Entries that a fleet carries: a day of a large company's, some 4 MB on each node and a second of a restart.
pub const MOST: usize = 10_000;
/// Room that is made at once, so that a full table is not gone through for each entry: a hundredth.
const ROOM: usize = 100;
/// Who is said to have made an entry of others.
const WIDENED_BY: &str = "gatehouse: the table was full";

/// What has to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// New, or other than before.
    pub put: Vec<Revocation>,
    /// Names of those that are part of another one now, or have expired.
    pub gone: Vec<String>,
    /// Of `put`, those that stand for others.
    pub widened: Vec<Revocation>,
}

/// Nothing is left that could be said with fewer entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the table holds {0} API keys and issuers, which stand for nothing but themselves; withdraw keys by their bindings"
)]
pub struct Full(pub usize);

/// Adds an entry to a table that has at most so many.
///
/// # Errors
/// Only API keys and whole issuers are left; nothing is to be written.
pub fn add(table: &Table, new: Revocation, now: u64, most: usize) -> Result<Change, Full> {
    let mut next = table.clone();
    next.retain(|_, entry| !entry.has_expired(now));
    put(&mut next, new);
    let before_widening = next.clone();
    if next.len() > most {
        widen(&mut next, most - most / ROOM, now);
    }
    if next.len() > most {
        return Err(Full(next.len()));
    }
    let is_other = |known: &Table, entry: &Revocation| known.get(&entry.name) != Some(entry);
    let put: Vec<_> = next.values().filter(|entry| is_other(table, entry)).cloned().collect();
    Ok(Change {
        widened: put.iter().filter(|entry| is_other(&before_widening, entry)).cloned().collect(),
        gone: table.keys().filter(|name| !next.contains_key(*name)).cloned().collect(),
        put,
    })
}

fn put(table: &mut Table, entry: Revocation) {
    let entry = match table.get(&entry.name) {
        Some(known) => known.and(&entry),
        None => entry,
    };
    table.insert(entry.name.clone(), entry);
}

/// What a kind of entry can become, from what tells least about others to what tells most.
#[derive(Clone, Copy)]
enum Step {
    /// Tokens and sessions of a subject: tokens of that subject.
    Subjects,
    /// Tokens and sessions without a subject: tokens of their issuer.
    Unnamed,
    /// Whatever is left: tokens of its issuer.
    Issuers,
}

impl Step {
    /// What the entry would be part of; nothing, where this step leaves it as it is.
    fn wider(self, entry: &Revocation, now: u64) -> Option<What> {
        let of_issuer = |issuer: &str, since| What::IssuerSince(IssuerSince { issuer: issuer.into(), since });
        let (issuer, subject, since) = match &entry.what {
            // A token that was revoked was issued before.
            What::Token(Token { issuer, subject, .. }) => (issuer, subject.as_deref(), entry.at + SKEW),
            // Its tokens may have been issued since; from an issuer that has ended it there come no more.
            What::Session(Session { issuer, subject, .. }) => (issuer, subject.as_deref(), now + SKEW),
            What::Subject(Subject { issuer, since, .. }) => {
                return matches!(self, Self::Issuers).then(|| of_issuer(issuer, *since));
            }
            What::IssuerSince(_) | What::ApiKey(_) => return None,
        };
        match (self, subject) {
            (Self::Subjects, Some(sub)) => {
                Some(What::Subject(Subject { issuer: issuer.clone(), sub: sub.into(), since }))
            }
            (Self::Unnamed, None) | (Self::Issuers, _) => Some(of_issuer(issuer, since)),
            _ => None,
        }
    }
}

/// Says the same with fewer entries, and more with them, until there are at most so many. Of the largest group first:
/// that concerns the fewest others.
fn widen(table: &mut Table, most: usize, now: u64) {
    for step in [Step::Subjects, Step::Unnamed, Step::Issuers] {
        let mut groups = BTreeMap::<String, Vec<Revocation>>::new();
        for entry in table.values() {
            if let Some(wider) = step.wider(entry, now) {
                groups.entry(wider.name()).or_default().push(entry.clone());
            }
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
        for (wide, mut members) in groups {
            let Some(excess) = table.len().checked_sub(most).filter(|excess| *excess > 0) else { return };
            // The entry that they become takes a place itself.
            let own_place = usize::from(!table.contains_key(&wide));
            let count = members.len().min(excess + own_place);
            if count <= own_place {
                continue;
            }
            members.sort_by_key(|entry| entry.at);
            for member in members.into_iter().take(count) {
                table.remove(&member.name);
                let Some(what) = step.wider(&member, now) else { continue };
                let (name, expires) = (what.name(), member.expires);
                put(table, Revocation { name, what, expires, at: now, by: WIDENED_BY.into() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::ApiKeyId, *};

    const EXPIRES: u64 = 100_000;

    fn entry(what: What, at: u64) -> Revocation {
        let expires = if matches!(what, What::ApiKey(_)) { 0 } else { EXPIRES };
        Revocation { name: what.name(), what, expires, at, by: "ann".into() }
    }

    fn token(jti: &str, subject: Option<&str>) -> What {
        What::Token(Token { issuer: "i".into(), jti: jti.into(), subject: subject.map(Into::into) })
    }

    fn subject(sub: &str, since: u64) -> What {
        What::Subject(Subject { issuer: "i".into(), sub: sub.into(), since })
    }

    fn issuer(since: u64) -> What {
        What::IssuerSince(IssuerSince { issuer: "i".into(), since })
    }

    fn key(id: &str) -> What {
        What::ApiKey(ApiKeyId { id: id.into() })
    }

    fn apply(table: &mut Table, change: Change) {
        table.retain(|name, _| !change.gone.contains(name));
        table.extend(change.put.into_iter().map(|entry| (entry.name.clone(), entry)));
    }

    /// What a table of three becomes of these, the first at the time 1, each a second later.
    #[track_caller]
    fn check(entries: &[What], expected: &[What]) {
        let mut table = Table::new();
        for (at, what) in (1..).zip(entries) {
            let change = add(&table, entry(what.clone(), at), at, 3).unwrap();
            apply(&mut table, change);
        }
        let mut whats: Vec<_> = table.into_values().map(|entry| entry.what).collect();
        let mut expected = expected.to_vec();
        whats.sort_by_key(What::name);
        expected.sort_by_key(What::name);
        assert_eq!(whats, expected);
    }

    #[test]
    fn the_oldest_tokens_of_a_subject_become_one_entry_of_it() {
        let of = |jti| token(jti, Some("alice"));
        check(
            &[of("1"), of("2"), token("3", None), of("4")],
            &[subject("alice", 2 + SKEW), token("3", None), of("4")],
        );
    }

    #[test]
    fn a_session_may_have_had_tokens_since_it_was_revoked() {
        let session = |sid: &str| {
            What::Session(Session { issuer: "i".into(), sid: sid.into(), subject: Some("alice".into()) })
        };
        check(
            &[session("1"), session("2"), key("0a"), key("0b")],
            &[subject("alice", 4 + SKEW), key("0a"), key("0b")],
        );
    }

    #[test]
    fn what_names_no_subject_becomes_an_entry_of_its_issuer() {
        let of = |jti| token(jti, Some("alice"));
        check(
            &[token("1", None), token("2", None), of("3"), key("0a")],
            &[issuer(2 + SKEW), of("3"), key("0a")],
        );
    }

    #[test]
    fn where_nothing_else_is_left_subjects_become_an_entry_of_their_issuer() {
        let entries = [subject("a", 1), subject("b", 2), token("1", None), key("0a")];
        check(&entries, &[issuer(2), token("1", None), key("0a")]);
    }

    #[test]
    fn a_key_is_never_part_of_anything_and_a_table_full_of_them_says_so() {
        let mut table = Table::new();
        for (at, id) in (1..).zip(["0a", "0b", "0c"]) {
            let change = add(&table, entry(key(id), at), at, 3).unwrap();
            apply(&mut table, change);
        }
        assert_eq!(add(&table, entry(key("0d"), 4), 4, 3), Err(Full(4)));
        assert_eq!(add(&table, entry(key("0a"), 4), 4, 3), Ok(Change::default()), "it is there already");
    }

    #[test]
    fn expired_entries_make_room_first() {
        let mut table = Table::new();
        for jti in ["1", "2", "3"] {
            let mut old = entry(token(jti, None), 1);
            old.expires = if jti == "1" { 10 } else { EXPIRES };
            let change = add(&table, old, 1, 3).unwrap();
            apply(&mut table, change);
        }
        let change = add(&table, entry(token("4", None), 10), 10, 3).unwrap();
        assert_eq!((change.gone, change.widened), (vec![token("1", None).name()], Vec::new()));
    }

    #[test]
    fn room_is_made_for_more_than_one() {
        let mut table = Table::new();
        for at in 0..1_000 {
            let one = entry(token(&at.to_string(), Some("alice")), at);
            table.insert(one.name.clone(), one);
        }
        let change = add(&table, entry(token("x", None), 2_000), 2_000, 1_000).unwrap();
        assert_eq!((change.gone.len(), change.widened.len(), change.put.len()), (12, 1, 2));
        apply(&mut table, change);
        assert_eq!(table.len(), 990);
    }

    /// A token, as its issuer has made it.
    #[derive(Debug)]
    struct Made {
        issuer: String,
        sub: String,
        sid: String,
        jti: String,
        iat: u64,
    }

    impl Made {
        fn is_revoked(&self, table: &Table) -> bool {
            table.values().any(|entry| match &entry.what {
                What::Token(Token { issuer, jti, .. }) => (issuer, jti) == (&self.issuer, &self.jti),
                What::Session(Session { issuer, sid, .. }) => (issuer, sid) == (&self.issuer, &self.sid),
                What::Subject(Subject { issuer, sub, since }) => {
                    (issuer, sub) == (&self.issuer, &self.sub) && self.iat < *since
                }
                What::IssuerSince(IssuerSince { issuer, since }) => {
                    issuer == &self.issuer && self.iat < *since
                }
                What::ApiKey(_) => false,
            })
        }
    }

    /// Which token it is about, how, whether its subject is said, and how much later.
    type Asked = (usize, u8, bool, u64);

    fn asked(of: &Made, (at, how, is_named, _): Asked, now: u64) -> What {
        let (issuer, sub) = (of.issuer.clone(), of.sub.clone());
        let subject = is_named.then(|| sub.clone());
        match how {
            0..=3 => What::Token(Token { issuer, jti: of.jti.clone(), subject }),
            4 | 5 => What::Session(Session { issuer, sid: of.sid.clone(), subject }),
            6 => What::Subject(Subject { issuer, sub, since: now }),
            7 => What::IssuerSince(IssuerSince { issuer, since: now }),
            _ => key(&format!("{:02x}", at % 3)),
        }
    }

    proptest! {
        #[test]
        fn whatever_was_revoked_stays_revoked_within_the_bound(
            made in vec((0..2_u8, 0..3_u8, 0..2_u8, 0..200_u64), 1..40),
            steps in vec((0..40_usize, 0..9_u8, any::<bool>(), 0..12_u64), 1..60),
            most in 6..12_usize,
        ) {
            let made: Vec<_> = made
                .into_iter()
                .enumerate()
                .map(|(at, (issuer, sub, sid, iat))| Made {
                    issuer: format!("i{issuer}"),
                    sub: format!("s{sub}"),
                    sid: format!("{issuer}-{sub}-{sid}"),
                    jti: at.to_string(),
                    iat,
                })
                .collect();
            let (mut table, mut now) = (Table::new(), 0);
            for step in steps {
                now += step.3;
                // Only what was issued can be known, and its clock may be a bit ahead.
                let issued: Vec<_> = made.iter().filter(|one| one.iat < now + SKEW).collect();
                let Some(about) = issued.get(step.0) else { continue };
                let new = entry(asked(about, step, now), now);
                let mut wanted = table.clone();
                put(&mut wanted, new.clone());
                // Three keys and two issuers always fit.
                let change = add(&table, new, now, most).unwrap();
                apply(&mut table, change);
                prop_assert!(table.len() <= most);
                for one in issued.iter().filter(|one| one.is_revoked(&wanted)) {
                    prop_assert!(one.is_revoked(&table), "{:?} in {:?}", one, table);
                }
                let keys = |table: &Table| table.keys().filter(|name| name.starts_with("api-key")).count();
                prop_assert_eq!(keys(&table), keys(&wanted));
            }
        }
    }
}
