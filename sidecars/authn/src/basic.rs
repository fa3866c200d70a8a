//! Names and passwords in `Authorization: Basic` (RFC 7617). A check is slow on purpose, so it waits in a short queue of
//! its own, and what was good is remembered.

use api::authn::{self, Basic, BasicUser};
use argon2::PasswordHash;
use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    identity::{Identity, Kind, Texts},
    method::{Credential, Method, Outcome, Place, Proven, Stop},
    state::Snapshot,
    work::{Password, Work},
};

/// A password is hashed as a whole.
const MAX_CREDENTIAL_BYTES: usize = 1_024;

impl Method for Basic {
    fn place(&self) -> Place<'_> {
        Place::Authorization("basic")
    }

    fn verify(&self, credential: &Credential<'_>, _: &Snapshot, _: f64) -> Outcome {
        let Some((name, password)) = read(credential.text) else {
            return Outcome::Bad(Stop::Invalid("the credentials are malformed"));
        };
        let known = self.users.get(&name);
        // Who is nobody waits as long as who has a wrong password.
        let Some(BasicUser { hash, scopes }) = known.or_else(|| self.users.values().next()) else {
            return Outcome::Bad(Stop::Invalid(WRONG));
        };
        let texts = Texts { subject: &name, scopes: &scopes.join(" "), ..Texts::default() };
        let proven = known.map(|_| Proven::lasting(Identity::new(Kind::Basic, texts)));
        Outcome::Wait(Work::Password(Box::new(Password { given: password, hash: hash.clone(), proven })))
    }

    fn ages(&self) -> bool {
        false
    }

    fn challenge(&self, _: Option<&str>) -> String {
        "Basic realm=\"gatehouse\", charset=\"UTF-8\"".to_owned()
    }
}

/// Whether the library can read the hashes of a method; the rest was checked.
pub(crate) fn check(method: &authn::Method) -> Result<(), String> {
    let authn::Method::Basic(Basic { users }) = method else { return Ok(()) };
    let unreadable = users.values().any(|user| PasswordHash::new(&user.hash).is_err());
    if unreadable { Err("basic.users: a hash that cannot be read".to_owned()) } else { Ok(()) }
}

/// Never which of the two.
pub(crate) const WRONG: &str = "the name or the password is wrong";

/// Name and password. Only the form that encodes them has: another reader must not see another name.
fn read(text: &str) -> Option<(String, Vec<u8>)> {
    if text.len() > MAX_CREDENTIAL_BYTES {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()?;
    let (name, password) = pair.split_once(':')?;
    let is_plain = !name.is_empty() && !pair.chars().any(char::is_control);
    is_plain.then(|| (name.to_owned(), password.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_way_to_write_a_name_and_a_password_is_read() {
        let encoded = |pair: &str| BASE64_STANDARD.encode(pair);
        assert_eq!(read(&encoded("alice:a:b")), Some(("alice".into(), b"a:b".to_vec())));
        for text in [
            String::new(),
            encoded("alice"),
            encoded(":secret"),
            encoded("alice:se\ncret"),
            encoded("al\0ice:secret"),
            encoded("alice:secre").replace('=', ""),
            format!("{}=", encoded("alice:secret")),
            format!(" {}", encoded("alice:secret")),
            encoded(&format!("alice:{}", "x".repeat(2_000))),
        ] {
            assert_eq!(read(&text), None, "{text}");
        }
    }
}
