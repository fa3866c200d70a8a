//! Turns rendered documents into a typed `Snapshot`. No IO; never half a snapshot.
//!
//! Text ends here: past [`decode`] a resource is a checked message with a content hash.

mod decode;
mod references;
mod rules;
mod seek;
mod walk;

mod resource;
mod snapshot;
mod table;

mod guard;

mod history;
mod shown;

mod compose;

mod hash;

pub use compose::compose;
pub use decode::{InvalidDocument, Mistake, Place, decode};
pub use guard::{Guard, Loss, Sizes, id_of_losses};
pub use history::{History, Past};
pub use references::{Bootstrap, Reference};
pub use resource::{Key, Resource, Shared};
pub use snapshot::{Bundle, Conflict, Next, Snapshot};
pub use table::{Edit, Table, response_of, version_of};
