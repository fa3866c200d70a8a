//! What was withdrawn before its time: what operators ask for, checked, and what is kept of it.
//!
//! [`table`] says what becomes of a table that is full.

pub mod table;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// In templates: `context.revocations`. No source may have this name.
pub const LIST: &str = "revocations";

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Made of what it is about, so that the same thing is revoked once. No service instance can have such an id.
    pub name: String,
    /// What it is about.
    #[serde(flatten)]
    pub what: What,
    /// Seconds since the epoch: nothing that it concerns is good after that. 0 is never.
    pub expires: u64,
    /// When it was revoked first: seconds since the epoch.
    pub at: u64,
    /// By which operator.
    pub by: String,
}

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// One token.
    Token(Token),
    /// Every token of a session.
    Session(Session),
    /// Every token of a subject that was issued before.
    Subject(Subject),
    /// Every token of an issuer that was issued before.
    IssuerSince(IssuerSince),
    /// An API key.
    ApiKey(ApiKeyId),
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// `iss`
    pub issuer: String,
    /// `jti`
    pub jti: String,
    /// `sub`, so that a full table has to widen to no more than this subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// `iss`
    pub issuer: String,
    /// `sid`
    pub sid: String,
    /// `sub`, as for a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// A subject's tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// `iss`
    pub issuer: String,
    /// `sub`
    pub sub: String,
    /// Those with a smaller `iat`, and those without any: seconds since the epoch.
    pub since: u64,
}

/// An issuer's tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSince {
    /// `iss`
    pub issuer: String,
    /// Those with a smaller `iat`, and those without any: seconds since the epoch.
    pub since: u64,
}

/// An API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyId {
    /// What stands before the secret.
    pub id: String,
}

/// What an operator asks for: exactly one of the kinds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    token: Option<Token>,
    session: Option<Session>,
    subject: Option<Subject>,
    issuer_since: Option<IssuerSince>,
    api_key: Option<ApiKeyId>,
    expires: Option<u64>,
}

/// What cannot be revoked so: the field, the rule, the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}, got {value}")]
pub struct InvalidRevocation {
    field: &'static str,
    rule: String,
    value: String,
}

/// Claims that are longer are no ids; a table of 10,000 entries stays within some 20 MB.
const MAX_TEXT_BYTES: usize = 1_024;
/// A token that lives longer is none, and a time in milliseconds is far beyond it.
const LONGEST: u64 = 366 * 24 * 3_600;
/// What is told of a value.
const SHOWN_CHARS: usize = 80;
/// Seconds. Tokens are good when their `iat` is as much ahead of our clock, so those that were issued by now may say it.
pub const SKEW: u64 = 30;

fn refuse(field: &'static str, rule: impl Into<String>, value: impl std::fmt::Display) -> InvalidRevocation {
    let value: String = value.to_string().chars().take(SHOWN_CHARS).collect();
    InvalidRevocation { field, rule: rule.into(), value: format!("{value:?}") }
}

impl Wanted {
    /// The entry that it becomes. `now` in seconds since the epoch.
    ///
    /// # Errors
    /// The first field that is missing, too much, or breaks a rule.
    pub fn checked(self, by: &str, now: u64) -> Result<Revocation, InvalidRevocation> {
        let Self { token, session, subject, issuer_since, api_key, expires } = self;
        let kinds = [
            token.map(What::Token),
            session.map(What::Session),
            subject.map(What::Subject),
            issuer_since.map(What::IssuerSince),
            api_key.map(What::ApiKey),
        ];
        let mut given = kinds.into_iter().flatten();
        let rule = "exactly one of token, session, subject, issuer_since and api_key";
        let what = match (given.next(), given.count()) {
            (Some(what), 0) => what,
            (None, _) => return Err(refuse("body", rule, "none")),
            (Some(_), more) => return Err(refuse("body", rule, more + 1)),
        };
        what.check(now)?;
        let expires = match (&what, expires) {
            (What::ApiKey(_), None | Some(0)) => 0,
            (What::ApiKey(_), Some(expires)) => {
                return Err(refuse("expires", "nothing, since an API key never expires", expires));
            }
            (_, Some(expires)) if expires > now && expires <= now + LONGEST => expires,
            (_, expires) => {
                let rule = "when the last token that it concerns has expired, in seconds since the epoch: later than \
                            now, and within 366 days";
                return Err(refuse("expires", rule, expires.unwrap_or(0)));
            }
        };
        Ok(Revocation { name: what.name(), what, expires, at: now, by: by.to_owned() })
    }
}

impl What {
    fn check(&self, now: u64) -> Result<(), InvalidRevocation> {
        match self {
            Self::Token(Token { issuer, jti, subject }) => {
                text("token.issuer", issuer)?;
                text("token.jti", jti)?;
                subject.as_ref().map_or(Ok(()), |subject| text("token.subject", subject))
            }
            Self::Session(Session { issuer, sid, subject }) => {
                text("session.issuer", issuer)?;
                text("session.sid", sid)?;
                subject.as_ref().map_or(Ok(()), |subject| text("session.subject", subject))
            }
            Self::Subject(Subject { issuer, sub, since }) => {
                text("subject.issuer", issuer)?;
                text("subject.sub", sub)?;
                time("subject.since", *since, now)
            }
            Self::IssuerSince(IssuerSince { issuer, since }) => {
                text("issuer_since.issuer", issuer)?;
                time("issuer_since.since", *since, now)
            }
            Self::ApiKey(ApiKeyId { id }) => {
                text("api_key.id", id)?;
                let is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit());
                let rule = "hexadecimal, as what stands before the secret";
                // It may be the whole key, by mistake.
                if is_id { Ok(()) } else { Err(refuse("api_key.id", rule, "something else")) }
            }
        }
    }

    /// Made of what it is about. Times are no part of it: a later one takes the place of an earlier one.
    pub fn name(&self) -> String {
        let (kind, parts): (&str, &[&str]) = match self {
            Self::Token(Token { issuer, jti, .. }) => ("token", &[issuer, jti]),
            Self::Session(Session { issuer, sid, .. }) => ("session", &[issuer, sid]),
            Self::Subject(Subject { issuer, sub, .. }) => ("subject", &[issuer, sub]),
            Self::IssuerSince(IssuerSince { issuer, .. }) => ("issuer", &[issuer]),
            Self::ApiKey(ApiKeyId { id }) => ("api-key", &[id]),
        };
        let mut hash = blake3::Hasher::new();
        for part in parts {
            // Lengths stand before the parts, so that they do not run into each other.
            hash.update(&part.len().to_le_bytes());
            hash.update(part.as_bytes());
        }
        format!("{kind}:{}", &hash.finalize().to_hex()[..NAME_DIGITS])
    }
}

/// 128 bits: nobody finds two texts with one hash.
const NAME_DIGITS: usize = 32;

fn text(field: &'static str, text: &str) -> Result<(), InvalidRevocation> {
    // These would not come through YAML as they are, and the entry would be about something else.
    let is_plain = |one: char| {
        !one.is_control() && !('\u{2028}'..='\u{2029}').contains(&one) && one < '\u{fe00}'
            || ('\u{ff00}'..='\u{ffef}').contains(&one)
            || one >= '\u{10000}'
    };
    if text.is_empty() || text.len() > MAX_TEXT_BYTES || !text.chars().all(is_plain) {
        let rule = format!("a text of 1 to {MAX_TEXT_BYTES} bytes, without control characters");
        return Err(refuse(field, rule, text));
    }
    Ok(())
}

fn time(field: &'static str, since: u64, now: u64) -> Result<(), InvalidRevocation> {
    if since > 0 && since <= now + SKEW {
        return Ok(());
    }
    Err(refuse(field, "seconds since the epoch, and no later than now", since))
}

impl Revocation {
    /// What the fleet is told, as templates see it: not who is meant beside what is revoked, nor by whom.
    pub fn shown(&self) -> Value {
        let (kind, what) = match &self.what {
            What::Token(Token { issuer, jti, .. }) => ("token", json!({"issuer": issuer, "jti": jti})),
            What::Session(Session { issuer, sid, .. }) => ("session", json!({"issuer": issuer, "sid": sid})),
            What::Subject(subject) => ("subject", json!(subject)),
            What::IssuerSince(issuer) => ("issuer_since", json!(issuer)),
            What::ApiKey(key) => ("api_key", json!(key)),
        };
        json!({"name": self.name, kind: what, "expires": self.expires})
    }

    /// Both in one: this one, and a newer one of the same name. What either of them revokes is revoked.
    #[must_use]
    pub fn and(&self, newer: &Self) -> Self {
        let mut both = self.clone();
        match (&mut both.what, &newer.what) {
            (What::Token(Token { subject, .. }), What::Token(Token { subject: newer, .. }))
            | (What::Session(Session { subject, .. }), What::Session(Session { subject: newer, .. })) => {
                *subject = subject.take().or_else(|| newer.clone());
            }
            (What::Subject(Subject { since, .. }), What::Subject(Subject { since: newer, .. }))
            | (
                What::IssuerSince(IssuerSince { since, .. }),
                What::IssuerSince(IssuerSince { since: newer, .. }),
            ) => {
                *since = (*since).max(*newer);
            }
            // An API key, of which there is no more to say.
            _ => {}
        }
        both.expires = both.expires.max(newer.expires);
        both
    }

    /// Whether nothing that it concerns can be good any more.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires != 0 && self.expires <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[track_caller]
    fn check(body: Value, expected: &str) {
        let wanted = serde_json::from_value::<Wanted>(body).map_err(|error| error.to_string());
        let told =
            match wanted.and_then(|wanted| wanted.checked("ann", NOW).map_err(|error| error.to_string())) {
                Ok(revocation) => revocation.name,
                Err(told) => told,
            };
        assert!(told.starts_with(expected), "{told}");
    }

    #[test]
    fn each_kind_can_be_asked_for() {
        let expires = NOW + 600;
        check(json!({"token": {"issuer": "i", "jti": "j"}, "expires": expires}), "token:");
        check(
            json!({"session": {"issuer": "i", "sid": "s", "subject": "ä"}, "expires": expires}),
            "session:",
        );
        check(json!({"subject": {"issuer": "i", "sub": "s", "since": NOW}, "expires": expires}), "subject:");
        check(json!({"issuer_since": {"issuer": "i", "since": NOW}, "expires": expires}), "issuer:");
        check(json!({"api_key": {"id": "0a"}}), "api-key:");
        check(json!({"api_key": {"id": "0a"}, "expires": 0}), "api-key:");
    }

    #[test]
    fn what_would_revoke_something_else_than_meant_is_refused_with_its_field() {
        let expires = NOW + 600;
        let one = "body: exactly one of token, session, subject, issuer_since and api_key, got ";
        check(json!({"expires": expires}), &format!("{one}\"none\""));
        check(json!({"token": {"issuer": "i", "jti": "j"}, "api_key": {"id": "0a"}}), &format!("{one}\"2\""));
        check(json!({"tokn": {}}), "unknown field `tokn`");
        check(json!({"token": {"issuer": "i", "jti": "j", "sub": "s"}}), "unknown field `sub`");
        check(json!({"token": {"issuer": "i"}}), "missing field `jti`");
        let text = "a text of 1 to 1024 bytes, without control characters, got ";
        check(json!({"token": {"issuer": "", "jti": "j"}}), &format!("token.issuer: {text}\"\""));
        check(
            json!({"token": {"issuer": "i", "jti": "x".repeat(1_025)}}),
            &format!("token.jti: {text}\"xxx"),
        );
        for odd in ["a\n", "\u{7f}", "\u{85}", "\u{2028}", "\u{feff}", "\u{ffff}"] {
            check(json!({"session": {"issuer": "i", "sid": odd}}), &format!("session.sid: {text}"));
        }
        check(json!({"token": {"issuer": "i", "jti": "j"}}), "expires: when the last token");
        check(json!({"token": {"issuer": "i", "jti": "j"}, "expires": NOW}), "expires: when the last token");
        check(
            json!({"token": {"issuer": "i", "jti": "j"}, "expires": NOW * 1_000}),
            "expires: when the last",
        );
        let since = "seconds since the epoch, and no later than now, got ";
        check(
            json!({"subject": {"issuer": "i", "sub": "s", "since": NOW + 3_600}, "expires": expires}),
            &format!("subject.since: {since}"),
        );
        check(json!({"issuer_since": {"issuer": "i", "since": 0}}), &format!("issuer_since.since: {since}"));
        check(
            json!({"api_key": {"id": "gatehouse_0a_secret"}}),
            "api_key.id: hexadecimal, as what stands before the secret, got \"something else\"",
        );
        check(
            json!({"api_key": {"id": "0a"}, "expires": expires}),
            "expires: nothing, since an API key never",
        );
    }

    #[test]
    fn an_entry_is_named_by_what_it_is_about_and_not_by_when() {
        let subject = |issuer: &str, sub: &str, since| {
            What::Subject(Subject { issuer: issuer.into(), sub: sub.into(), since }).name()
        };
        assert_eq!(subject("i", "s", 1), subject("i", "s", 2));
        assert_ne!(subject("ab", "c", 1), subject("a", "bc", 1));
        assert!(subject("i", "s", 1).parse::<crate::InstanceId>().is_err(), "no instance is called so");
    }

    #[test]
    fn two_of_one_name_revoke_what_either_did() {
        let entry = |since, expires| Revocation {
            name: "n".into(),
            what: What::Subject(Subject { issuer: "i".into(), sub: "s".into(), since }),
            expires,
            at: 1,
            by: "ann".into(),
        };
        assert_eq!(entry(5, 9).and(&entry(3, 12)), entry(5, 12));
        assert_eq!(entry(5, 9).and(&entry(7, 8)), entry(7, 9));
    }

    #[test]
    fn what_is_kept_can_be_read_again_and_the_fleet_is_told_no_more_than_it_needs() {
        let token = Token { issuer: "i".into(), jti: "j".into(), subject: Some("alice".into()) };
        let what = What::Token(token);
        let kept = Revocation { name: what.name(), what, expires: 9, at: 1, by: "ann".into() };
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Revocation>(&text).unwrap(), kept);
        let shown = json!({"name": kept.name, "token": {"issuer": "i", "jti": "j"}, "expires": 9});
        assert_eq!(kept.shown(), shown);
    }
}
