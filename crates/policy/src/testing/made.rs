//! Policies and requests that are made of bytes, from few words, so that they meet.

use std::net::IpAddr;

use api::{authz::Moment, pb::authz as wire};

use crate::{Identity, Request};

/// A request that owns what it says.
#[derive(Debug)]
pub struct Asked {
    method: String,
    host: String,
    path: String,
    address: Option<IpAddr>,
    time: i64,
    open: bool,
    identity: Option<Who>,
}

#[derive(Debug)]
struct Who {
    subject: String,
    tenant: String,
    method: String,
    scopes: Vec<String>,
    groups: Vec<String>,
    departments: Vec<String>,
}

impl Asked {
    /// Shows it to the engine.
    pub fn with<T>(&self, ask: impl FnOnce(Request<'_>) -> T) -> T {
        let texts = |texts: &'_ [String]| -> Vec<String> { texts.to_vec() };
        let who = self.identity.as_ref();
        let scopes = who.map(|who| texts(&who.scopes)).unwrap_or_default();
        let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
        let groups = who.map(|who| texts(&who.groups)).unwrap_or_default();
        let groups: Vec<_> = groups.iter().map(String::as_str).collect();
        let departments = who.map(|who| texts(&who.departments)).unwrap_or_default();
        let claims = [("department", departments.iter().map(String::as_str).collect::<Vec<_>>())];
        let identity = who.map(|who| Identity {
            subject: &who.subject,
            issuer: "https://id.example.test/",
            tenant: &who.tenant,
            method: &who.method,
            scopes: &scopes,
            groups: &groups,
            claims: &claims,
        });
        ask(Request {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            address: self.address,
            time: Moment(self.time),
            open: self.open,
            identity,
        })
    }
}

/// Bytes that choose; nothing more chooses the first of everything.
struct Choices<'a>(&'a [u8]);

const METHODS: [&str; 5] = ["GET", "PUT", "POST", "get", "X-A"];
const HOSTS: [&str; 6] = ["a.test", "*.a.test", "b.a.test", "*.test", "*.b.a.test", "c.test"];
const ASKED_HOSTS: [&str; 8] =
    ["a.test", "b.a.test", "B.A.test.", "c.b.a.test:80", "", ".a.test", "a.test:", "xa.test"];
const WORDS: [&str; 6] = ["a", "b", "alice", "ü", "a b", "0"];
const SEGMENTS: [&str; 10] = ["a", "b", "{id}", "{x}", "alice", "{id}", "%C3%BC", "a%20b", "", "@"];
const ASKED_SEGMENTS: [&str; 14] =
    ["a", "b", "alice", "%61", "%C3%BC", "a%20b", "", "%40", "A", "%2F", "..", "%2e", "a;b", "%c3%bc"];
const NETWORKS: [&str; 4] = ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "0.0.0.0/0"];
const ADDRESSES: [&str; 5] = ["10.1.2.3", "10.2.0.1", "fd00::1", "::ffff:10.1.0.1", "203.0.113.1"];
const AUTH: [&str; 3] = ["jwt", "mtls", "session"];
const CLAIMS: [&str; 4] = ["sub", "tenant", "iss", "department"];

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn of(&mut self, all: &[&str]) -> String {
        all[self.below(all.len())].to_owned()
    }

    /// None of them, mostly.
    fn some(&mut self, all: &[&str]) -> Vec<String> {
        let count = self.below(6).saturating_sub(3);
        (0..count).map(|_| self.of(all)).collect()
    }

    fn path(&mut self, segments: &[&str]) -> String {
        let parts: Vec<_> = (0..=self.below(3)).map(|_| self.of(segments)).collect();
        format!("/{}", parts.join("/"))
    }

    fn time(&mut self) -> Option<wire::Time> {
        let mut time = wire::Time::default();
        match self.below(12) {
            0 => time.after = "2026-01-01T00:00:00Z".into(),
            1 => time.before = "2026-06-01T00:00:00+02:00".into(),
            2 => (time.days, time.zone) = (vec!["mon".into(), "sun".into()], "Europe/Berlin".into()),
            3 => {
                (time.from, time.to, time.zone) = ("08:00".into(), "17:30".into(), "America/New_York".into());
            }
            _ => return None,
        }
        Some(time)
    }

    fn rule(&mut self, number: usize) -> wire::Rule {
        let effect = if self.below(4) == 0 { wire::Effect::Deny } else { wire::Effect::Allow };
        let mut paths: Vec<_> = (0..self.below(3)).map(|_| self.path(&SEGMENTS)).collect();
        for path in &mut paths {
            if self.below(3) == 0 {
                path.insert(0, '=');
            }
        }
        let claims = (0..self.below(8).saturating_sub(6))
            .map(|_| wire::Claim { name: self.of(&CLAIMS), values: vec![self.of(&WORDS), self.of(&WORDS)] });
        let claims = claims.collect();
        let mut comparisons = Vec::new();
        if paths.iter().all(|path| path.contains("{id}")) && !paths.is_empty() {
            comparisons.extend((0..self.below(3)).map(|_| self.comparison()));
        }
        wire::Rule {
            id: format!("rule-{number}"),
            effect: effect.into(),
            methods: self.some(&METHODS[..3]),
            hosts: self.some(&HOSTS),
            paths,
            scopes: self.some(&WORDS[..3]),
            groups: self.some(&WORDS),
            claims,
            auth: self.some(&AUTH),
            networks: self.some(&NETWORKS),
            time: self.time(),
            r#where: comparisons,
        }
    }

    fn comparison(&mut self) -> wire::Comparison {
        let with = match self.below(4) {
            0 => wire::comparison::With::Held(1),
            1 => wire::comparison::With::Held(2),
            _ => wire::comparison::With::Claim(self.of(&CLAIMS)),
        };
        wire::Comparison { capture: "id".into(), with: Some(with) }
    }

    /// What is left over becomes a part of the path as it is.
    fn asked_path(&mut self) -> String {
        let mut path = self.path(&ASKED_SEGMENTS);
        match self.below(32) {
            0 => path.push('/'),
            1 => path.push_str("?a=/b/c"),
            2 => path.push_str(&"/a".repeat(32 * 1024)),
            3 => path.push_str(&"a".repeat(64 * 1024)),
            4..12 => {
                path.push_str(&String::from_utf8_lossy(self.0));
            }
            _ => {}
        }
        path
    }
}

/// A policy and a request, of any bytes. Not every policy is one that is accepted.
pub fn policy_and_request(bytes: &[u8]) -> (wire::Policy, Asked) {
    let mut choices = Choices(bytes);
    let rules = 1 + choices.below(12);
    let policy = wire::Policy {
        name: "i@1".into(),
        policy: "i".into(),
        rev: 1,
        default_effect: i32::from(choices.byte() % 3),
        rules: (0..rules).map(|number| choices.rule(number)).collect(),
        mode: 0,
        anonymous: if choices.below(3) == 0 { vec!["/a".into(), "=/b/".into()] } else { Vec::new() },
        claims: vec!["department".into()],
        cedar: None,
    };
    let identity = (choices.below(5) > 0).then(|| Who {
        subject: choices.of(&WORDS),
        tenant: if choices.below(2) == 0 { String::new() } else { choices.of(&WORDS) },
        method: choices.of(&AUTH),
        scopes: (0..choices.below(4)).map(|_| choices.of(&WORDS)).collect(),
        groups: (0..choices.below(40)).map(|_| choices.of(&WORDS)).collect(),
        departments: (0..choices.below(3)).map(|_| choices.of(&WORDS)).collect(),
    });
    let asked = Asked {
        method: choices.of(&METHODS),
        host: choices.of(&ASKED_HOSTS),
        address: ADDRESSES.get(choices.below(6)).and_then(|address| address.parse().ok()),
        // Within two years of the beginning of 2026, by three hours.
        time: 1_767_225_600
            + (i64::from(choices.byte()) - 128) * 10_800 * 20
            + i64::from(choices.byte()) * 60,
        open: choices.below(2) == 0,
        path: choices.asked_path(),
        identity,
    };
    (policy, asked)
}

/// Bytes to begin with: the same ones each time.
pub fn corpus() -> Vec<Vec<u8>> {
    let mut state = 0x2026_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..64).map(|length| (0..40 + length * 8).map(|_| next()).collect()).collect()
}
