//! One request, one decision. Pure: facts, what is in force, what is remembered, and the time.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use api::path::RequestPath;
use jwt::InvalidToken;
use sidecar::ext_authz::{Decision, Facts};
use xds::contact::Now;

use crate::{
    anonymous,
    cache::{Id, Known, Tokens},
    credentials::{Authorization, Presented, certificate, cookie, header},
    identity::{OPEN, record},
    method::{Asked, Credential, Outcome, Place, Stop},
    metrics::DecisionResult,
    policy::{Methods, Policy, Readers},
    replays::Replays,
    state::Snapshot,
    token::{self, Issued},
    work::{self, Pending},
};

/// What becomes of a request.
pub(crate) enum Verdict {
    Decided(Decision, Label),
    /// First something is to be done that takes longer.
    Wait(Box<Pending>),
}

/// How a decision is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    /// By which kind of credential.
    pub(crate) method: &'static str,
    pub(crate) result: DecisionResult,
}

/// What is remembered between requests.
pub(crate) struct Memory<'a> {
    pub(crate) tokens: &'a Tokens,
    pub(crate) replays: &'a Replays,
    pub(crate) issued: &'a Issued,
    /// What came of the work that this very request has waited for.
    pub(crate) done: &'a [(Id, work::Result)],
}

/// Decides. `now` in seconds since the epoch.
pub(crate) fn decide(facts: &Facts<'_>, state: &Snapshot, memory: &Memory<'_>, now: f64) -> Verdict {
    let policy = facts.policy().and_then(|id| state.policies.get(&id.to_string()));
    let Some(policy) = policy else {
        let description = "the route names a policy that is not here".into();
        return decided(Decision::Fault { description }, DecisionResult::UnknownPolicy);
    };
    let path = match RequestPath::parse(facts.path()) {
        Ok(path) => path,
        Err(why) => return stopped(policy, facts, Stop::BadRequest(format!("the path is ambiguous: {why}"))),
    };
    let question = Question { facts, policy, state, memory, now };
    match question.identify() {
        Ok(Some((id, known))) => question.allowed(&id, &known, is_open(policy, &path)),
        Ok(None) if is_open(policy, &path) => {
            let decision = anonymous::allowed(&policy.id, facts.decision_id(), policy.hidden.clone());
            Verdict::Decided(decision, Label { method: anonymous::NAME, result: DecisionResult::Anonymous })
        }
        Ok(None) => decided(
            denied(policy, facts, 401, "a credential is needed", Some(policy.challenge(None))),
            DecisionResult::NoCredential,
        ),
        Err(Halt::Stop(stop)) => stopped(policy, facts, stop),
        Err(Halt::Wait(pending)) => Verdict::Wait(pending),
    }
}

/// Whether a path needs no credential.
fn is_open(policy: &Policy, path: &RequestPath<'_>) -> bool {
    policy.anonymous.iter().any(|pattern| pattern.matches(path))
}

/// Who sends a request, by one policy.
struct Question<'a> {
    facts: &'a Facts<'a>,
    policy: &'a Policy,
    state: &'a Snapshot,
    memory: &'a Memory<'a>,
    now: f64,
}

/// Why it is not known yet who sends a request, or never will be.
enum Halt {
    Stop(Stop),
    Wait(Box<Pending>),
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl Question<'_> {
    /// The request may go on, and the upstream and the next sidecar are told who sends it. Headers that carried a
    /// credential of ours do not travel on.
    fn allowed(&self, credential: &Id, known: &Arc<Known>, is_open: bool) -> Verdict {
        let Self { facts, policy, state, memory, now } = self;
        let identity = &known.proven.identity;
        let headers = match &policy.identity_audience {
            None => identity.headers(),
            Some(audience) => match memory.issued.token(credential, known, audience, &state.signers, *now) {
                Some(token) => vec![(token::HEADER, token)],
                None => {
                    return stopped(policy, facts, Stop::Fault("there is no key to sign identities with"));
                }
            },
        };
        let mut record = identity.record(&policy.id, facts.decision_id());
        if is_open {
            record = record.truth(OPEN);
        }
        let decision = Decision::Allow { record, headers, remove: policy.hidden.clone() };
        let label = Label { method: identity.kind.name(), result: DecisionResult::Authenticated };
        Verdict::Decided(decision, label)
    }

    /// Whatever a request presents must be good, whatever else would do; where that is more than one credential, the
    /// method that the policy names first says who sends it. What no method of the policy reads is the upstream's own
    /// affair.
    fn identify(&self) -> Result<Option<(Id, Arc<Known>)>, Halt> {
        let authorization = Authorization::of(self.facts);
        let (mut reads_authorization, mut read) = (false, false);
        let (mut satisfied, mut found) = (Methods::default(), Vec::new());
        for (place, readers) in self.policy.places() {
            reads_authorization |= matches!(place, Place::Authorization(_));
            let Some(text) = one(presented(self.facts, authorization, place))? else { continue };
            read |= matches!(place, Place::Authorization(_));
            let (id, known) = self.known(place, readers, text)?;
            satisfied.join(known.methods);
            found.push((id, text, known));
        }
        if reads_authorization && authorization.is_there() && !read {
            return Err(Stop::Invalid(UNREADABLE).into());
        }
        // At last, since a proof is good once: nothing is waited for after this.
        for (_, text, known) in &found {
            self.confirm(text, known)?;
        }
        let decides = self.policy.decides(satisfied);
        let first =
            decides.and_then(|method| found.into_iter().find(|(_, _, known)| known.methods.has(method)));
        Ok(first.map(|(id, _, known)| (id, known)))
    }

    /// Who is proven by what stands at one place.
    fn known(&self, place: Place<'_>, readers: Readers, text: &str) -> Result<(Id, Arc<Known>), Halt> {
        if readers.ages && self.state.ages.is_stale(Now::read()) {
            return Err(Stop::Fault("what is known of keys and revocations is too old").into());
        }
        let id = self.memory.tokens.id(&self.policy.digest, place, text);
        let known = self.looked_up(&id, readers.methods, text)?;
        if self.state.revocations.revokes(&known.proven.identity.facts()) {
            return Err(Stop::Invalid("the credential was revoked").into());
        }
        Ok((id, known))
    }

    /// What has to be proven with each request.
    fn confirm(&self, text: &str, known: &Known) -> Result<(), Stop> {
        // The first of those that took it, since they may ask for different proofs.
        let number = known.methods.first().ok_or(Stop::Invalid(UNREADABLE))?;
        let asked = Asked { facts: self.facts, text, replays: self.memory.replays, now: self.now };
        self.policy.method(number).confirm(&known.proven, &asked)
    }

    fn looked_up(&self, id: &Id, methods: Methods, text: &str) -> Result<Arc<Known>, Halt> {
        if let Some((_, result)) = self.memory.done.iter().find(|(done, _)| done == id) {
            return Ok(result.clone()?);
        }
        if let Some(known) = self.memory.tokens.known(id, self.now) {
            return Ok(known);
        }
        if let Some(why) = self.memory.tokens.refusal(id, self.now) {
            return Err(Stop::Invalid(why).into());
        }
        let result = self.verified(id, methods, text);
        if let Err(Halt::Stop(Stop::Invalid(why))) = &result {
            self.memory.tokens.keep_bad(*id, why, self.now);
        }
        result
    }

    /// Whether a token names an issuer that some method trusts.
    fn is_of_another(&self, methods: Methods, text: &str) -> bool {
        let issuer = jwt::claims_of(text);
        let issuer = issuer.get("iss").and_then(|issuer| issuer.as_str());
        issuer.is_some_and(|issuer| self.policy.in_turn(methods).any(|(_, method)| method.trusts(issuer)))
    }

    /// Asks all methods that read the place; a credential is good when it is for one of them.
    fn verified(&self, id: &Id, methods: Methods, text: &str) -> Result<Arc<Known>, Halt> {
        let credential = Credential::new(text);
        let (mut good, mut taken) = (None, Methods::default());
        let (mut bad, mut not_mine) = (None, InvalidToken::Malformed.text());
        for (number, method) in self.policy.in_turn(methods) {
            // What is for one method, good or bad or not even readable, is shown to nobody else.
            let is_taken = || good.is_some() || bad.is_some() || self.is_of_another(methods, text);
            if method.is_last_resort() && is_taken() {
                continue;
            }
            match method.verify(&credential, self.state, self.now) {
                Outcome::Good(proven) => {
                    taken.add(number);
                    good.get_or_insert(proven);
                }
                Outcome::NotMine(why) => not_mine = why,
                Outcome::Bad(stop) => bad = bad.or(Some(stop)),
                Outcome::Wait(work) => {
                    return Err(Halt::Wait(Box::new(Pending {
                        id: *id,
                        method: number,
                        service: self.policy.id.instance().to_owned(),
                        work,
                    })));
                }
            }
        }
        match (good, bad) {
            (Some(proven), _) => Ok(self.memory.tokens.keep(*id, taken, proven, self.now)),
            (None, bad) => Err(bad.unwrap_or(Stop::Invalid(not_mine)).into()),
        }
    }
}

/// What a request shows at a place.
pub(crate) fn presented<'a>(
    facts: &Facts<'a>,
    authorization: Authorization<'a>,
    place: Place<'_>,
) -> Presented<'a> {
    match place {
        Place::Authorization(scheme) => authorization.presented(scheme),
        Place::Header(name) => header(facts, name),
        Place::Cookie(name) => cookie(facts, name),
        Place::Certificate => certificate(facts),
    }
}

const UNREADABLE: &str = "the credential is of a kind that is not accepted here";

fn one(presented: Presented<'_>) -> Result<Option<&str>, Stop> {
    match presented {
        Presented::Nothing => Ok(None),
        Presented::One(credential) => Ok(Some(credential)),
        Presented::Unreadable => Err(Stop::Invalid(UNREADABLE)),
        Presented::Several => Err(Stop::BadRequest("more than one credential of a kind".into())),
    }
}

fn decided(decision: Decision, result: DecisionResult) -> Verdict {
    Verdict::Decided(decision, Label { method: "none", result })
}

fn denied(
    policy: &Policy,
    facts: &Facts<'_>,
    status: u16,
    description: &str,
    challenge: Option<String>,
) -> Decision {
    let record = record(&policy.id, "none", facts.decision_id());
    Decision::Deny { record, status, description: description.to_owned(), challenge }
}

/// The request ends here.
pub(crate) fn stopped(policy: &Policy, facts: &Facts<'_>, stop: Stop) -> Verdict {
    match stop {
        Stop::Invalid(why) => decided(
            denied(policy, facts, 401, why, Some(policy.challenge(Some(why)))),
            DecisionResult::InvalidCredential,
        ),
        Stop::BadRequest(why) => decided(denied(policy, facts, 400, &why, None), DecisionResult::BadRequest),
        Stop::CrossSite => decided(
            denied(policy, facts, 403, "another site has made this request", None),
            DecisionResult::CrossSite,
        ),
        Stop::Fault(why) => decided(Decision::Fault { description: why.into() }, DecisionResult::Fault),
    }
}
