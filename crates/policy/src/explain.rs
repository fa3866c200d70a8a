//! Why a request was decided as it was: for each rule, whether it matched, and which of its fields did not. Asked of the
//! same matcher that decides.

use std::fmt;

use api::{
    authz::{Effect, Rule},
    path::RequestPath,
};

use crate::{
    cedar::Verdict,
    engine::{Engine, joined},
    matcher::{Asked, Asks as _, Compiled, Matcher},
    request::Request,
    rules::{Decided, Rules},
};

/// A decision, and what each rule had to do with it.
#[derive(Debug)]
pub struct Explained<'a> {
    /// As for any request.
    pub decided: Decided<'a>,
    /// In the order of the policy; none where the path itself was refused.
    pub rules: Vec<(&'a Rule, Outcome)>,
    /// What Cedar says, where the rules leave it something to decide.
    pub cedar: Option<Verdict<'a>>,
}

/// What a rule has to do with a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It decided.
    Decides,
    /// It matched, and another one decided: a deny, or one before it.
    Matches,
    /// It matched, but no rule allows anything to nobody.
    MatchesNobody,
    /// These did not match; never empty.
    Unmet(Vec<Unmet>),
}

/// A field that did not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// As the service file has it.
    pub field: &'static str,
    /// What the rule asks for.
    pub wants: String,
    /// What the request has.
    pub has: String,
}

/// A field of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Field {
    Methods,
    Hosts,
    Scopes,
    Groups,
    /// By its number.
    Claim(usize),
    Auth,
}

impl Engine {
    /// Why a request is decided as it is.
    pub fn explain<'a>(&'a self, request: &Request<'_>) -> Explained<'a> {
        let mut explained = self.rules().explain(request);
        explained.cedar = self.verdict(&explained.decided, request);
        if let Some(verdict) = explained.cedar.clone() {
            explained.decided = joined(explained.decided, verdict);
        }
        explained
    }
}

impl Rules {
    /// Why a request is decided as it is.
    pub fn explain<'a>(&'a self, request: &Request<'_>) -> Explained<'a> {
        let decided = self.decide(request);
        let matcher = self.matcher();
        let Ok(path) = RequestPath::parse(request.path) else {
            return Explained { decided, rules: Vec::new(), cedar: None };
        };
        let asked = matcher.asked(request, path);
        let reached = matcher.reached(path);
        let rules = matcher.compiled().iter().enumerate().map(|(number, compiled)| {
            let entries = reached.get(&number).map(Vec::as_slice).unwrap_or_default();
            let matches = entries.iter().any(|entry| matcher.matches(*entry, &asked));
            let outcome = if !matches {
                Outcome::Unmet(unmet(matcher, compiled, entries, &asked))
            } else if compiled.rule.id == decided.rule {
                Outcome::Decides
            } else if compiled.rule.effect == Effect::Allow && request.identity.is_none() {
                Outcome::MatchesNobody
            } else {
                Outcome::Matches
            };
            (&compiled.rule, outcome)
        });
        let rules = rules.collect();
        Explained { decided, rules, cedar: None }
    }
}

fn unmet(matcher: &Matcher, compiled: &Compiled, entries: &[usize], asked: &Asked<'_>) -> Vec<Unmet> {
    let (rule, request) = (&compiled.rule, asked.request);
    let mut all: Vec<_> = (compiled.clauses.iter())
        .filter(|clause| !clause.holds(&asked.held))
        .map(|clause| by_name(clause.field, rule, request))
        .collect();
    // Each scope is asked for by itself.
    all.dedup();
    if entries.is_empty() {
        all.insert(
            0,
            Unmet { field: "paths", wants: list(&rule.paths), has: asked.path.as_str().to_owned() },
        );
    }
    if !rule.is_in_networks(request) {
        let has = request.address.map_or_else(nothing, |address| address.to_string());
        all.push(Unmet { field: "networks", wants: list(&rule.networks), has });
    }
    if !rule.is_in_time(request) {
        let has = format!("{} seconds since the epoch", request.time.0);
        all.push(Unmet { field: "time", wants: "the days, hours and dates of the rule".into(), has });
    }
    for entry in entries {
        let failed = matcher.comparisons(*entry, asked).filter(|(_, _, holds)| !holds);
        all.extend(failed.map(|(comparison, captured, _)| Unmet {
            field: "where",
            wants: comparison.to_string(),
            has: captured.into_owned(),
        }));
    }
    all
}

fn by_name(field: Field, rule: &Rule, request: &Request<'_>) -> Unmet {
    let identity = request.identity.unwrap_or_default();
    let (field, wants, has) = match field {
        Field::Methods => ("methods", list(&rule.methods), request.method.to_owned()),
        Field::Hosts => ("hosts", list(&rule.hosts), request.host.to_owned()),
        Field::Scopes => ("scopes", list(&rule.scopes), list(identity.scopes)),
        Field::Groups => ("groups", list(&rule.groups), list(identity.groups)),
        Field::Auth => ("auth", list(&rule.auth), identity.method.to_owned()),
        Field::Claim(at) => {
            let claim = &rule.claims[at];
            let values: Vec<_> = identity.values(&claim.name).collect();
            ("claims", format!("{}: {}", claim.name, list(&claim.values)), list(&values))
        }
    };
    Unmet { field, wants, has: if has.is_empty() { nothing() } else { has } }
}

fn nothing() -> String {
    "nothing".to_owned()
}

fn list(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
