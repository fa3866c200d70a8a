//! Keys that this sidecar has fetched itself, where what the control plane sends does not have the one that a token names:
//! a key that is minutes old, or one of a key server that nobody has listed.
//!
//! Never instead of what the control plane sends. A look that finds nothing, or nothing that can be read, takes nothing
//! away; and tokens with made-up ids cause few looks, however many there are.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{key_set::KeySet, pb};
use fetch::{Fetcher, Limits, Url};
use jwt::Keys;

use crate::bucket::Bucket;

/// What was found, and when somebody looked.
#[derive(Default)]
pub(crate) struct Learned {
    looks: Mutex<Looks>,
    /// Asked after every decision, which waits for no lock.
    has_wishes: AtomicBool,
}

#[derive(Default)]
struct Looks {
    found: HashMap<String, Found>,
    /// When somebody looked last, also in vain. Seconds since the epoch.
    looked: HashMap<String, f64>,
    /// For each issuer and key server, which policies name.
    buckets: HashMap<String, Bucket>,
    /// What is good and old: to be looked for while requests go on.
    wishes: Vec<Wanted>,
}

struct Found {
    keys: Arc<Keys>,
    /// Seconds since the epoch.
    since: f64,
}

/// Keys that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What they are looked up by: an issuer, or a key server and a key's id.
    pub(crate) name: String,
    pub(crate) from: From,
}

impl Wanted {
    /// Whose they are: an issuer, or a key server.
    pub(crate) fn issuer(&self) -> &str {
        of(&self.name)
    }
}

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum From {
    /// A JWK Set.
    Set(String),
    /// A key server, and those in its place: PEM, for a key of this id.
    Servers { id: String, urls: Vec<String> },
}

/// After this it is looked again, while the old one stays good.
const SOFT_SECS: f64 = 600.0;
/// After this nothing is good that could not be fetched again.
const HARD_SECS: f64 = 3_600.0;
/// Between two looks for the same: a token with a made-up id costs nothing but its own refusal.
const LOOK_AGAIN_SECS: f64 = 30.0;
/// For one issuer or key server, whatever names tokens make up.
const LOOKS_PER_SECOND: f64 = 5.0;
const LOOKS_AT_ONCE: f64 = 20.0;
/// A few at a time.
const MAX_WISHES: usize = 16;
/// Names that were looked for; the oldest are forgotten first.
const MAX_LOOKED: usize = 4_096;
/// Keys that are kept; an edge has a few issuers and some hundred services.
const MAX_FOUND: usize = 4_096;
const LIMITS: Limits = Limits { timeout: Duration::from_secs(2), max_bytes: 256 * 1024 };

impl Learned {
    /// What was found by this name, while it is good.
    pub(crate) fn keys(&self, name: &str, now: f64) -> Option<Arc<Keys>> {
        let looks = self.lock();
        let found = looks.found.get(name)?;
        // A clock that was set back makes nothing young again.
        (now - found.since).abs().lt(&HARD_SECS).then(|| found.keys.clone())
    }

    /// Whether a look could tell more: nothing is known, or it is old, and nobody has looked a moment ago.
    pub(crate) fn could_look(&self, name: &str, now: f64) -> bool {
        let looks = self.lock();
        let is_fresh = looks.found.get(name).is_some_and(|found| (now - found.since).abs() < SOFT_SECS);
        let is_recent = looks.looked.get(name).is_some_and(|at| (now - at).abs() < LOOK_AGAIN_SECS);
        !is_fresh && !is_recent
    }

    /// Whether somebody may look now; then that is written down.
    pub(crate) fn may_look(&self, name: &str, now: f64) -> bool {
        let mut looks = self.lock();
        let bucket = looks.buckets.entry(of(name).to_owned());
        if !bucket.or_insert_with(|| Bucket::new(LOOKS_PER_SECOND, LOOKS_AT_ONCE)).take(now) {
            return false;
        }
        if looks.looked.len() >= MAX_LOOKED {
            looks.looked.retain(|_, at| (now - *at).abs() < LOOK_AGAIN_SECS);
        }
        if looks.looked.len() >= MAX_LOOKED {
            return false;
        }
        looks.looked.insert(name.to_owned(), now);
        true
    }

    /// What is good goes on while it is looked for anew.
    pub(crate) fn wish(&self, wanted: Wanted) {
        let mut looks = self.lock();
        if looks.wishes.len() < MAX_WISHES && !looks.wishes.contains(&wanted) {
            looks.wishes.push(wanted);
            self.has_wishes.store(true, Ordering::Release);
        }
    }

    /// What was wished for.
    pub(crate) fn wishes(&self) -> Vec<Wanted> {
        if !self.has_wishes.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut looks = self.lock();
        self.has_wishes.store(false, Ordering::Release);
        std::mem::take(&mut looks.wishes)
    }

    /// The control plane has said which keys an issuer or a key server has: what was found beside them counts no more.
    pub(crate) fn forget(&self, issuer: &str) {
        let mut looks = self.lock();
        looks.found.retain(|name, _| of(name) != issuer);
        looks.looked.retain(|name, _| of(name) != issuer);
    }

    fn keep(&self, name: String, keys: Keys, now: f64) {
        let mut looks = self.lock();
        if looks.found.len() >= MAX_FOUND {
            looks.found.retain(|_, found| (now - found.since).abs() < SOFT_SECS);
        }
        if looks.found.len() < MAX_FOUND || looks.found.contains_key(&name) {
            looks.found.insert(name, Found { keys: Arc::new(keys), since: now });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, and says whether something was found. That is kept; what goes wrong is told in the log, once for each look.
    pub(crate) async fn look(&self, fetcher: &Fetcher, wanted: Wanted, now: f64) -> bool {
        match fetched(fetcher, &wanted.from).await {
            Ok(keys) => {
                self.keep(wanted.name, keys, now);
                true
            }
            Err(error) => {
                tracing::warn!(keys = wanted.name, error, "no keys were found");
                false
            }
        }
    }
}

/// The issuer or key server of a name.
fn of(name: &str) -> &str {
    name.split(' ').next().unwrap_or_default()
}

async fn fetched(fetcher: &Fetcher, from: &From) -> Result<Keys, String> {
    match from {
        From::Set(url) => {
            let jwks = text(fetcher, url).await?;
            keys(jwks)
        }
        From::Servers { id, urls } => {
            let mut failures = Vec::new();
            for url in urls {
                let slash = if url.ends_with('/') { "" } else { "/" };
                match text(fetcher, &format!("{url}{slash}{id}")).await {
                    Ok(pem) => {
                        let jwk = jwt::pem::jwk(&pem, id).map_err(|error| error.to_string())?;
                        let jwk = serde_json::to_string(&jwk).map_err(|error| error.to_string())?;
                        return keys(format!("{{\"keys\":[{jwk}]}}"));
                    }
                    Err(error) => failures.push(error),
                }
            }
            Err(failures.join("; "))
        }
    }
}

async fn text(fetcher: &Fetcher, url: &str) -> Result<String, String> {
    let url: Url = url.parse().map_err(|_| "not a URL".to_owned())?;
    let answer = fetcher.get(&url, None, LIMITS).await.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("answered {}", answer.status));
    }
    String::from_utf8(answer.body).map_err(|_| "not UTF-8".to_owned())
}

fn keys(jwks: String) -> Result<Keys, String> {
    // Whose keys they are is known by where they were looked up.
    let wire = pb::authn::KeySet { name: "https://learned".into(), jwks, ..Default::default() };
    Keys::new(KeySet::try_from(wire).map_err(|error| error.to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_keys(learned: &Learned, name: &str, now: f64) {
        learned.keep(name.into(), jwt::testing::keys(), now);
    }

    #[test]
    fn a_look_is_taken_once_in_a_while_for_each_name() {
        let learned = Learned::default();
        assert!(learned.could_look("a", 100.0) && learned.may_look("a", 100.0));
        assert!(!learned.could_look("a", 129.0), "a moment ago somebody looked in vain");
        assert!(learned.could_look("a", 131.0));
        with_keys(&learned, "a", 131.0);
        assert!(!learned.could_look("a", 131.0 + 599.0));
        assert!(learned.could_look("a", 131.0 + 601.0), "it is old");
        assert!(learned.keys("a", 131.0 + 3_500.0).is_some(), "and good as long as nobody can be asked");
        assert!(learned.keys("a", 131.0 + 3_700.0).is_none(), "for an hour");
        assert!(learned.keys("a", 131.0 - 3_700.0).is_none(), "whichever way the clock jumps");
    }

    #[test]
    fn made_up_names_cause_few_looks() {
        let learned = Learned::default();
        let looks = |server: &str, now| {
            (0..10_000).filter(|at| learned.may_look(&format!("{server} name-{at}"), now)).count()
        };
        assert_eq!((looks("a", 100.0), looks("b", 100.0)), (20, 20), "each server has its own");
        assert_eq!(looks("a", 101.0), 5, "a second later");
    }

    #[test]
    fn what_the_control_plane_says_goes_before_what_was_found() {
        let learned = Learned::default();
        for name in ["a", "b", "a key-1", "ab"] {
            with_keys(&learned, name, 100.0);
        }
        learned.may_look("a", 100.0);
        learned.forget("a");
        let left: Vec<_> = ["a", "a key-1", "b", "ab"]
            .into_iter()
            .filter(|name| learned.keys(name, 100.0).is_some())
            .collect();
        assert_eq!(left, ["b", "ab"]);
        assert!(learned.could_look("a", 101.0), "and a newer key is looked for at once");
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let learned = Learned::default();
        for at in 0..2 * MAX_LOOKED {
            learned.lock().buckets.clear();
            learned.may_look(&format!("name-{at}"), 100.0);
        }
        assert_eq!(learned.lock().looked.len(), MAX_LOOKED);
    }
}
