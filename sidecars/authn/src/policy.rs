//! A policy, made ready to be asked about thousands of requests.

use api::{
    authn::{self, PolicyId},
    path::PathPattern,
};

use crate::method::{Method, Place};

/// A policy, with its methods numbered.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) id: PolicyId,
    /// Of all that it says: what was found by it holds while it is the same.
    pub(crate) digest: [u8; 32],
    methods: Vec<authn::Method>,
    /// AND. A policy without any lets nobody in.
    groups: Vec<Methods>,
    places: Vec<Readers>,
    pub(crate) anonymous: Vec<PathPattern>,
    /// Headers with credentials that only we are to see.
    pub(crate) hidden: Vec<String>,
    /// The audience of the token by which the upstream is told who sends a request; headers do without it.
    pub(crate) identity_audience: Option<String>,
}

/// The methods that read one place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readers {
    /// The one that the policy names first.
    first: usize,
    pub(crate) methods: Methods,
    /// Whether any of them believes only what was heard of lately.
    pub(crate) ages: bool,
}

/// Some of a policy's methods, by their numbers. A policy has at most 32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Methods(u32);

impl Methods {
    pub(crate) fn add(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    pub(crate) fn join(&mut self, others: Self) {
        self.0 |= others.0;
    }

    pub(crate) fn has(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn common(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// The one that the policy names first.
    pub(crate) fn first(self) -> Option<usize> {
        (!self.is_empty()).then(|| self.0.trailing_zeros() as usize)
    }

    fn numbers(self) -> impl Iterator<Item = usize> {
        (0..32).filter(move |number| self.has(*number))
    }
}

impl Policy {
    /// Makes it ready. `body` is what was sent.
    ///
    /// # Errors
    /// A hash of a password cannot be read.
    pub(crate) fn new(policy: authn::Policy, body: &[u8]) -> Result<Self, String> {
        let authn::Policy { id, groups, anonymous, identity_audience } = policy;
        let mut ready = Self {
            id,
            digest: *blake3::hash(body).as_bytes(),
            methods: Vec::new(),
            groups: Vec::new(),
            places: Vec::new(),
            anonymous,
            hidden: Vec::new(),
            identity_audience,
        };
        for group in groups {
            let mut numbers = Methods::default();
            for method in group {
                numbers.add(ready.methods.len());
                crate::basic::check(&method)?;
                if let authn::Method::ApiKey(keys) = &method {
                    ready.hidden.push(keys.header.clone());
                }
                ready.methods.push(method);
            }
            ready.groups.push(numbers);
        }
        for number in 0..ready.methods.len() {
            let method = ready.method(number);
            let (place, ages) = (method.place(), method.ages());
            let same = ready.places.iter().position(|same| ready.method(same.first).place() == place);
            let at = same.unwrap_or_else(|| {
                ready.places.push(Readers { first: number, methods: Methods::default(), ages: false });
                ready.places.len() - 1
            });
            ready.places[at].methods.add(number);
            ready.places[at].ages |= ages;
        }
        Ok(ready)
    }
}

impl Policy {
    pub(crate) fn method(&self, number: usize) -> &dyn Method {
        match &self.methods[number] {
            authn::Method::Jwt(method) => method,
            authn::Method::ApiKey(method) => method,
            authn::Method::Asap(method) => method,
            authn::Method::Basic(method) => method,
            authn::Method::Introspection(method) => method,
            authn::Method::Mtls(method) => method,
            authn::Method::Session(method) => method,
            authn::Method::SenderConstrained(method) => method,
        }
    }

    /// Where credentials may stand, and what reads each place.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Place<'_>, Readers)> {
        self.places.iter().map(|readers| (self.method(readers.first).place(), *readers))
    }

    /// Those of a set, the last resorts at the end.
    pub(crate) fn in_turn(&self, methods: Methods) -> impl Iterator<Item = (usize, &dyn Method)> {
        let all = move |last: bool| {
            let numbered = methods.numbers().map(|number| (number, self.method(number)));
            numbered.filter(move |(_, method)| method.is_last_resort() == last)
        };
        all(false).chain(all(true))
    }

    /// Which method says who it is, where these are satisfied: the first of the first group, if each group has one.
    pub(crate) fn decides(&self, satisfied: Methods) -> Option<usize> {
        let mut found = self.groups.iter().map(|group| group.common(satisfied).first());
        let first = found.next()??;
        found.all(|method| method.is_some()).then_some(first)
    }

    /// What a client may prove itself with, and what was wrong with what it sent.
    pub(crate) fn challenge(&self, error: Option<&str>) -> String {
        let mut challenges: Vec<String> = Vec::new();
        for number in 0..self.methods.len() {
            let challenge = self.method(number).challenge(error);
            if !challenges.contains(&challenge) {
                challenges.push(challenge);
            }
        }
        if challenges.is_empty() {
            challenges.push(crate::jwt::bearer(error));
        }
        challenges.join(", ")
    }
}
