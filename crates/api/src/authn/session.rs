//! A JWT in a cookie.

use super::Jwt;
use crate::{Invalid, pb};

/// Where the token is, and what it must say.
#[derive(Debug, Clone)]
pub struct Session {
    /// The cookie's name.
    pub cookie: String,
    /// What the token must say.
    pub jwt: Jwt,
}

impl TryFrom<pb::authn::Session> for Session {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Session) -> Result<Self, Invalid> {
        // RFC 6265 section 4.1.1, without what other readers might not keep.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if wire.cookie.is_empty() || wire.cookie.len() > 64 || !wire.cookie.bytes().all(plain) {
            return Err(Invalid::new("cookie", wire.cookie, "1 to 64 letters, digits and -_."));
        }
        let jwt = wire.jwt.ok_or_else(|| Invalid::missing("jwt", "what the token must say"))?;
        Ok(Self { cookie: wire.cookie, jwt: jwt.try_into().map_err(|why: Invalid| why.within("jwt"))? })
    }
}
