//! Who sends a request, whichever way it was proven.

use std::{collections::BTreeMap, sync::Arc};

use api::authn::PolicyId;
use jwt::Carried;
use sidecar::ext_authz::Record;

use crate::revocations::TokenFacts;

/// The key of this sidecar in the dynamic metadata.
pub(crate) const KEY: &str = "authn";

/// By which kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Jwt,
    Asap,
    ApiKey,
    Basic,
    Introspection,
    Mtls,
    Session,
    Dpop,
    MtlsBound,
}

impl Kind {
    /// As upstreams, logs and metrics know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Asap => "asap",
            Self::ApiKey => "api_key",
            Self::Basic => "basic",
            Self::Introspection => "introspection",
            Self::Mtls => "mtls",
            Self::Session => "session",
            Self::Dpop => "dpop",
            Self::MtlsBound => "mtls_bound",
        }
    }
}

/// Who sends a request. A hundred thousand of them are remembered, so its texts lie in one piece.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identity {
    pub(crate) kind: Kind,
    /// Who vouches for it; nobody else but us where it is nothing.
    pub(crate) issuer: Option<Arc<str>>,
    /// Seconds since the epoch; infinite where it does not end by itself.
    pub(crate) expires: f64,
    /// Seconds since the epoch; before all times where nobody says.
    issued_at: f64,
    texts: Box<str>,
    /// Where each of the texts ends.
    ends: [u32; PARTS],
}

/// The texts of an identity; an empty one is none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Texts<'a> {
    pub(crate) subject: &'a str,
    pub(crate) tenant: &'a str,
    /// With one space between two.
    pub(crate) scopes: &'a str,
    /// With one line feed between two.
    pub(crate) groups: &'a str,
    /// `jti`
    pub(crate) token: &'a str,
    /// `sid`
    pub(crate) session: &'a str,
    /// The id of the credential itself, where it has one that is not secret.
    pub(crate) credential: &'a str,
    /// A line for each value of each claim that is carried: its name, a tab, the value. Control characters are in neither.
    pub(crate) claims: &'a str,
}

const PARTS: usize = 8;

impl Identity {
    pub(crate) fn new(kind: Kind, texts: Texts<'_>) -> Self {
        let Texts { subject, tenant, scopes, groups, token, session, credential, claims } = texts;
        let parts = [subject, tenant, scopes, groups, token, session, credential, claims];
        let (mut all, mut ends) =
            (String::with_capacity(parts.iter().map(|part| part.len()).sum()), [0; PARTS]);
        for (part, end) in parts.into_iter().zip(&mut ends) {
            all.push_str(part);
            // A credential has some KiB.
            *end = u32::try_from(all.len()).unwrap_or(u32::MAX);
        }
        Self {
            kind,
            issuer: None,
            expires: f64::INFINITY,
            issued_at: f64::NEG_INFINITY,
            texts: all.into(),
            ends,
        }
    }

    /// Vouched for by this issuer, or by nobody but us.
    pub(crate) fn by(self, issuer: impl Into<Option<Arc<str>>>) -> Self {
        Self { issuer: issuer.into(), ..self }
    }

    /// From when, and until when; seconds since the epoch.
    pub(crate) fn between(self, issued_at: Option<f64>, expires: Option<f64>) -> Self {
        Self {
            expires: expires.unwrap_or(f64::INFINITY),
            issued_at: issued_at.unwrap_or(f64::NEG_INFINITY),
            ..self
        }
    }

    pub(crate) fn texts(&self) -> Texts<'_> {
        let mut from = 0;
        let mut next = self.ends.iter().map(|end| {
            let to = *end as usize;
            let part = self.texts.get(from..to).unwrap_or_default();
            from = to;
            part
        });
        let mut next = || next.next().unwrap_or_default();
        Texts {
            subject: next(),
            tenant: next(),
            scopes: next(),
            groups: next(),
            token: next(),
            session: next(),
            credential: next(),
            claims: next(),
        }
    }

    /// What it could be revoked by.
    pub(crate) fn facts(&self) -> TokenFacts<'_> {
        fn some(text: &str) -> Option<&str> {
            (!text.is_empty()).then_some(text)
        }
        let texts = self.texts();
        TokenFacts {
            issuer: self.issuer.as_deref(),
            jti: some(texts.token),
            sid: some(texts.session),
            subject: texts.subject,
            issued_at: Some(self.issued_at).filter(|at| at.is_finite()),
            api_key: if self.kind == Kind::ApiKey { some(texts.credential) } else { None },
        }
    }

    /// Bytes beside the struct itself.
    pub(crate) fn weight(&self) -> usize {
        self.texts.len()
    }

    /// What the next sidecar and the access log are told.
    pub(crate) fn record(&self, policy: &PolicyId, request: &str) -> Record {
        let texts = self.texts();
        let mut record = record(policy, self.kind.name(), request)
            .text("sub", texts.subject)
            .texts("scopes", texts.scopes.split(' ').filter(|scope| !scope.is_empty()));
        if let Some(issuer) = &self.issuer {
            record = record.text("iss", issuer);
        }
        if self.expires.is_finite() {
            record = record.number("exp", self.expires);
        }
        if !texts.tenant.is_empty() {
            record = record.text("tenant", texts.tenant);
        }
        if !texts.groups.is_empty() {
            record = record.texts("groups", texts.groups.split('\n'));
        }
        if !texts.credential.is_empty() {
            record = record.text("cred_id", texts.credential);
        }
        if !texts.claims.is_empty() {
            record = record.lists("claims", claims(texts.claims));
        }
        record
    }

    /// What the upstream is told.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        let texts = self.texts();
        let mut headers = vec![
            ("x-gatehouse-method", self.kind.name().into()),
            ("x-gatehouse-subject", header_value(texts.subject)),
            ("x-gatehouse-scopes", header_value(texts.scopes)),
        ];
        if let Some(issuer) = &self.issuer {
            headers.push(("x-gatehouse-issuer", header_value(issuer)));
        }
        if !texts.tenant.is_empty() {
            headers.push(("x-gatehouse-tenant", header_value(texts.tenant)));
        }
        if !texts.groups.is_empty() {
            let groups: Vec<_> = texts.groups.split('\n').map(list_item).collect();
            headers.push(("x-gatehouse-groups", groups.join(",")));
        }
        if !texts.credential.is_empty() {
            headers.push(("x-gatehouse-credential", header_value(texts.credential)));
        }
        headers
    }
}

/// Claims as one text, as an identity holds them.
pub(crate) fn carried(claims: &Carried) -> String {
    let lines =
        claims.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}\t{value}")));
    lines.collect::<Vec<_>>().join("\n")
}

/// The values of each claim, by its name.
fn claims(carried: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut claims: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in carried.split('\n').filter_map(|line| line.split_once('\t')) {
        claims.entry(name).or_default().push(value);
    }
    claims
}

/// What authorization goes by on paths that need no credential: the policy of this very route says which these are.
pub(crate) const OPEN: &str = "open";

/// What every decision leaves in the metadata.
pub(crate) fn record(policy: &PolicyId, method: &str, request: &str) -> Record {
    Record::new(KEY, policy).text("method", method).text("id", request)
}

/// One of several in a header value: a comma in it is not one that separates.
fn list_item(text: &str) -> String {
    header_value(text).replace(',', "%2C")
}

/// A claim can hold any Unicode; a header value holds visible ASCII, and spaces that are not at its ends (RFC 9110
/// section 5.5). The rest is percent-encoded.
fn header_value(text: &str) -> String {
    use std::fmt::Write as _;
    let mut value = String::with_capacity(text.len());
    let inner = text.len() - text.trim_start_matches(' ').len()..text.trim_end_matches(' ').len();
    for (at, byte) in text.bytes().enumerate() {
        let space = byte == b' ' && inner.contains(&at);
        if space || (byte.is_ascii_graphic() && byte != b'%') {
            value.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(value, "%{byte:02X}");
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_become_header_values_that_cannot_break_out() {
        assert_eq!(header_value("a b%\r\nä"), "a b%25%0D%0A%C3%A4");
        assert_eq!(header_value(" root "), "%20root%20");
        assert_eq!(header_value(" "), "%20");
        assert_eq!(list_item("a,b"), "a%2Cb");
    }

    #[test]
    fn texts_in_one_piece_are_told_apart() {
        let of = |subject, tenant, groups| {
            let identity = Identity::new(Kind::Jwt, Texts { subject, tenant, groups, ..Texts::default() });
            let Texts { subject, tenant, groups, credential, .. } = identity.texts();
            [subject, tenant, groups, credential].map(str::to_owned)
        };
        assert_eq!(of("alice", "acme", "a\nb"), ["alice", "acme", "a\nb", ""]);
        assert_eq!(of("alic", "eacme", ""), ["alic", "eacme", "", ""]);
        assert_eq!(of("ä", "", "ö"), ["ä", "", "ö", ""]);
    }

    #[test]
    fn claims_that_are_carried_are_told_by_their_names() {
        let all = vec![
            ("department".to_owned(), vec!["sales".to_owned(), "it = on".to_owned()]),
            ("level".to_owned(), vec!["3".to_owned()]),
        ];
        let text = carried(&all);
        let told = claims(&text);
        assert_eq!((&told["department"], &told["level"]), (&vec!["sales", "it = on"], &vec!["3"]));
        assert!(claims("").is_empty());
    }

    #[test]
    fn the_upstream_is_told_of_tenant_and_groups() {
        let texts = Texts { subject: "alice", tenant: "acme", groups: "a b\nc,d", ..Texts::default() };
        let headers = Identity::new(Kind::Jwt, texts).headers();
        assert!(headers.contains(&("x-gatehouse-tenant", "acme".into())), "{headers:?}");
        assert!(headers.contains(&("x-gatehouse-groups", "a b,c%2Cd".into())), "{headers:?}");
    }
}
