//! The typed form of `gatehouse.authn.v1.Revocations`: one thing that was withdrawn before its time.

use crate::{
    Invalid,
    pb::authn::{Revocations, revocations::What},
};

/// A withdrawal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The xDS resource name.
    pub name: String,
    /// What is withdrawn.
    pub what: Revoked,
    /// Seconds since the epoch; 0 is never. The control plane takes the entry away some time after this: what it concerns
    /// has expired by then, so whoever has the entry need not look.
    pub expires: u64,
}

/// What is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// One token.
    Token {
        /// `iss`
        issuer: String,
        /// `jti`
        jti: String,
    },
    /// Every token of a session.
    Session {
        /// `iss`
        issuer: String,
        /// `sid`
        sid: String,
    },
    /// Every token of a subject that was issued before.
    Subject {
        /// `iss`
        issuer: String,
        /// `sub`
        subject: String,
        /// Seconds since the epoch.
        since: u64,
    },
    /// Every token of an issuer that was issued before.
    Issuer {
        /// `iss`
        issuer: String,
        /// Seconds since the epoch.
        since: u64,
    },
    /// An API key.
    ApiKey {
        /// What stands before the secret.
        id: String,
    },
}

/// Claims that are longer are no ids; a table of 10,000 entries stays within some 20 MB.
const MAX_TEXT_BYTES: usize = 1_024;

impl TryFrom<Revocations> for Revocation {
    type Error = Invalid;

    fn try_from(wire: Revocations) -> Result<Self, Invalid> {
        let Revocations { name, what, expires } = wire;
        let name = text("name", name)?;
        let what = match what {
            Some(What::Token(token)) => Revoked::Token {
                issuer: text("token.issuer", token.issuer)?,
                jti: text("token.jti", token.jti)?,
            },
            Some(What::Session(session)) => Revoked::Session {
                issuer: text("session.issuer", session.issuer)?,
                sid: text("session.sid", session.sid)?,
            },
            Some(What::Subject(subject)) => Revoked::Subject {
                issuer: text("subject.issuer", subject.issuer)?,
                subject: text("subject.sub", subject.sub)?,
                since: time("subject.since", subject.since)?,
            },
            Some(What::IssuerSince(issuer)) => Revoked::Issuer {
                issuer: text("issuer_since.issuer", issuer.issuer)?,
                since: time("issuer_since.since", issuer.since)?,
            },
            Some(What::ApiKey(key)) => Revoked::ApiKey { id: key_id("api_key.id", key.id)? },
            None => return Err(Invalid::missing("what", "something that this release knows to revoke")),
        };
        let is_key = matches!(what, Revoked::ApiKey { .. });
        match expires {
            0 if !is_key => {
                Err(Invalid::new("expires", 0, "when the last token that it concerns has expired"))
            }
            0 => Ok(Self { name, what, expires }),
            _ if is_key => Err(Invalid::new("expires", expires, "0, since an API key never expires")),
            _ => Ok(Self { name, what, expires: time("expires", expires)? }),
        }
    }
}

fn text(field: &str, text: String) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Invalid::missing(field, format!("a text of 1 to {MAX_TEXT_BYTES} bytes")));
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(Invalid::new(field, text, format!("a text of 1 to {MAX_TEXT_BYTES} bytes")));
    }
    Ok(text)
}

/// As keys are called by `gatehouse.authn.v1.ApiKey`.
fn key_id(field: &str, id: String) -> Result<String, Invalid> {
    let id = text(field, id)?;
    if id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(id)
    } else {
        Err(Invalid::new(field, id, "hexadecimal, as what stands before the secret"))
    }
}

/// The end of the year 9999, as far as RFC 3339 goes: a time in milliseconds is beyond it.
const LAST_SECOND: u64 = 253_402_300_799;

fn time(field: &str, secs: u64) -> Result<u64, Invalid> {
    if (1..=LAST_SECOND).contains(&secs) {
        Ok(secs)
    } else {
        Err(Invalid::new(field, secs, "seconds since the epoch, up to the year 9999"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::authn::revocations as pb;

    fn read(what: impl Into<Option<What>>, expires: u64) -> Result<Revoked, String> {
        let read = Revocation::try_from(Revocations { name: "n".into(), what: what.into(), expires });
        read.map(|read| read.what).map_err(|why| why.to_string())
    }

    fn token(issuer: &str, jti: &str) -> What {
        What::Token(pb::Token { issuer: issuer.into(), jti: jti.into() })
    }

    fn subject(since: u64) -> What {
        What::Subject(pb::Subject { issuer: "i".into(), sub: "s".into(), since })
    }

    fn key(id: &str) -> What {
        What::ApiKey(pb::ApiKeyId { id: id.into() })
    }

    #[test]
    fn each_kind_is_read() {
        assert_eq!(read(token("i", "j"), 9), Ok(Revoked::Token { issuer: "i".into(), jti: "j".into() }));
        let session = Some(What::Session(pb::Session { issuer: "i".into(), sid: "s".into() }));
        assert_eq!(read(session, 9), Ok(Revoked::Session { issuer: "i".into(), sid: "s".into() }));
        let (issuer, since) = ("i".to_owned(), 7);
        let expected = Revoked::Subject { issuer: issuer.clone(), subject: "s".into(), since };
        assert_eq!(read(subject(7), 9), Ok(expected));
        let widest = Some(What::IssuerSince(pb::IssuerSince { issuer: issuer.clone(), since }));
        assert_eq!(read(widest, 9), Ok(Revoked::Issuer { issuer, since }));
        assert_eq!(read(key("0a"), 0), Ok(Revoked::ApiKey { id: "0a".into() }));
    }

    #[test]
    fn what_would_revoke_something_else_than_meant_is_refused_with_its_field() {
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        for (what, expires, told) in [
            (None, 9, "what: something that this release knows to revoke, got nothing"),
            (Some(token("", "j")), 9, "token.issuer: a text of 1 to 1024 bytes, got nothing"),
            (Some(token("i", "")), 9, "token.jti: a text of 1 to 1024 bytes, got nothing"),
            (
                Some(token("i", "j")),
                0,
                "expires: when the last token that it concerns has expired, got \"0\"",
            ),
            (Some(subject(0)), 9, "subject.since: seconds since the epoch, up to the year 9999, got \"0\""),
            (
                Some(subject(1_800_000_000_000)),
                9,
                "subject.since: seconds since the epoch, up to the year 9999, got \"1800000000000\"",
            ),
            (Some(key("0a")), 9, "expires: 0, since an API key never expires, got \"9\""),
            (Some(key("a_b")), 0, "api_key.id: hexadecimal, as what stands before the secret, got \"a_b\""),
        ] {
            assert_eq!(read(what, expires), Err(told.to_owned()));
        }
        let told = read(token("i", &long), 9).unwrap_err();
        assert!(told.starts_with("token.jti: a text of 1 to 1024 bytes, got \"xxx"), "{told}");
        let nameless = Revocations { name: String::new(), what: Some(key("0a")), expires: 0 };
        assert!(Revocation::try_from(nameless).unwrap_err().to_string().starts_with("name: "));
    }
}
