//! The last good resources of a sidecar, one file each, so that it can start with the control plane down.
//!
//! A file holds a BLAKE3 checksum and the resource. It is written beside its place, synced, and renamed:
//! after a crash there is the old one or the new one. A file that does not check out is left aside and
//! fetched anew.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::ResourceType;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use prost::Message as _;
use runtime::files;

use crate::contact::Contact;

/// A folder that belongs to one sidecar.
#[derive(Debug, Clone)]
pub struct LastGood {
    folder: PathBuf,
}

impl LastGood {
    /// Makes the folder, readable by its owner only, where it is not there yet.
    pub fn open(folder: &Path) -> io::Result<Self> {
        files::private_folder(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// When the control plane was last heard of.
    pub fn contact(&self) -> io::Result<Contact> {
        Contact::open(&self.folder)
    }

    /// Everything of one type that checks out.
    pub fn load(&self, kind: ResourceType) -> io::Result<Vec<Resource>> {
        let folder = self.folder.join(kind.label());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut resources = Vec::new();
        for entry in entries {
            let path = entry?.path();
            match read(&path)? {
                Some(resource) => resources.push(resource),
                None => {
                    tracing::warn!(path = %path.display(), "not a whole resource; it will be fetched anew");
                }
            }
        }
        Ok(resources)
    }

    /// Remembers that this type was answered, also with nothing.
    pub fn note_answered(&self, kind: ResourceType) -> io::Result<()> {
        files::private_folder(&self.folder.join(kind.label()))
    }

    /// Whether this type was ever answered, and nothing of it was lost since.
    pub fn is_whole(&self, kind: ResourceType) -> io::Result<bool> {
        let entries = match fs::read_dir(self.folder.join(kind.label())) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            // What a crash left half written was never acknowledged.
            if is_resource(&path) && read(&path)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps a resource. It is on disk when this returns.
    pub fn keep(&self, kind: ResourceType, resource: &Resource) -> io::Result<()> {
        let path = self.path(kind, &resource.name);
        let folder = self.folder.join(kind.label());
        files::private_folder(&folder)?;
        files::replace_checked(&path, &resource.encode_to_vec())
    }

    /// Forgets a resource, if it was there.
    pub fn forget(&self, kind: ResourceType, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(kind, name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Names can hold anything, so files are called after their hash.
    fn path(&self, kind: ResourceType, name: &str) -> PathBuf {
        self.folder.join(kind.label()).join(format!("{}.pb", blake3::hash(name.as_bytes()).to_hex()))
    }
}

fn is_resource(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pb")
}

/// `None` when the file is cut short, changed, or the unfinished one of a crash.
fn read(path: &Path) -> io::Result<Option<Resource>> {
    if !is_resource(path) {
        return Ok(None);
    }
    Ok(files::read_checked(path)?.and_then(|body| Resource::decode(body.as_slice()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ResourceType = ResourceType::AuthnPolicy;

    fn resource(name: &str) -> Resource {
        Resource { name: name.into(), version: "1".into(), ..Default::default() }
    }

    #[test]
    fn what_was_kept_is_loaded_and_what_was_forgotten_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LastGood::open(folder.path()).unwrap();
        disk.keep(KIND, &resource("a/../b")).unwrap();
        disk.keep(KIND, &resource("c")).unwrap();
        disk.forget(KIND, "c").unwrap();
        disk.forget(KIND, "never").unwrap();
        let names: Vec<_> = disk.load(KIND).unwrap().into_iter().map(|kept| kept.name).collect();
        assert_eq!(names, ["a/../b"]);
        assert!(disk.load(ResourceType::AuthzPolicy).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_or_unfinished_file_is_left_aside() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LastGood::open(folder.path()).unwrap();
        for name in ["good", "changed", "short"] {
            disk.keep(KIND, &resource(name)).unwrap();
        }
        let mut bytes = fs::read(disk.path(KIND, "changed")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(disk.path(KIND, "changed"), bytes).unwrap();
        fs::write(disk.path(KIND, "short"), b"x").unwrap();
        fs::write(disk.path(KIND, "good").with_extension("new"), b"half").unwrap();
        let names: Vec<_> = disk.load(KIND).unwrap().into_iter().map(|kept| kept.name).collect();
        assert_eq!(names, ["good"]);
    }

    #[test]
    fn a_type_is_whole_once_it_was_answered_until_something_of_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LastGood::open(folder.path()).unwrap();
        assert!(!disk.is_whole(KIND).unwrap(), "nobody has ever said that there is nothing");
        disk.note_answered(KIND).unwrap();
        assert!(disk.is_whole(KIND).unwrap());
        disk.keep(KIND, &resource("a")).unwrap();
        fs::write(disk.path(KIND, "b").with_extension("new"), b"half").unwrap();
        assert!(disk.is_whole(KIND).unwrap());
        fs::write(disk.path(KIND, "a"), b"x").unwrap();
        assert!(!disk.is_whole(KIND).unwrap());
    }

    #[test]
    fn only_the_owner_reads_what_is_kept() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let disk = LastGood::open(&folder.path().join("authn")).unwrap();
        disk.keep(KIND, &resource("a")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&disk.path(KIND, "a")), 0o600);
        assert_eq!(mode(&folder.path().join("authn")), 0o700);
    }
}
