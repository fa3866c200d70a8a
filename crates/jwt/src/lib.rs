//! JWT access tokens, read more strictly than libraries do: by the authentication sidecar, and by the broker for platforms
//! that sign in with them. Pure: a token, an issuer's keys, and the time.

mod keys;
pub mod pem;
mod token;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use keys::Keys;
pub use token::{InvalidToken, LEEWAY_SECS, Refusal, Verified, claims_of, verify};
