//! Where names resolve to. In development a zone file says so.

use std::{
    fmt, fs, io,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use model::{Host, InstanceId};

/// Names that could not be published; the step is tried again.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct DnsError {
    /// What was tried.
    pub operation: &'static str,
    /// Why not.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The capability.
#[async_trait]
pub trait Dns: fmt::Debug + Send + Sync {
    /// Makes the names of an instance exactly these.
    async fn set(&self, id: &InstanceId, hosts: &[Host]) -> Result<(), DnsError>;
}

/// A zone file (RFC 1035 section 5) that any DNS server can load. Each record's comment says whose it is.
#[derive(Debug)]
pub struct LocalZone {
    path: PathBuf,
    edge: IpAddr,
    /// One writer; the file is read, changed and replaced.
    writing: Mutex<()>,
}

/// Seconds. A development machine's names change often.
const TTL_SECS: u32 = 60;

impl LocalZone {
    /// Names point to `edge`.
    pub fn new(path: &Path, edge: IpAddr) -> Self {
        Self { path: path.to_owned(), edge, writing: Mutex::new(()) }
    }

    fn rewrite(&self, id: &InstanceId, hosts: &[Host]) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let comment = format!("; {id}");
        let mut lines: Vec<_> =
            before.lines().filter(|line| !line.ends_with(&comment)).map(str::to_owned).collect();
        let kind = if self.edge.is_ipv4() { "A" } else { "AAAA" };
        lines
            .extend(hosts.iter().map(|host| format!("{host}. {TTL_SECS} IN {kind} {} {comment}", self.edge)));
        lines.sort();
        let unfinished = self.path.with_extension("new");
        let mut file = fs::File::create(&unfinished)?;
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.sync_all()?;
        fs::rename(unfinished, &self.path)
    }
}

#[async_trait]
impl Dns for LocalZone {
    async fn set(&self, id: &InstanceId, hosts: &[Host]) -> Result<(), DnsError> {
        self.rewrite(id, hosts)
            .map_err(|error| DnsError { operation: "writing the local zone", source: error.into() })
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
        zone.set(&a, &hosts(&["one.test", "two.test"])).await.unwrap();
        zone.set(&b, &hosts(&["three.test"])).await.unwrap();
        zone.set(&a, &hosts(&["two.test"])).await.unwrap();
        let expected = "three.test. 60 IN A 127.0.0.1 ; b\ntwo.test. 60 IN A 127.0.0.1 ; a\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        zone.set(&a, &[]).await.unwrap();
        zone.set(&b, &[]).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
