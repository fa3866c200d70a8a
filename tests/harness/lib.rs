//! What tests are made of: a [`Lab`] that runs the whole edge as real processes on free ports in a folder of its
//! own, and builders for what they ask of it. Waits for conditions, never for time.

mod client;
mod lab;
mod service;

pub use client::{Answer, Token};
pub use lab::{Lab, eventually};
pub use service::Service;
