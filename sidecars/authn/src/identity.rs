//! Who sends a request, whichever way it was proven.

use api::authn::PolicyId;
use jwt::Verified;
use sidecar::ext_authz::{Decision, Record};

/// The key of this sidecar in the dynamic metadata.
pub(crate) const KEY: &str = "authn";

/// Who sends a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Identity {
    /// By which kind of credential.
    pub(crate) method: &'static str,
    /// Who vouches for it; nobody else but us where it is nothing.
    pub(crate) issuer: Option<String>,
    pub(crate) subject: String,
    /// With one space between two.
    pub(crate) scopes: String,
    /// Seconds since the epoch.
    pub(crate) expires: Option<f64>,
    /// The id of the credential itself, where it has one that is not secret.
    pub(crate) credential: Option<String>,
}

impl From<Verified> for Identity {
    fn from(token: Verified) -> Self {
        Self {
            method: "jwt",
            issuer: Some(token.issuer),
            subject: token.subject,
            scopes: token.scopes,
            expires: Some(token.expires),
            credential: None,
        }
    }
}

impl Identity {
    /// The request may go on, and the upstream and the next sidecar are told who sends it. Headers that carried a
    /// credential of ours do not travel on.
    pub(crate) fn allowed(&self, policy: &PolicyId, remove: Vec<String>) -> Decision {
        let mut record = Record::new(KEY, policy).text("method", self.method).text("sub", &self.subject);
        record = record.texts("scopes", self.scopes.split(' ').filter(|scope| !scope.is_empty()));
        let mut headers = vec![
            ("x-gatehouse-method", self.method.into()),
            ("x-gatehouse-subject", header_value(&self.subject)),
            ("x-gatehouse-scopes", header_value(&self.scopes)),
        ];
        if let Some(issuer) = &self.issuer {
            record = record.text("iss", issuer);
            headers.push(("x-gatehouse-issuer", header_value(issuer)));
        }
        if let Some(expires) = self.expires {
            record = record.number("exp", expires);
        }
        if let Some(credential) = &self.credential {
            record = record.text("cred_id", credential);
            headers.push(("x-gatehouse-credential", header_value(credential)));
        }
        Decision::Allow { record, headers, remove }
    }
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
    }
}
