//! When the control plane was last heard of: what it withdraws does not reach a node that is cut off, so some of what
//! such a node knows counts for a while only. The time is kept on disk beside the resources.
//!
//! Two clocks are asked, and the one that says more counts. The wall clock goes on while nothing runs and can be set
//! back; the steady one cannot, and begins anew with each process, from the age that was written down.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use runtime::files;

/// The last contact of one process. Cheap to clone; all clones tell the same.
#[derive(Debug, Clone)]
pub struct Contact(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    heard: Mutex<Heard>,
}

/// A moment of two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// It can be set, forward and back.
    pub wall: SystemTime,
    /// It never goes back.
    pub steady: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    /// By the wall clock; at the epoch where it is not known.
    at: SystemTime,
    /// How old it was for sure, and when.
    least: (Duration, Instant),
    /// When it was written down, and what.
    written: Option<(Instant, SystemTime)>,
}

/// Between two writes: far less than any age that matters, and nothing to a disk.
const WRITE_EVERY: Duration = Duration::from_mins(1);
/// Seconds since the epoch, then seconds of age.
const BODY_BYTES: usize = 16;

impl Now {
    /// By the machine's clocks.
    pub fn read() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }
}

impl Contact {
    /// What the folder of [`super::disk::LastGood`] says. Where nothing is written, or nothing that checks out, the
    /// last contact was never.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = folder.join("contact");
        let body = match files::read_checked(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => other?,
        };
        let read = body.as_deref().and_then(read);
        if file.exists() && read.is_none() {
            tracing::warn!(path = %file.display(), "not a whole time of contact; it counts as never");
        }
        let (at, age) = read.unwrap_or((UNIX_EPOCH, Duration::ZERO));
        let heard = Mutex::new(Heard { at, least: (age, Instant::now()), written: None });
        Ok(Self(Arc::new(Inner { file, heard })))
    }

    /// Something was heard, or a stream that was heard on is still open.
    pub fn heard(&self, now: Now) {
        let mut heard = self.lock();
        heard.at = now.wall;
        heard.least = (Duration::ZERO, now.steady);
    }

    /// How long nothing was heard. A last contact in the future is as old as it is far away, so a clock that was set
    /// back makes nothing young for ever.
    pub fn age(&self, now: Now) -> Duration {
        self.lock().age(now)
    }

    /// Writes it down, if that was not done a moment ago. It is on disk when this returns.
    pub fn keep(&self, now: Now) -> io::Result<()> {
        let heard = *self.lock();
        // What is heard after a long silence is written at once: a restart in the next minute must know of it.
        let is_told = |(at, told): (Instant, SystemTime)| {
            let later = heard.at.duration_since(told).unwrap_or_default();
            now.steady.saturating_duration_since(at) < WRITE_EVERY && later < WRITE_EVERY
        };
        if heard.written.is_some_and(is_told) {
            return Ok(());
        }
        write(&self.0.file, heard.at, heard.age(now))?;
        self.lock().written = Some((now.steady, heard.at));
        Ok(())
    }

    /// Writes that the control plane was last heard of then: what operators do to a copy, and tests.
    pub fn backdate(folder: &Path, at: SystemTime) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        write(&folder.join("contact"), at, Duration::ZERO)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn age(&self, now: Now) -> Duration {
        let by_wall = now.wall.duration_since(self.at).unwrap_or_else(|future| future.duration());
        let (least, since) = self.least;
        by_wall.max(least.saturating_add(now.steady.saturating_duration_since(since)))
    }
}

fn write(file: &Path, at: SystemTime, age: Duration) -> io::Result<()> {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    files::replace_checked(file, &[at.to_le_bytes(), age.as_secs().to_le_bytes()].concat())
}

fn read(body: &[u8]) -> Option<(SystemTime, Duration)> {
    let body: [u8; BODY_BYTES] = body.try_into().ok()?;
    let (at, age) = body.split_at(8);
    let seconds = |bytes: &[u8]| Some(Duration::from_secs(u64::from_le_bytes(bytes.try_into().ok()?)));
    Some((UNIX_EPOCH.checked_add(seconds(at)?)?, seconds(age)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    /// Clocks that tests move, each for itself.
    fn clocks() -> impl Fn(i64, u64) -> Now {
        let begin = Instant::now();
        move |wall_hours, steady_hours| {
            let days = UNIX_EPOCH + HOUR * 24 * 10_000;
            let far = HOUR * u32::try_from(wall_hours.unsigned_abs()).unwrap();
            let wall = if wall_hours < 0 { days - far } else { days + far };
            Now { wall, steady: begin + HOUR * u32::try_from(steady_hours).unwrap() }
        }
    }

    #[test]
    fn what_was_never_heard_of_is_as_old_as_time() {
        let folder = tempfile::tempdir().unwrap();
        let (contact, at) = (Contact::open(folder.path()).unwrap(), clocks());
        assert_eq!(contact.age(at(0, 0)), HOUR * 24 * 10_000);
    }

    #[test]
    fn it_ages_by_either_clock_and_is_young_when_something_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (contact, at) = (Contact::open(folder.path()).unwrap(), clocks());
        contact.heard(at(0, 1));
        assert_eq!(contact.age(at(0, 1)), Duration::ZERO);
        assert_eq!(contact.age(at(72, 1)), HOUR * 72, "the wall clock was set forward");
        assert_eq!(contact.age(at(0, 73)), HOUR * 72, "it was set back");
        assert_eq!(contact.age(at(-5, 2)), HOUR * 5, "it was set back further than anything took");
        contact.heard(at(-5, 73));
        assert_eq!(contact.age(at(-5, 73)), Duration::ZERO);
    }

    #[test]
    fn a_restart_makes_nothing_young_whichever_way_the_clock_was_set() {
        let folder = tempfile::tempdir().unwrap();
        let (contact, at) = (Contact::open(folder.path()).unwrap(), clocks());
        contact.heard(at(0, 1));
        contact.keep(at(70, 71)).unwrap();
        let again = Contact::open(folder.path()).unwrap();
        let steady = again.lock().least.1;
        let now = |wall: i64, passed: u64| Now {
            wall: at(wall, 0).wall,
            steady: steady + HOUR * u32::try_from(passed).unwrap(),
        };
        assert_eq!(again.age(now(71, 0)), HOUR * 71);
        assert_eq!(again.age(now(0, 0)), HOUR * 70, "set back to when something was heard");
        assert_eq!(again.age(now(0, 3)), HOUR * 73);
    }

    #[test]
    fn it_is_written_once_a_minute_at_the_most() {
        let folder = tempfile::tempdir().unwrap();
        let (contact, at) = (Contact::open(folder.path()).unwrap(), clocks());
        let on_disk = || fs::read(folder.path().join("contact")).unwrap();
        contact.heard(at(0, 0));
        contact.keep(at(0, 0)).unwrap();
        let first = on_disk();
        let soon = |secs| Now {
            wall: at(0, 0).wall + Duration::from_secs(secs),
            steady: at(0, 0).steady + Duration::from_secs(secs),
        };
        contact.heard(soon(59));
        contact.keep(soon(59)).unwrap();
        assert_eq!(on_disk(), first);
        contact.keep(soon(60)).unwrap();
        assert_ne!(on_disk(), first);
    }

    #[test]
    fn what_is_heard_after_a_silence_is_known_after_a_restart_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (contact, at) = (Contact::open(folder.path()).unwrap(), clocks());
        contact.keep(at(0, 0)).unwrap();
        contact.heard(at(0, 0));
        contact.keep(at(0, 0)).unwrap();
        let again = Contact::open(folder.path()).unwrap();
        let steady = again.lock().least.1;
        assert_eq!(again.age(Now { wall: at(0, 0).wall, steady }), Duration::ZERO);
    }

    #[test]
    fn a_damaged_file_counts_as_never() {
        let folder = tempfile::tempdir().unwrap();
        let at = clocks();
        for damaged in [b"".as_slice(), b"x", &[0; 48]] {
            fs::write(folder.path().join("contact"), damaged).unwrap();
            let contact = Contact::open(folder.path()).unwrap();
            assert!(contact.age(at(0, 0)) > HOUR * 100_000);
        }
        files::replace_checked(&folder.path().join("contact"), &[255; 16]).unwrap();
        let contact = Contact::open(folder.path()).unwrap();
        assert!(contact.age(at(0, 0)) > HOUR * 100_000, "no time that a clock could tell");
    }
}
