//! Tokens, read more strictly than libraries do: by the authentication sidecar, and by the broker for platforms that sign
//! in with them. Pure: a token, an issuer's keys, and the time.

mod keys;
pub mod pem;
mod token;

mod asap;
mod proof;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use keys::Keys;
pub use proof::{InvalidProof, PROOF_WINDOW_SECS, Proof, Proven, prove};
pub use token::{
    Carried, Confirmation, InvalidToken, LEEWAY_SECS, Refusal, Thumbprint, Token, Verified, carried,
    claims_of, thumbprint, verify,
};
