//! What takes longer than a request may hold a thread: slow hashes, and questions to others. Each is done once, however
//! many requests wait for it, and its result is remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use api::authn::Introspection;
use argon2::{Argon2, PasswordVerifier as _};
use tokio::sync::{Semaphore, watch};

use crate::{
    basic,
    cache::{Id, Known, Tokens},
    method::{Proven, Stop},
    policy::Methods,
};

/// Something to be done before a credential is known to be good.
#[derive(Debug)]
pub(crate) enum Work {
    Password(Box<Password>),
    /// Who gave it out is asked about a token.
    Introspect {
        by: Box<Introspection>,
        token: String,
    },
}

/// A password, and what it should be.
pub(crate) struct Password {
    pub(crate) given: Vec<u8>,
    /// In the PHC string format.
    pub(crate) hash: String,
    /// Who it proves; nobody where the name is nobody's.
    pub(crate) proven: Option<Proven>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// Work for one credential.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: Id,
    pub(crate) method: usize,
    pub(crate) work: Work,
}

/// What came of it.
pub(crate) type Result = std::result::Result<Arc<Known>, Stop>;

/// Does work for all requests of one process.
pub(crate) struct Works {
    tokens: Arc<Tokens>,
    under_way: Mutex<HashMap<Id, watch::Receiver<Option<Result>>>>,
    passwords: Semaphore,
}

/// At once; requests with known credentials need the other cores.
const PASSWORDS_AT_ONCE: usize = 2;
/// Different credentials that are looked at or wait for it. Each takes some 20 to 50 ms, and Envoy waits for 250.
const MAX_UNDER_WAY: usize = 32;

impl Works {
    pub(crate) fn new(tokens: Arc<Tokens>) -> Self {
        Self { tokens, under_way: Mutex::default(), passwords: Semaphore::new(PASSWORDS_AT_ONCE) }
    }

    /// Waits for the result. The work goes on when whoever waits gives up, so that the next request finds it done.
    pub(crate) async fn result(self: &Arc<Self>, pending: Box<Pending>, now: f64) -> Result {
        let mut done = match self.begin(pending, now) {
            Ok(done) => done,
            Err(stop) => return Err(stop),
        };
        match done.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(Stop::Fault(ENDED))),
            Err(_) => Err(Stop::Fault(ENDED)),
        }
    }

    fn begin(
        self: &Arc<Self>,
        pending: Box<Pending>,
        now: f64,
    ) -> std::result::Result<watch::Receiver<Option<Result>>, Stop> {
        let Pending { id, method, work } = *pending;
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = under_way.get(&id) {
            return Ok(done.clone());
        }
        if under_way.len() >= MAX_UNDER_WAY {
            return Err(Stop::Fault("too many credentials are looked at"));
        }
        let (tell, done) = watch::channel(None);
        under_way.insert(id, done.clone());
        drop(under_way);
        let works = Arc::clone(self);
        tokio::spawn(async move {
            // Also when the work panics.
            let _end = End { works: &works, id };
            let mut methods = Methods::default();
            methods.add(method);
            let result = match works.work(work).await {
                Ok(proven) => Ok(works.tokens.keep(id, methods, proven, now)),
                Err(stop) => {
                    if let Stop::Invalid(why) = stop {
                        works.tokens.keep_bad(id, why, now);
                    }
                    Err(stop)
                }
            };
            tell.send_replace(Some(result));
        });
        Ok(done)
    }

    async fn work(&self, work: Work) -> std::result::Result<Proven, Stop> {
        match work {
            Work::Password(password) => {
                let Password { given, hash, proven } = *password;
                let Ok(_turn) = self.passwords.acquire().await else { return Err(Stop::Fault(ENDED)) };
                let check = move || Argon2::default().verify_password(&given, hash.as_str()).is_ok();
                let is_right = tokio::task::spawn_blocking(check).await.map_err(|_| Stop::Fault(ENDED))?;
                proven.filter(|_| is_right).ok_or(Stop::Invalid(basic::WRONG))
            }
            Work::Introspect { .. } => Err(Stop::Fault(ENDED)),
        }
    }
}

const ENDED: &str = "the credential could not be looked at";

/// Work that is no longer under way.
struct End<'a> {
    works: &'a Works,
    id: Id,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.works.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
