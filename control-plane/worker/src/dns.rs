//! Names in a zone file: in development, or for a DNS server of one's own.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use model::{Host, InstanceId};
use runtime::files;
use tokio::sync::oneshot;

use crate::provider::{Dns, Owned, ProviderError, Target};

/// A zone file (RFC 1035 section 5) that any DNS server can load. Each record's comment says whose it is.
#[derive(Debug)]
pub struct LocalZone {
    zone: Arc<Zone>,
    /// What is to be written: jobs that come together share a write.
    waiting: Mutex<Vec<Change>>,
    /// One writer in this process; a lock on a file beside it keeps the others out.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Zone {
    path: PathBuf,
    edge: IpAddr,
}

#[derive(Debug)]
struct Change {
    id: InstanceId,
    hosts: Vec<Host>,
    done: oneshot::Sender<Result<(), ProviderError>>,
}

/// Seconds. A development machine's names change often.
const TTL_SECS: u32 = 60;

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProviderError {
    ProviderError::passing("writing the local zone", source)
}

impl LocalZone {
    /// Names point to `edge`.
    pub fn new(path: &Path, edge: IpAddr) -> Self {
        let zone = Arc::new(Zone { path: path.to_owned(), edge });
        Self { zone, waiting: Mutex::default(), writing: tokio::sync::Mutex::default() }
    }

    /// Writes what waits, all at once.
    async fn write(&self) {
        let _one_at_a_time = self.writing.lock().await;
        let changes = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if changes.is_empty() {
            return;
        }
        let zone = Arc::clone(&self.zone);
        let write = move || {
            let written = zone.rewrite(&changes).map_err(|error| (error.kind(), error.to_string()));
            for change in changes {
                let result = written.clone().map_err(|(kind, text)| failed(io::Error::new(kind, text)));
                // Whoever asked may be gone.
                let _gone = change.done.send(result);
            }
        };
        // Those who wait are told by the end of their channels.
        let _panicked = tokio::task::spawn_blocking(write).await;
    }
}

impl Zone {
    fn record(&self, host: &Host, id: &str) -> String {
        let kind = if self.edge.is_ipv4() { "A" } else { "AAAA" };
        format!("{host}. {TTL_SECS} IN {kind} {} ; {id}", self.edge)
    }

    fn read(&self) -> io::Result<String> {
        match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    fn rewrite(&self, changes: &[Change]) -> io::Result<()> {
        let lock = fs::File::create(self.path.with_extension("lock"))?;
        lock.lock()?;
        let before = self.read()?;
        // Of several changes of one instance, the last.
        let wanted: BTreeMap<_, _> =
            changes.iter().map(|change| (change.id.as_str(), &change.hosts)).collect();
        let is_anothers =
            |line: &&str| line.rsplit_once("; ").is_none_or(|(_, owner)| !wanted.contains_key(owner));
        let mut lines: Vec<_> = before.lines().filter(is_anothers).map(str::to_owned).collect();
        for (id, hosts) in &wanted {
            lines.extend(hosts.iter().map(|host| self.record(host, id)));
        }
        lines.sort();
        lines.push(String::new());
        files::replace(&self.path, &[lines.join("\n").as_bytes()])
    }
}

#[async_trait]
impl Dns for LocalZone {
    /// All lead to the one edge that there is. What is said of the others stands in the file.
    async fn set(
        &self,
        id: &InstanceId,
        hosts: &[Host],
        _to: &Target,
        _no_more: &[Host],
    ) -> Result<(), ProviderError> {
        let (done, told) = oneshot::channel();
        let change = Change { id: id.clone(), hosts: hosts.to_vec(), done };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        self.write().await;
        told.await.map_err(failed)?
    }

    async fn look(&self, id: &InstanceId, hosts: &[Host], _: &Target) -> Result<Vec<String>, ProviderError> {
        let text = self.zone.read().map_err(failed)?;
        let has = |line: &str| text.lines().any(|one| one == line);
        let missing = hosts.iter().filter(|host| !has(&self.zone.record(host, id.as_str())));
        Ok(missing.map(|host| format!("{host} does not lead to the edge")).collect())
    }

    async fn owned(&self) -> Result<Vec<Owned>, ProviderError> {
        let text = self.zone.read().map_err(failed)?;
        let owned = text.lines().filter_map(|line| {
            let (record, id) = line.rsplit_once("; ")?;
            Some((id.parse().ok()?, record.split_once(". ")?.0.to_owned()))
        });
        Ok(owned.collect())
    }

    /// The zone is ours as a whole.
    async fn adopt(&self, _: &InstanceId, _: &Host) -> Result<(), ProviderError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<Host> {
        names.iter().map(|name| Host::try_from((*name).to_owned()).unwrap()).collect()
    }

    #[tokio::test]
    async fn each_instance_has_exactly_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zone");
        let zone = LocalZone::new(&path, [127, 0, 0, 1].into());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        zone.set(&a, &hosts(&["one.test", "two.test"]), &Target::Edge, &[]).await.unwrap();
        zone.set(&b, &hosts(&["three.test"]), &Target::Edge, &[]).await.unwrap();
        zone.set(&a, &hosts(&["two.test"]), &Target::Edge, &[]).await.unwrap();
        let expected = "three.test. 60 IN A 127.0.0.1 ; b\ntwo.test. 60 IN A 127.0.0.1 ; a\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        zone.set(&a, &[], &Target::Edge, &[]).await.unwrap();
        zone.set(&b, &[], &Target::Edge, &[]).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }

    #[tokio::test]
    async fn changes_that_come_together_lose_nothing_and_a_failure_is_told_to_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zones/zone");
        // Two workers on one machine.
        let zones = [(); 2].map(|()| Arc::new(LocalZone::new(&path, [127, 0, 0, 1].into())));
        let set_all = async || {
            let mut all = tokio::task::JoinSet::new();
            for at in 0..200 {
                let zone = Arc::clone(&zones[at % 2]);
                all.spawn(async move {
                    let id = format!("i-{at}").parse().unwrap();
                    zone.set(&id, &hosts(&[&format!("h{at}.test")]), &Target::Edge, &[]).await.is_ok()
                });
            }
            all.join_all().await.into_iter().filter(|good| *good).count()
        };
        assert_eq!(set_all().await, 0, "there is no folder");
        fs::create_dir(folder.path().join("zones")).unwrap();
        assert_eq!(set_all().await, 200);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 200);
    }
}
