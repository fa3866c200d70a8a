//! What was withdrawn before its time, as a table that says so of a token without a search. No clock: what an entry
//! concerns has expired when the control plane takes it away.

use std::sync::Arc;

use api::revocation::{Revocation, Revoked};
use imbl::{HashMap, OrdSet};

/// Everything that is revoked. A clone shares it all, so that a change costs as much as it changes.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    /// By resource name, since that is all that a removal says.
    entries: HashMap<Arc<str>, Arc<Revoked>>,
    issuers: HashMap<String, OfIssuer>,
    /// How many entries name each key.
    api_keys: HashMap<String, usize>,
    generation: u64,
}

/// What is revoked of one issuer. There are a handful of issuers, so a look at one is two looks in tables, and the names
/// need not be put together first.
#[derive(Debug, Clone, Default)]
struct OfIssuer {
    /// How many entries name each token. Two of other names may say the same, and one stays when the other goes.
    tokens: HashMap<String, usize>,
    sessions: HashMap<String, usize>,
    subjects: HashMap<String, Sinces>,
    since: Sinces,
}

/// Times, each with the name of the entry that says it; the latest counts.
type Sinces = OrdSet<(u64, Arc<str>)>;

/// What a credential says of itself, as far as revocations go by it.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenFacts<'a> {
    /// `iss`; nothing for an API key.
    pub issuer: Option<&'a str>,
    /// `jti`
    pub jti: Option<&'a str>,
    /// `sid`
    pub sid: Option<&'a str>,
    /// `sub`
    pub subject: &'a str,
    /// `iat`. Without it a token counts as older than anything.
    pub issued_at: Option<f64>,
    /// The id of the API key, where it is one.
    pub api_key: Option<&'a str>,
}

impl Revocations {
    /// Adds an entry, or replaces the one of its name.
    pub fn insert(&mut self, entry: Revocation) {
        let Revocation { name, what, .. } = entry;
        if self.entries.get(name.as_str()).is_some_and(|known| **known == what) {
            return;
        }
        self.remove(&name);
        let (name, what) = (Arc::<str>::from(name), Arc::new(what));
        match &*what {
            Revoked::Token { issuer, jti } => count_up(&mut self.of(issuer).tokens, jti),
            Revoked::Session { issuer, sid } => count_up(&mut self.of(issuer).sessions, sid),
            Revoked::Subject { issuer, subject, since } => {
                self.of(issuer).subjects.entry(subject.clone()).or_default().insert((*since, name.clone()));
            }
            Revoked::Issuer { issuer, since } => {
                self.of(issuer).since.insert((*since, name.clone()));
            }
            Revoked::ApiKey { id } => count_up(&mut self.api_keys, id),
        }
        self.entries.insert(name, what);
        self.generation += 1;
    }

    /// Takes the entry of this name out, if there is one.
    pub fn remove(&mut self, name: &str) {
        let Some((name, what)) = self.entries.remove_with_key(name) else { return };
        match &*what {
            Revoked::Token { issuer, jti } => self.change(issuer, |of| count_down(&mut of.tokens, jti)),
            Revoked::Session { issuer, sid } => self.change(issuer, |of| count_down(&mut of.sessions, sid)),
            Revoked::Subject { issuer, subject, since } => self.change(issuer, |of| {
                let Some(sinces) = of.subjects.get_mut(subject) else { return };
                sinces.remove(&(*since, name));
                if sinces.is_empty() {
                    of.subjects.remove(subject);
                }
            }),
            Revoked::Issuer { issuer, since } => self.change(issuer, |of| {
                of.since.remove(&(*since, name));
            }),
            Revoked::ApiKey { id } => count_down(&mut self.api_keys, id),
        }
        self.generation += 1;
    }

    fn of(&mut self, issuer: &str) -> &mut OfIssuer {
        self.issuers.entry(issuer.to_owned()).or_default()
    }

    /// Nothing is left of an issuer of which nothing is revoked.
    fn change(&mut self, issuer: &str, change: impl FnOnce(&mut OfIssuer)) {
        let Some(of) = self.issuers.get_mut(issuer) else { return };
        change(of);
        if of.is_empty() {
            self.issuers.remove(issuer);
        }
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Another number after each change: what was found with one holds while it is the same.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a credential was withdrawn. A few looks in tables, and no memory.
    pub fn revokes(&self, token: &TokenFacts<'_>) -> bool {
        if self.is_empty() {
            return false;
        }
        if token.api_key.is_some_and(|id| self.api_keys.contains_key(id)) {
            return true;
        }
        let Some(of) = token.issuer.and_then(|issuer| self.issuers.get(issuer)) else { return false };
        let is_older = |sinces: &Sinces| {
            let latest = sinces.get_max().map(|(since, _)| *since);
            latest.is_some_and(|since| token.issued_at.is_none_or(|at| is_before(at, since)))
        };
        is_older(&of.since)
            || token.jti.is_some_and(|jti| of.tokens.contains_key(jti))
            || token.sid.is_some_and(|sid| of.sessions.contains_key(sid))
            || of.subjects.get(token.subject).is_some_and(is_older)
    }
}

impl OfIssuer {
    fn is_empty(&self) -> bool {
        self.tokens.is_empty()
            && self.sessions.is_empty()
            && self.subjects.is_empty()
            && self.since.is_empty()
    }
}

/// Seconds fit into the fraction of a float for 285 million years. What is no number is before everything.
#[allow(clippy::cast_precision_loss)]
fn is_before(at: f64, since: u64) -> bool {
    at.is_nan() || at < since as f64
}

fn count_up(counts: &mut HashMap<String, usize>, key: &str) {
    *counts.entry(key.to_owned()).or_default() += 1;
}

fn count_down(counts: &mut HashMap<String, usize>, key: &str) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    const ISSUER: &str = "https://id.example.test/";

    fn entry(name: &str, what: Revoked) -> Revocation {
        Revocation { name: name.into(), what, expires: 0 }
    }

    fn token(jti: &str) -> Revoked {
        Revoked::Token { issuer: ISSUER.into(), jti: jti.into() }
    }

    fn subject(since: u64) -> Revoked {
        Revoked::Subject { issuer: ISSUER.into(), subject: "alice".into(), since }
    }

    /// A table of one entry.
    fn table(what: Revoked) -> Revocations {
        let mut table = Revocations::default();
        table.insert(entry("one", what));
        table
    }

    const ALICE: TokenFacts<'static> = TokenFacts {
        issuer: Some(ISSUER),
        jti: Some("j"),
        sid: Some("s"),
        subject: "alice",
        issued_at: Some(100.0),
        api_key: None,
    };

    #[test]
    fn an_empty_table_revokes_nothing() {
        let table = Revocations::default();
        assert!(table.is_empty() && !table.revokes(&ALICE) && !table.revokes(&TokenFacts::default()));
    }

    #[test]
    fn a_token_is_revoked_by_its_id_and_its_issuer() {
        let table = table(token("j"));
        assert!(table.revokes(&ALICE));
        assert!(!table.revokes(&TokenFacts { jti: Some("other"), ..ALICE }));
        assert!(!table.revokes(&TokenFacts { jti: None, ..ALICE }));
        assert!(!table.revokes(&TokenFacts { issuer: Some("https://other.test/"), ..ALICE }));
        assert!(!table.revokes(&TokenFacts { sid: Some("j"), jti: None, ..ALICE }), "that is its session's");
    }

    #[test]
    fn a_session_is_revoked_with_all_its_tokens() {
        let table = table(Revoked::Session { issuer: ISSUER.into(), sid: "s".into() });
        assert!(table.revokes(&ALICE) && table.revokes(&TokenFacts { jti: Some("next"), ..ALICE }));
        assert!(!table.revokes(&TokenFacts { sid: None, ..ALICE }));
    }

    #[test]
    fn of_a_subject_what_was_issued_before_is_revoked_and_what_does_not_say_when() {
        let at = |issued_at| TokenFacts { issued_at, ..ALICE };
        for what in [subject(100), Revoked::Issuer { issuer: ISSUER.into(), since: 100 }] {
            let table = table(what.clone());
            assert!(!table.revokes(&at(Some(100.0))) && !table.revokes(&at(Some(1e300))));
            for issued_at in [None, Some(99.999), Some(-1.0), Some(f64::NAN), Some(f64::NEG_INFINITY)] {
                assert!(table.revokes(&at(issued_at)), "{issued_at:?}");
            }
            let of_bob = TokenFacts { subject: "bob", ..at(None) };
            assert_eq!(table.revokes(&of_bob), matches!(what, Revoked::Issuer { .. }));
            assert!(!table.revokes(&TokenFacts { issuer: Some("https://other.test/"), ..at(None) }));
        }
    }

    #[test]
    fn an_api_key_is_revoked_by_its_id() {
        let table = table(Revoked::ApiKey { id: "0a".into() });
        let key = |id| TokenFacts { api_key: Some(id), subject: "billing", ..TokenFacts::default() };
        assert!(table.revokes(&key("0a")));
        assert!(!table.revokes(&key("0b")));
        assert!(!table.revokes(&TokenFacts { jti: Some("0a"), ..ALICE }), "a token is no key");
    }

    #[test]
    fn of_two_entries_for_the_same_thing_one_stays_when_the_other_goes() {
        for (what, other) in [
            (token("j"), token("j")),
            (subject(200), subject(150)),
            (subject(150), subject(200)),
            (
                Revoked::Issuer { issuer: ISSUER.into(), since: 150 },
                Revoked::Issuer { issuer: ISSUER.into(), since: 150 },
            ),
        ] {
            let mut table = Revocations::default();
            table.insert(entry("one", what));
            table.insert(entry("two", other));
            table.remove("one");
            assert!(table.revokes(&ALICE));
            table.remove("one");
            assert!(table.revokes(&ALICE), "it was gone already");
            table.remove("two");
            assert!(!table.revokes(&ALICE) && table.is_empty() && table.issuers.is_empty());
        }
    }

    #[test]
    fn an_entry_that_changes_leaves_nothing_of_what_it_was() {
        let mut table = table(token("j"));
        table.insert(entry("one", subject(50)));
        assert!(!table.revokes(&ALICE));
        assert_eq!(table.len(), 1);
        table.insert(entry("one", subject(101)));
        assert!(table.revokes(&ALICE));
    }

    #[test]
    fn the_generation_tells_of_each_change_and_of_nothing_else() {
        let mut table = table(token("j"));
        let (before, first) = (table.clone(), table.generation());
        table.insert(entry("one", token("j")));
        table.remove("never");
        assert_eq!(table.generation(), first);
        table.insert(entry("two", token("k")));
        let second = table.generation();
        table.remove("two");
        assert!(first != second && second != table.generation() && first != table.generation());
        assert!(before.revokes(&ALICE), "a clone stays as it was");
    }

    /// As the words of each entry say it.
    fn naive(entries: &[(String, Revoked)], token: &TokenFacts<'_>) -> bool {
        let is = |claim: Option<&str>, text: &str| claim == Some(text);
        let older = |since: u64| token.issued_at.is_none_or(|at| is_before(at, since));
        entries.iter().any(|(_, what)| match what {
            Revoked::Token { issuer, jti } => is(token.issuer, issuer) && is(token.jti, jti),
            Revoked::Session { issuer, sid } => is(token.issuer, issuer) && is(token.sid, sid),
            Revoked::Subject { issuer, subject, since } => {
                is(token.issuer, issuer) && token.subject == subject && older(*since)
            }
            Revoked::Issuer { issuer, since } => is(token.issuer, issuer) && older(*since),
            Revoked::ApiKey { id } => is(token.api_key, id),
        })
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned())]
    }

    fn revoked() -> impl Strategy<Value = Revoked> {
        prop_oneof![
            (word(), word()).prop_map(|(issuer, jti)| Revoked::Token { issuer, jti }),
            (word(), word()).prop_map(|(issuer, sid)| Revoked::Session { issuer, sid }),
            (word(), word(), 1..5_u64).prop_map(|(issuer, subject, since)| Revoked::Subject {
                issuer,
                subject,
                since
            }),
            (word(), 1..5_u64).prop_map(|(issuer, since)| Revoked::Issuer { issuer, since }),
            word().prop_map(|id| Revoked::ApiKey { id }),
        ]
    }

    fn name() -> impl Strategy<Value = String> {
        (0..6_u8).prop_map(|at| at.to_string())
    }

    proptest! {
        #[test]
        fn the_table_says_what_a_list_would(
            steps in vec((name(), option::weighted(0.7, revoked())), 0..40),
            (issuer, jti, sid, api_key) in (
                option::of(word()), option::of(word()), option::of(word()), option::of(word())
            ),
            subject in word(),
            issued_at in option::of(0.0..6.0_f64),
        ) {
            let (mut table, mut list) = (Revocations::default(), Vec::<(String, Revoked)>::new());
            let token = TokenFacts {
                issuer: issuer.as_deref(),
                jti: jti.as_deref(),
                sid: sid.as_deref(),
                subject: &subject,
                issued_at,
                api_key: api_key.as_deref(),
            };
            for (name, step) in steps {
                list.retain(|(known, _)| *known != name);
                match step {
                    Some(what) => {
                        list.push((name.clone(), what.clone()));
                        table.insert(entry(&name, what));
                    }
                    None => table.remove(&name),
                }
                prop_assert_eq!(table.revokes(&token), naive(&list, &token));
                prop_assert_eq!(table.len(), list.len());
            }
        }
    }
}
