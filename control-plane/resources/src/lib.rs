//! Turns rendered documents into a typed `Snapshot`. No IO; never half a snapshot.
//!
//! Text ends here: past [`decode`] a resource is a checked message with a content hash.

mod decode;

mod resource;
mod snapshot;
mod table;

mod compose;

mod hash;

pub use compose::compose;
pub use decode::{InvalidDocument, decode};
pub use resource::{Key, Resource, Shared};
pub use snapshot::{Bundle, DuplicateName, Snapshot};
pub use table::{Edit, Table, response_of, version_of};
