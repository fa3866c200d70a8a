//! The authorization engine. Pure: facts in, decision out; the same code checks a policy when it is applied
//! and decides each request.
//!
//! Default deny. What it cannot read, it denies.

mod rules;

pub mod cedar;

pub use rules::{Decided, Request, Rules};
