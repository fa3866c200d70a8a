//! Names and passwords (RFC 7617), each password known by a slow hash only.

use std::collections::HashMap;

use crate::{Invalid, pb};

/// Who may sign in.
#[derive(Debug, Clone)]
pub struct Basic {
    /// By their names. Never empty.
    pub users: HashMap<String, BasicUser>,
}

/// Somebody with a password.
#[derive(Clone)]
pub struct BasicUser {
    /// Argon2id, in the PHC string format.
    pub hash: String,
    /// What the user may do.
    pub scopes: Vec<String>,
}

impl std::fmt::Debug for BasicUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicUser").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

/// People have other ways in; this is for old clients.
const MAX_USERS: usize = 100;
/// A check takes so much memory at once, and about 100 ms of a core at the most.
const KIB: std::ops::RangeInclusive<u32> = 8 * 1024..=64 * 1024;
const MAX_PASSES: u32 = 4;
const MAX_LANES: u32 = 4;

impl TryFrom<pb::authn::Basic> for Basic {
    type Error = Invalid;

    fn try_from(wire: pb::authn::Basic) -> Result<Self, Invalid> {
        if wire.users.is_empty() || wire.users.len() > MAX_USERS {
            return Err(Invalid::new("users", wire.users.len(), "1 to 100 users"));
        }
        let mut users = HashMap::with_capacity(wire.users.len());
        for (at, user) in wire.users.into_iter().enumerate() {
            let is_name = !user.name.is_empty()
                && user.name.len() <= 256
                && !user.name.contains(|char: char| char == ':' || char.is_control());
            if !is_name || users.contains_key(&user.name) {
                let rule = "1 to 256 bytes without a colon, and no other user's";
                return Err(Invalid::new(format!("users[{at}].name"), user.name, rule));
            }
            // The hash itself is never told: somebody could guess passwords with it.
            check_hash(&user.hash)
                .map_err(|(got, rule)| Invalid::new(format!("users[{at}].hash"), got, rule))?;
            // A name that nobody has is tried with somebody's: how long that takes must not tell.
            let parameters = |hash: &str| hash.split('$').nth(3).map(str::to_owned);
            if users.values().any(|other: &BasicUser| parameters(&other.hash) != parameters(&user.hash)) {
                let got = parameters(&user.hash).unwrap_or_default();
                let rule = "the same m, t and p as the others";
                return Err(Invalid::new(format!("users[{at}].hash"), got, rule));
            }
            users.insert(user.name, BasicUser { hash: user.hash, scopes: user.scopes });
        }
        Ok(Self { users })
    }
}

/// Only Argon2id, and nothing that could take a node's memory or time. The other half is the library's own reading.
fn check_hash(hash: &str) -> Result<(), (String, &'static str)> {
    let mut parts = hash.split('$');
    let form = "$argon2id$v=19$m=…,t=…,p=…$salt$hash";
    let (Some(""), Some("argon2id"), Some("v=19"), Some(parameters), Some(salt), Some(digest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(("another text".into(), form));
    };
    let value = |name: &str| {
        let mut found = parameters.split(',').filter_map(|part| part.strip_prefix(name));
        found.next().and_then(|value| value.parse::<u32>().ok())
    };
    let (Some(kib), Some(passes), Some(lanes)) = (value("m="), value("t="), value("p=")) else {
        return Err((parameters.into(), form));
    };
    if !KIB.contains(&kib) || !(1..=MAX_PASSES).contains(&passes) || !(1..=MAX_LANES).contains(&lanes) {
        return Err((parameters.into(), "m of 8192 to 65536, t of 1 to 4, p of 1 to 4"));
    }
    if salt.len() < 22 || digest.len() < 43 {
        return Err((salt.len().to_string(), "a salt of 16 bytes and a hash of 32 bytes at least"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: &str = "c29tZXNhbHRzb21lc2FsdA";
    const HASH: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[track_caller]
    fn check(hash: &str, expected: &str) {
        let user = pb::authn::basic::User { name: "alice".into(), hash: hash.into(), scopes: Vec::new() };
        let told = match Basic::try_from(pb::authn::Basic { users: vec![user] }) {
            Ok(basic) => format!("{} user", basic.users.len()),
            Err(why) => why.to_string(),
        };
        assert_eq!(told, expected);
    }

    #[test]
    fn only_hashes_that_are_slow_and_not_too_slow_are_taken() {
        let good = format!("$argon2id$v=19$m=19456,t=2,p=1${SALT}${HASH}");
        check(&good, "1 user");
        let bounds = "users[0].hash: m of 8192 to 65536, t of 1 to 4, p of 1 to 4, got";
        check(&good.replace("m=19456", "m=4194304"), &format!("{bounds} \"m=4194304,t=2,p=1\""));
        check(&good.replace("t=2", "t=1000"), &format!("{bounds} \"m=19456,t=1000,p=1\""));
        check(&good.replace("m=19456", "m=8"), &format!("{bounds} \"m=8,t=2,p=1\""));
        let form = "users[0].hash: $argon2id$v=19$m=…,t=…,p=…$salt$hash, got \"another text\"";
        for other in
            ["", "secret", "{SHA}x", "$2b$12$x", &good.replace("argon2id", "argon2i"), &format!("{good}$x")]
        {
            check(other, form);
        }
    }

    #[test]
    fn names_that_could_be_two_things_are_refused() {
        let hash = format!("$argon2id$v=19$m=19456,t=2,p=1${SALT}${HASH}");
        let read = |names: &[&str]| {
            let user = |name: &&str| pb::authn::basic::User {
                name: (*name).into(),
                hash: hash.clone(),
                scopes: vec![],
            };
            Basic::try_from(pb::authn::Basic { users: names.iter().map(user).collect() })
        };
        for names in [vec![], vec![""], vec!["a:b"], vec!["a\n"], vec!["a", "a"]] {
            assert!(read(&names).is_err(), "{names:?}");
        }
        assert!(!format!("{:?}", read(&["a"]).unwrap()).contains("argon2id"), "hashes are not shown");
    }
}
