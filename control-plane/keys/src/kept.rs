//! Last good sets on disk, with the time of their last success: a control plane that starts while an issuer is away has
//! its keys all the same, for as long as they may be used.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::files;
use serde::{Deserialize, Serialize};

use crate::{moment::Moment, set::Set};

/// A folder that only its owner can read or write: whoever writes here says who may sign in.
#[derive(Debug)]
pub(crate) struct Kept(PathBuf);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    name: String,
    /// Where it came from, and what was asked for there: a set of another place is not the one that operators mean now.
    origin: String,
    jwks: String,
    uri: Option<String>,
    /// Seconds since the epoch.
    succeeded: u64,
}

/// Clocks of the machines that may have written it differ by less.
const SKEW: Duration = Duration::from_secs(300);

impl Kept {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        files::private_folder(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// The set, and how old it is. `None` where there is none, or where it is not whole, of another place, or of a time
    /// that is yet to come: then nobody knows how old it is.
    pub(crate) fn load(&self, name: &str, origin: &str, now: Moment) -> Option<(Set, Duration)> {
        let body = files::read_checked(&self.path(name)).ok()??;
        let page: Page = serde_json::from_slice(&body).ok()?;
        if page.name != name || page.origin != origin {
            return None;
        }
        let succeeded = Duration::from_secs(page.succeeded);
        if succeeded > now.wall.saturating_add(SKEW) {
            tracing::error!(
                issuer = name,
                "kept keys are from a time that is yet to come; they are left aside"
            );
            return None;
        }
        let set = Set::read(name, &page.jwks, page.uri.as_deref()).ok()?;
        Some((set, now.wall.saturating_sub(succeeded)))
    }

    /// Whole, or as it was.
    pub(crate) fn keep(&self, name: &str, origin: &str, set: &Set, now: Moment) -> io::Result<()> {
        let page = Page {
            name: name.to_owned(),
            origin: origin.to_owned(),
            jwks: set.jwks.clone(),
            uri: set.uri.clone(),
            succeeded: now.wall.as_secs(),
        };
        files::replace_checked(&self.path(name), &serde_json::to_vec(&page)?)
    }

    /// Names can hold anything, so files are called after their hash.
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{}.json", blake3::hash(name.as_bytes()).to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const NAME: &str = "https://id.example.test/";
    const PLACE: &str = "url https://id.example.test/jwks.json";
    const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis","y":"y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE"}]}"#;

    fn at(secs: u64) -> Moment {
        Moment { wall: Duration::from_secs(secs), running: Duration::ZERO }
    }

    fn kept() -> (tempfile::TempDir, Kept, Set) {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::open(&folder.path().join("keys")).unwrap();
        let set = Set::read(NAME, JWKS, Some("https://id.example.test/jwks.json")).unwrap();
        kept.keep(NAME, PLACE, &set, at(10_000)).unwrap();
        (folder, kept, set)
    }

    #[test]
    fn what_was_kept_comes_back_with_its_age() {
        let (_folder, kept, set) = kept();
        let (found, age) = kept.load(NAME, PLACE, at(10_060)).unwrap();
        assert_eq!((found, age), (set, Duration::from_secs(60)));
        assert!(kept.load("https://other.example.test/", PLACE, at(10_060)).is_none());
        assert!(kept.load(NAME, "url https://elsewhere.example.test/", at(10_060)).is_none());
        let mode = fs::metadata(kept.path(NAME)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn a_file_that_is_damaged_or_from_tomorrow_is_left_aside() {
        let (_folder, kept, _) = kept();
        assert!(kept.load(NAME, PLACE, at(9_800)).is_some(), "clocks differ a little");
        assert!(kept.load(NAME, PLACE, at(9_000)).is_none());
        let mut bytes = fs::read(kept.path(NAME)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(kept.path(NAME), &bytes).unwrap();
        assert!(kept.load(NAME, PLACE, at(10_060)).is_none());
        fs::write(kept.path(NAME), b"short").unwrap();
        assert!(kept.load(NAME, PLACE, at(10_060)).is_none());
    }
}
