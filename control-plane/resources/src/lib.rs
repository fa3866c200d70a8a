//! Turns rendered documents into a typed `Snapshot`. No IO; never half a snapshot.
//!
//! Text ends here: past [`decode`] a resource is a checked message with a content hash.

mod decode;

mod resource;
mod snapshot;

mod hash;

pub use decode::{InvalidDocument, decode};
pub use resource::{Key, Resource};
pub use snapshot::{Bundle, DuplicateName, Snapshot};
