//! What takes longer than a request may hold a thread: slow hashes, and questions to others. Each is done once, however
//! many requests wait for it, and its result is remembered.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::authn::Introspection;
use argon2::{Argon2, PasswordVerifier as _};
use fetch::{Fetcher, Limits, Url};
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    basic,
    bucket::Bucket,
    cache::{Id, Known, Tokens},
    introspection,
    learned::{Learned, Wanted},
    method::{Proven, Stop},
    metrics::{WorkKind, WorkLabel, WorkResult},
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
    /// Keys are fetched that a token names.
    Keys(Wanted),
}

impl Work {
    fn kind(&self) -> WorkKind {
        match self {
            Self::Password(_) => WorkKind::Password,
            Self::Introspect { .. } => WorkKind::Introspection,
            Self::Keys(_) => WorkKind::Keys,
        }
    }
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
    /// Whose policy asks for it.
    pub(crate) service: String,
    pub(crate) work: Work,
}

/// What came of it.
pub(crate) type Result = std::result::Result<Arc<Known>, Stop>;

/// Does work for all requests of one process.
pub(crate) struct Works {
    tokens: Arc<Tokens>,
    learned: Arc<Learned>,
    fetcher: Fetcher,
    under_way: Mutex<HashMap<Flight, UnderWay>>,
    passwords: Semaphore,
    /// By whom is asked.
    questions: Mutex<HashMap<Arc<str>, Bucket>>,
    counts: Family<WorkLabel, Counter>,
}

/// Something that is being done.
struct UnderWay {
    kind: WorkKind,
    /// Whose room it takes: a service's, a provider's, or an issuer's.
    owner: String,
    done: watch::Receiver<Done>,
}

/// What is done once for all that wait: the whole credential, and nothing less, since whose identity would it be?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Flight {
    Credential(Id),
    Keys(String),
}

/// Nothing while it is under way. Keys that were looked for are no result: the credential is looked at again.
#[derive(Debug, Clone)]
enum Done {
    NotYet,
    Looked,
    Result(Result),
}

/// At once; requests with known credentials need the other cores.
const PASSWORDS_AT_ONCE: usize = 2;
/// Different ones that are under way or wait, of each kind: passwords take 20 to 50 ms each, and Envoy waits for 250.
const MAX_UNDER_WAY: usize = 64;
/// Of one service, provider or issuer: whoever attacks one leaves room for the others.
const MAX_OF_ONE: usize = 16;
/// To one provider, by one node.
const QUESTIONS_PER_SECOND: f64 = 200.0;
const QUESTIONS_AT_ONCE: f64 = 400.0;
/// Operators name a few; a table that is larger begins anew.
const MAX_PROVIDERS: usize = 256;
/// RFC 7662 answers have a KiB.
const ANSWER: Limits = Limits { timeout: Duration::from_secs(2), max_bytes: 64 * 1024 };
/// Whoever signs with a new key waits so long for it.
const LONGEST_FOR_KEYS: Duration = Duration::from_millis(100);

impl Works {
    pub(crate) fn new(
        tokens: Arc<Tokens>,
        learned: Arc<Learned>,
        fetcher: Fetcher,
        counts: Family<WorkLabel, Counter>,
    ) -> Self {
        Self {
            tokens,
            learned,
            fetcher,
            under_way: Mutex::default(),
            passwords: Semaphore::new(PASSWORDS_AT_ONCE),
            questions: Mutex::default(),
            counts,
        }
    }

    /// How much is under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn count(&self, kind: WorkKind, result: WorkResult) {
        self.counts.get_or_create(&WorkLabel { kind, result }).inc();
    }

    /// Waits for the result; `None` where the credential is to be looked at again. The work goes on when whoever waits
    /// gives up, so that the next request finds it done.
    pub(crate) async fn result(self: &Arc<Self>, pending: Pending, now: f64) -> Option<Result> {
        let is_for_keys = matches!(pending.work, Work::Keys(_));
        let mut done = match self.begin(pending, now) {
            Ok(done) => done,
            Err(stop) => return Some(Err(stop)),
        };
        let is_done = |done: &Done| !matches!(done, Done::NotYet);
        let end = if is_for_keys {
            let Ok(end) = timeout(LONGEST_FOR_KEYS, done.wait_for(is_done)).await else {
                return Some(Err(Stop::Fault("the token's key was not found in time")));
            };
            end
        } else {
            done.wait_for(is_done).await
        };
        match end.as_deref() {
            Ok(Done::Result(result)) => Some(result.clone()),
            Ok(Done::Looked) => None,
            Ok(Done::NotYet) | Err(_) => Some(Err(Stop::Fault(ENDED))),
        }
    }

    /// Looks for keys that are good and old; no request waits for them.
    pub(crate) fn refresh(self: &Arc<Self>, now: f64) {
        for wanted in self.learned.wishes() {
            // Nobody's credential: keys are under way by their own name.
            let pending =
                Pending { id: Id::NONE, method: 0, service: String::new(), work: Work::Keys(wanted) };
            // What there is no room for is wished for again.
            let _later = self.begin(pending, now);
        }
    }

    fn begin(
        self: &Arc<Self>,
        pending: Pending,
        now: f64,
    ) -> std::result::Result<watch::Receiver<Done>, Stop> {
        let Pending { id, method, service, work } = pending;
        let kind = work.kind();
        let (owner, flight) = match &work {
            Work::Keys(wanted) => (wanted.issuer().to_owned(), Flight::Keys(wanted.name.clone())),
            Work::Introspect { by, .. } => (by.endpoint.to_string(), Flight::Credential(id)),
            Work::Password(_) => (service, Flight::Credential(id)),
        };
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = under_way.get(&flight) {
            return Ok(same.done.clone());
        }
        let of_kind = under_way.values().filter(|one| one.kind == kind);
        let of_owner = of_kind.clone().filter(|one| one.owner == owner).count();
        if of_kind.count() >= MAX_UNDER_WAY || of_owner >= MAX_OF_ONE {
            self.count(kind, WorkResult::Limited);
            return Err(Stop::Fault("too many credentials are looked at"));
        }
        if let Work::Keys(wanted) = &work
            && !self.learned.may_look(&wanted.name, now)
        {
            self.count(kind, WorkResult::Limited);
            return Err(Stop::Fault("too many keys are looked for"));
        }
        let (tell, done) = watch::channel(Done::NotYet);
        under_way.insert(flight.clone(), UnderWay { kind, owner, done: done.clone() });
        drop(under_way);
        let works = Arc::clone(self);
        tokio::spawn(async move {
            // Also when the work panics.
            let _end = End { works: &works, flight };
            let end = works.work(id, method, work, now).await;
            tell.send_replace(end);
        });
        Ok(done)
    }

    async fn work(&self, id: Id, method: usize, work: Work, now: f64) -> Done {
        let kind = work.kind();
        let proven = match work {
            Work::Keys(wanted) => {
                let has_found = self.learned.look(&self.fetcher, wanted, now).await;
                self.count(kind, if has_found { WorkResult::Good } else { WorkResult::Failed });
                return Done::Looked;
            }
            Work::Password(password) => self.password(*password).await,
            Work::Introspect { by, token } => self.introspect(&by, &token, now).await,
        };
        self.count(
            kind,
            match &proven {
                Ok(_) => WorkResult::Good,
                Err(Stop::Fault(TOO_MANY)) => WorkResult::Limited,
                Err(Stop::Fault(_)) => WorkResult::Failed,
                Err(_) => WorkResult::Refused,
            },
        );
        Done::Result(match proven {
            Ok(proven) => {
                let mut methods = Methods::default();
                methods.add(method);
                Ok(self.tokens.keep(id, methods, proven, now))
            }
            Err(stop) => {
                if let Stop::Invalid(why) = stop {
                    self.tokens.keep_bad(id, why, now);
                }
                Err(stop)
            }
        })
    }

    async fn password(&self, password: Password) -> std::result::Result<Proven, Stop> {
        let Password { given, hash, proven } = password;
        let Ok(_turn) = self.passwords.acquire().await else { return Err(Stop::Fault(ENDED)) };
        let check = move || Argon2::default().verify_password(&given, hash.as_str()).is_ok();
        let is_right = tokio::task::spawn_blocking(check).await.map_err(|_| Stop::Fault(ENDED))?;
        proven.filter(|_| is_right).ok_or(Stop::Invalid(basic::WRONG))
    }

    async fn introspect(
        &self,
        by: &Introspection,
        token: &str,
        now: f64,
    ) -> std::result::Result<Proven, Stop> {
        const NOBODY: Stop = Stop::Fault("nobody answers who could tell about the token");
        let is_within = {
            let mut all = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MAX_PROVIDERS && !all.contains_key(&by.endpoint) {
                all.clear();
            }
            let bucket = all.entry(by.endpoint.clone());
            bucket.or_insert_with(|| Bucket::new(QUESTIONS_PER_SECOND, QUESTIONS_AT_ONCE)).take(now)
        };
        let url: Url = by.endpoint.parse().map_err(|_| NOBODY)?;
        if !is_within {
            return Err(Stop::Fault(TOO_MANY));
        }
        let form = [("token", token), ("token_type_hint", "access_token")];
        let own = Some((by.client_id.as_str(), by.client_secret.as_str()));
        let answer = self.fetcher.post_form(&url, &form, own, ANSWER).await.map_err(|error| {
            tracing::warn!(error = %error, "asking about a token");
            NOBODY
        })?;
        if answer.status != 200 {
            tracing::warn!(endpoint = &*by.endpoint, status = answer.status, "asking about a token");
            return Err(NOBODY);
        }
        introspection::read(by, &answer.body, now)
    }
}

const TOO_MANY: &str = "too many questions about tokens";
const ENDED: &str = "the credential could not be looked at";

/// Work that is no longer under way.
struct End<'a> {
    works: &'a Works,
    flight: Flight,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.works.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.flight);
    }
}
