//! The keys of what the store keeps secret: where they are, and how everything comes under a new one.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use runtime::files;
use store::{Keys, Put, Store, Write};

/// Reads the keys; a file that is not there is made, with a first key.
pub(crate) fn read(path: &Path) -> anyhow::Result<Keys> {
    if !path.exists() {
        let line = Keys::generate("1").context("making the first key")?;
        let text = format!("# The first key seals, all open. Then: gatehouse-control-plane reseal\n{line}\n");
        files::replace(path, &[text.as_bytes()]).with_context(|| format!("writing {}", path.display()))?;
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Keys::parse(&text).with_context(|| path.display().to_string())
}

/// Writes every instance again, so that all secrets are sealed with the first key. How many there are.
pub(crate) async fn reseal(store: &dyn Store) -> anyhow::Result<usize> {
    let (instances, _) = store.changed_since(0).await?;
    let count = instances.len();
    for mut instance in instances {
        let id = instance.id.clone();
        // A worker may write in between, and seals with the keys that it has: so the last write must be ours.
        while store.put(Write::of(&instance)).await? == Put::Conflict {
            let found = store.get(&id).await?;
            ensure!(found.is_some(), "the instance {id} is gone from the store");
            instance = found.unwrap_or(instance);
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use model::{
        Host,
        instance::{Certificate, Instance, Request},
    };
    use store::SqliteStore;
    use time::OffsetDateTime;

    use super::*;

    #[tokio::test]
    async fn after_a_reseal_the_old_key_is_needed_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = (folder.path().join("store.keys"), folder.path().join("gatehouse.db"));
        let store = SqliteStore::open(&path, read(&file).unwrap()).unwrap();
        let mut made =
            Instance::provision("i-1".parse().unwrap(), Request::offline(serde_json::json!({})), "op".into());
        made.certificate = Some(Certificate {
            hosts: vec![Host::try_from("a.example.test".to_owned()).unwrap()],
            chain: "chain".into(),
            key: "-----BEGIN PRIVATE KEY-----".into(),
            not_after: OffsetDateTime::UNIX_EPOCH,
            name: None,
        });
        store.put(Write::of(&made)).await.unwrap();
        let new = Keys::generate("2").unwrap();
        let both = format!("{new}\n{}", fs::read_to_string(&file).unwrap());
        let rotating = SqliteStore::open(&path, Keys::parse(&both).unwrap()).unwrap();
        assert_eq!(reseal(&rotating).await.unwrap(), 1);
        let after = SqliteStore::open(&path, Keys::parse(&new).unwrap()).unwrap();
        let read = after.get(&made.id).await.unwrap().unwrap();
        assert_eq!(read.certificate, made.certificate);
        assert!(store.get(&made.id).await.is_err(), "the first key alone opens it no more");
        for file in fs::read_dir(folder.path()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(11).any(|part| part == b"PRIVATE KEY"), "a key lies open");
        }
    }
}
