//! Rules, compiled: which of them match a request.

use std::{borrow::Cow, collections::HashMap};

use api::{
    authz::{Compared, Comparison, Effect, Rule},
    path::{PathTemplate, RequestPath},
};

use crate::{
    explain::Field,
    keys::{Held, Key, Keys},
    request::Request,
    trie::{EntryNumber, Next, Trie},
};

/// Rules, ready to be asked.
#[derive(Debug)]
pub struct Matcher {
    rules: Vec<Compiled>,
    /// Rules at their paths.
    entries: Vec<Entry>,
    keys: Keys,
    trie: Trie,
    needs_address: bool,
    needs_time: bool,
}

/// What a request matches, by numbers: the first of those that deny, and the first of those that allow where none denies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Wins.
    pub deny: Option<usize>,
    /// Only sought for somebody: nobody is allowed anything by a rule.
    pub allow: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rule: Rule,
    /// All must hold.
    pub(crate) clauses: Vec<Clause>,
}

/// One of these must be held.
#[derive(Debug)]
pub(crate) struct Clause {
    pub(crate) field: Field,
    pub(crate) keys: Box<[Key]>,
}

/// A rule at one of its paths.
#[derive(Debug)]
struct Entry {
    rule: usize,
    /// Where the captures of its comparisons stand, in their order.
    positions: Box<[usize]>,
}

/// A request, and what it has of what the rules ask for.
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) path: RequestPath<'a>,
    pub(crate) held: Held,
}

impl Clause {
    pub(crate) fn holds(&self, held: &Held) -> bool {
        self.keys.iter().any(|key| held.has(*key))
    }
}

impl Matcher {
    /// Takes checked rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut keys = Keys::default();
        let rules: Vec<_> =
            rules.into_iter().map(|rule| Compiled { clauses: clauses(&rule, &mut keys), rule }).collect();
        let (mut trie, mut entries) = (Trie::new(), Vec::new());
        let everything = [PathTemplate::everything()];
        for (number, Compiled { rule, .. }) in rules.iter().enumerate() {
            let paths = if rule.paths.is_empty() { &everything[..] } else { &rule.paths };
            for path in paths {
                trie.add(path, entries.len());
                entries.push(Entry { rule: number, positions: positions(rule, path) });
            }
        }
        trie.index(|entry| &rules[entries[entry].rule]);
        let needs_address = rules.iter().any(|compiled| !compiled.rule.networks.is_empty());
        let needs_time = rules.iter().any(|compiled| compiled.rule.time.is_some());
        Self { rules, entries, keys, trie, needs_address, needs_time }
    }

    /// The rules, in their order.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter().map(|compiled| &compiled.rule)
    }

    /// One of them.
    pub fn rule(&self, number: usize) -> &Rule {
        &self.rules[number].rule
    }

    /// Whether any rule asks where the client is: a request whose address is not known cannot be decided then.
    pub fn needs_address(&self) -> bool {
        self.needs_address
    }

    /// Whether any rule asks when a request came.
    pub fn needs_time(&self) -> bool {
        self.needs_time
    }

    /// What a request matches.
    pub fn find(&self, request: &Request<'_>, path: RequestPath<'_>) -> Found {
        self.found(&self.asked(request, path))
    }

    pub(crate) fn asked<'a>(&self, request: &'a Request<'a>, path: RequestPath<'a>) -> Asked<'a> {
        Asked { request, path, held: self.keys.held(request) }
    }

    pub(crate) fn found(&self, asked: &Asked<'_>) -> Found {
        self.found_where(asked, |_| true)
    }

    /// The same, of the denies those that `stands` leaves.
    pub(crate) fn found_where(&self, asked: &Asked<'_>, stands: impl Fn(usize) -> bool) -> Found {
        let mut found = Found::default();
        let is_before = |number: usize, found: Option<usize>| found.is_none_or(|found| number < found);
        self.trie.walk(asked.path, &mut |place| {
            place.candidates(&asked.held, |entry| {
                let number = self.entries[entry].rule;
                match self.rules[number].rule.effect {
                    Effect::Deny if is_before(number, found.deny) => {
                        if self.matches(entry, asked) && stands(number) {
                            found.deny = Some(number);
                        }
                    }
                    Effect::Allow if found.deny.is_none() && is_before(number, found.allow) => {
                        if asked.request.identity.is_some() && self.matches(entry, asked) {
                            found.allow = Some(number);
                        }
                    }
                    Effect::Deny | Effect::Allow => {}
                }
                // A later rule could only be a deny that is not named.
                if found.deny.is_some_and(|deny| deny <= number) { Next::List } else { Next::One }
            });
        });
        if found.deny.is_some() {
            found.allow = None;
        }
        found
    }

    /// The first rule that would allow a request if it had more scopes.
    pub(crate) fn lacking_scopes(&self, asked: &Asked<'_>) -> Option<&Compiled> {
        let mut first: Option<usize> = None;
        self.trie.walk(asked.path, &mut |place| {
            place.scoped(&asked.held, |entry| {
                let number = self.entries[entry].rule;
                if first.is_some_and(|first| first <= number) {
                    return Next::List;
                }
                if !self.matches_but(Some(Field::Scopes), entry, asked) {
                    return Next::One;
                }
                first = Some(number);
                Next::List
            });
        });
        first.map(|number| &self.rules[number])
    }

    /// The scopes of a rule that a request lacks, in their order.
    pub(crate) fn lacks<'a>(compiled: &'a Compiled, asked: &Asked<'_>) -> Vec<&'a str> {
        let scopes = compiled.clauses.iter().filter(|clause| clause.field == Field::Scopes);
        let named = compiled.rule.scopes.iter().zip(scopes);
        named.filter(|(_, clause)| !clause.holds(&asked.held)).map(|(scope, _)| scope.as_str()).collect()
    }

    /// The rules that a path leads to, each with its numbers of entries: for explanations.
    pub(crate) fn reached(&self, path: RequestPath<'_>) -> HashMap<usize, Vec<EntryNumber>> {
        let mut reached: HashMap<usize, Vec<EntryNumber>> = HashMap::new();
        self.trie.walk(path, &mut |place| {
            for entry in place.entries() {
                reached.entry(self.entries[*entry].rule).or_default().push(*entry);
            }
        });
        reached
    }

    pub(crate) fn compiled(&self) -> &[Compiled] {
        &self.rules
    }

    /// Whether a request that the path leads here matches the rule.
    pub(crate) fn matches(&self, entry: EntryNumber, asked: &Asked<'_>) -> bool {
        self.matches_but(None, entry, asked)
    }

    fn matches_but(&self, passed_over: Option<Field>, entry: EntryNumber, asked: &Asked<'_>) -> bool {
        let compiled = &self.rules[self.entries[entry].rule];
        let mut clauses = compiled.clauses.iter().filter(|clause| Some(clause.field) != passed_over);
        clauses.all(|clause| clause.holds(&asked.held))
            && compiled.rule.is_in_networks(asked.request)
            && compiled.rule.is_in_time(asked.request)
            && self.comparisons(entry, asked).all(|(_, _, holds)| holds)
    }

    /// Each comparison with what stands in the path, and whether it holds.
    pub(crate) fn comparisons<'a>(
        &'a self,
        entry: EntryNumber,
        asked: &'a Asked<'_>,
    ) -> impl Iterator<Item = (&'a Comparison, Cow<'a, str>, bool)> {
        let Entry { rule, positions } = &self.entries[entry];
        let comparisons = self.rules[*rule].rule.comparisons.iter().zip(positions);
        comparisons.map(|(comparison, position)| {
            let captured = asked.path.segments().nth(*position).unwrap_or_default();
            let holds = holds(comparison, &captured, asked.request);
            (comparison, captured, holds)
        })
    }
}

/// What the rules ask of a request beside names. The engine and its explanations ask here.
pub(crate) trait Asks {
    fn is_in_networks(&self, request: &Request<'_>) -> bool;
    fn is_in_time(&self, request: &Request<'_>) -> bool;
}

impl Asks for Rule {
    fn is_in_networks(&self, request: &Request<'_>) -> bool {
        let is_in = |address| self.networks.iter().any(|network| network.holds(address));
        self.networks.is_empty() || request.address.is_some_and(is_in)
    }

    fn is_in_time(&self, request: &Request<'_>) -> bool {
        self.time.as_ref().is_none_or(|time| time.holds(request.time))
    }
}

/// Nobody has no claims. An empty capture does not exist.
fn holds(comparison: &Comparison, captured: &str, request: &Request<'_>) -> bool {
    let Some(identity) = &request.identity else { return false };
    match &comparison.with {
        Compared::Claim(name) => identity.values(name).any(|value| value == captured),
        Compared::Groups => identity.groups.contains(&captured),
        Compared::Scopes => identity.scopes.contains(&captured),
    }
}

fn clauses(rule: &Rule, keys: &mut Keys) -> Vec<Clause> {
    let mut clauses = Vec::new();
    let mut add = |field, keys: Vec<Key>| {
        if !keys.is_empty() {
            clauses.push(Clause { field, keys: keys.into() });
        }
    };
    add(Field::Methods, rule.methods.iter().map(|name| keys.method(name)).collect());
    add(Field::Hosts, rule.hosts.iter().map(|pattern| keys.host(pattern)).collect());
    add(Field::Auth, rule.auth.iter().map(|name| keys.auth(name)).collect());
    add(Field::Groups, rule.groups.iter().map(|name| keys.group(name)).collect());
    // All of these.
    for scope in &rule.scopes {
        add(Field::Scopes, vec![keys.scope(scope)]);
    }
    for (at, claim) in rule.claims.iter().enumerate() {
        add(Field::Claim(at), keys.claim(claim));
    }
    clauses
}

/// Where the captures of a rule's comparisons stand in one of its paths: in each of them, as was checked.
fn positions(rule: &Rule, path: &PathTemplate) -> Box<[usize]> {
    let position = |comparison: &Comparison| path.position(&comparison.capture).unwrap_or(usize::MAX);
    rule.comparisons.iter().map(position).collect()
}

#[cfg(test)]
mod tests {
    use api::{authz::Moment, pb::authz as wire};

    use super::*;
    use crate::Identity;

    /// How many rules a request is compared with.
    fn looked_at(rules: usize, change: impl Fn(usize, &mut wire::Rule)) -> usize {
        let rule = |number: usize| {
            let mut rule = wire::Rule { id: format!("r-{number}"), effect: 2, ..Default::default() };
            change(number, &mut rule);
            Rule::read(rule, &[]).unwrap()
        };
        let matcher = Matcher::new((0..rules).map(rule).collect());
        let (scopes, groups) = (["read:3"], ["team-3", "team-4", "nobody-has-heard-of-it"]);
        let identity = Identity {
            subject: "user-3",
            method: "jwt",
            scopes: &scopes,
            groups: &groups,
            ..Default::default()
        };
        let request = Request {
            method: "GET",
            host: "host-3.example.test",
            path: "/api/3/users/x",
            address: None,
            time: Moment(0),
            open: false,
            identity: Some(identity),
        };
        let (path, mut count) = (RequestPath::parse(request.path).unwrap(), 0);
        let asked = matcher.asked(&request, path);
        matcher.trie.walk(path, &mut |place| {
            place.candidates(&asked.held, |_| {
                count += 1;
                Next::One
            });
        });
        assert_eq!(matcher.find(&request, path).allow, Some(3));
        count
    }

    #[test]
    fn a_thousand_rules_are_no_more_to_look_at_than_ten() {
        type Change = fn(usize, &mut wire::Rule);
        let rules: [(Change, usize); 6] = [
            (|number, rule| rule.paths = vec![format!("/api/{number}/users/{{id}}")], 1),
            (|number, rule| rule.groups = vec![format!("team-{number}")], 2),
            (|number, rule| rule.scopes = vec![format!("read:{number}")], 1),
            (|number, rule| rule.hosts = vec![format!("host-{number}.example.test")], 1),
            (
                |number, rule| {
                    let values = vec![format!("user-{number}")];
                    rule.claims = vec![wire::Claim { name: "sub".into(), values }];
                },
                1,
            ),
            (
                |number, rule| {
                    (rule.methods, rule.auth) = (vec!["GET".into()], vec!["jwt".into()]);
                    (rule.paths, rule.groups) = (vec!["/api".into()], vec![format!("team-{number}")]);
                },
                2,
            ),
        ];
        for (number, (change, expected)) in rules.into_iter().enumerate() {
            for count in [10, 1_000] {
                assert_eq!(looked_at(count, change), expected, "{number}: {count}");
            }
        }
    }
}
