//! The authorization engine. Pure: facts in, decision out; the same code checks a policy when it is applied, explains
//! it offline, and decides each request.
//!
//! Default deny. What it cannot read, it denies.

pub mod cedar;
mod engine;
mod explain;
mod guardrails;
mod keys;
mod matcher;
mod overlap;
mod request;
mod rules;
mod trie;

pub use engine::Engine;
pub use explain::{Explained, Field, Outcome, Unmet};
pub use guardrails::{Guarded, Guardrails};
pub use matcher::{Found, Matcher};
pub use overlap::{Covered, covered};
pub use request::{Identity, Request};
pub use rules::{Decided, Rules};

#[cfg(any(test, feature = "testing"))]
pub mod testing;
