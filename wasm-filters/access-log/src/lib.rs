//! The pure part of the access log: facts to record to bytes. No host calls, no clock, no IO.
//!
//! The filter beside it reads [`Facts`] from Envoy; [`Record`] decides what of them may be seen; [`Batch`]
//! holds the lines until somebody has taken them. Nothing here panics on what a client or a tenant wrote.

mod configuration;
mod wire;

mod known_settings;
mod settings;

mod facts;
mod flags;
mod sampling;

mod json;
mod record;
mod redaction;
mod timestamp;

mod batch;

pub use batch::{Batch, Counters, Delivery, Outcome, Receipt};
pub use configuration::{Configuration, InvalidConfiguration};
pub use facts::{Authn, Authz, Facts, Lookup, RateLimit};
pub use flags::Flags;
pub use known_settings::KnownSettings;
pub use record::{MAX_LINE_BYTES, Record};
pub use settings::{InvalidSettings, Settings};
pub use wire::{Map, integer, text};
