//! Both engines of a service: what decides its requests, whoever asks.

use std::time::{Duration, UNIX_EPOCH};

use api::{authz::Policy, path::RequestPath};

use crate::{
    cedar::{self, Compiled, InvalidCedar, Stands, Verdict, combine},
    request::Request,
    rules::{Decided, Rules},
};

/// A service's policy, ready to decide.
#[derive(Debug)]
pub struct Engine {
    rules: Rules,
    /// Beside the rules, where the service has it.
    cedar: Option<Compiled>,
}

impl Engine {
    /// Takes a checked policy, and reads what Cedar is to decide.
    ///
    /// # Errors
    /// Each mistake in Cedar's texts.
    pub fn new(policy: Policy) -> Result<Self, InvalidCedar> {
        let cedar = policy.cedar.as_ref().map(Compiled::new).transpose()?;
        Ok(Self { rules: Rules::new(policy), cedar })
    }

    /// What stands beside Cedar.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether it asks where the client is: then a request whose address is not known cannot be decided.
    pub fn needs_address(&self) -> bool {
        self.rules.matcher().needs_address() || self.cedar.as_ref().is_some_and(Compiled::needs_address)
    }

    /// Whether it asks when a request came.
    pub fn needs_time(&self) -> bool {
        self.rules.matcher().needs_time() || self.cedar.as_ref().is_some_and(Compiled::needs_time)
    }

    /// Decides one request.
    pub fn decide<'a>(&'a self, request: &Request<'_>) -> Decided<'a> {
        let decided = self.rules.decide(request);
        match self.verdict(&decided, request) {
            Some(verdict) => joined(decided, verdict),
            None => decided,
        }
    }

    /// What Cedar says of a request that the rules leave to it; nothing where it is not asked.
    pub(crate) fn verdict<'a>(&'a self, decided: &Decided<'_>, request: &Request<'_>) -> Option<Verdict<'a>> {
        let engine = self.cedar.as_ref().filter(|_| decided.said.asks_cedar())?;
        // Of both the rules have made sure.
        let (identity, path) = (request.identity.as_ref()?, RequestPath::parse(request.path).ok()?);
        let identity = cedar::Identity {
            subject: identity.subject,
            issuer: Some(identity.issuer).filter(|issuer| !issuer.is_empty()),
            tenant: Some(identity.tenant).filter(|tenant| !tenant.is_empty()),
            method: identity.method,
            scopes: identity.scopes,
            groups: identity.groups,
        };
        let since = u64::try_from(request.time.0).ok().map(Duration::from_secs);
        let time = since.and_then(|since| UNIX_EPOCH.checked_add(since));
        let Request { method, host, address, .. } = *request;
        Some(engine.decide(&cedar::Request { method, host, path, address, time, identity }))
    }
}

/// Both words together, as if one had spoken.
pub(crate) fn joined<'a>(decided: Decided<'a>, verdict: Verdict<'_>) -> Decided<'a> {
    let told = verdict.told();
    let stands = combine(decided.said, &verdict);
    let error = if let Verdict::Failed { cause, .. } = verdict { Some(cause) } else { None };
    match stands {
        Stands::Rules(effect) => Decided { effect, error, ..decided },
        // A scope would not have made the difference.
        Stands::Cedar(effect) => {
            Decided { effect, rule: told.into(), missing_scopes: Vec::new(), error, ..decided }
        }
    }
}
