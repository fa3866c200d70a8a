//! Follows the public keys of issuers, wherever they are: a file, a URL, what OpenID Connect discovery says, or a key
//! server. An answer that is no good never takes the place of a good one, and a good one does not outlive its hard age.
//!
//! When to ask and what is in force is decided by [`record`], which is pure; how to ask is in [`look`].

pub mod settings;

mod bucket;
mod identity;
mod kept;
mod look;
mod metrics;
mod moment;
mod record;
mod set;

mod follow;
mod sets;

pub use follow::{Keys, Refused, StartError};
pub use identity::IdentitySecret;
pub use sets::{IssuerState, KeySets, State};
pub use settings::{InvalidSettings, Settings, Source};

#[cfg(test)]
mod tests;
