//! What is known of each key. Bounded: a flood of keys fills its domain's part and no more, and the whole has a bound too.
//! A key is forgotten only when it is as good as new; never is one thrown out to make room for another.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use hashbrown::HashTable;

/// Distinguishes counters: a hash of domain, entries and window length.
pub(crate) type Key = u128;

/// What is kept of a key.
pub(crate) trait Kept: Copy {
    /// Nothing has been counted yet.
    const NEW: Self;

    /// Nanoseconds since the epoch from which it is as good as new.
    fn new_again_at(&self) -> u64;
}

/// A table of keys, in parts that are locked one by one.
#[derive(Debug)]
pub(crate) struct Table<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    used: AtomicUsize,
    /// By [`DomainSlot`].
    used_by: Box<[AtomicU32]>,
    bounds: Bounds,
}

/// How many keys there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) keys: usize,
    pub(crate) keys_of_domain: u32,
}

/// Domains that share a slot share a bound, and nothing else.
pub(crate) type DomainSlot = u16;

#[derive(Debug)]
struct Shard<T> {
    entries: HashTable<Entry<T>>,
    /// The bucket at which the sweep goes on.
    swept: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry<T> {
    /// In halves: 16 bytes would be aligned to 16.
    key: (u64, u64),
    domain: DomainSlot,
    kept: T,
}

/// Whose entry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// A key's: within the bounds.
    Bounded,
    /// A limit's own, for all its keys that have no room: as few as the limits, and let in over the bounds.
    Shared,
}

/// Threads rarely meet in one of so many.
const SHARDS: usize = 64;
/// Buckets looked at for each new key: the sweep is always faster than the flood.
const SWEPT_FOR_EACH: usize = 4;
/// Buckets looked at where there is no room: a flood that is refused must not cost more than one that is not.
const SWEPT_WHEN_FULL: usize = 64;

impl Default for Bounds {
    /// About 100 MB when full; of one domain a sixteenth, so that one tenant's flood leaves room for the others.
    fn default() -> Self {
        Self { keys: 1 << 20, keys_of_domain: 1 << 16 }
    }
}

fn halves(key: Key) -> (u64, u64) {
    #[allow(clippy::cast_possible_truncation)]
    let low = key as u64;
    #[allow(clippy::cast_possible_truncation)]
    let high = (key >> 64) as u64;
    (low, high)
}

impl<T: Kept> Table<T> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let shard = || Mutex::new(Shard { entries: HashTable::new(), swept: 0 });
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            used: AtomicUsize::new(0),
            used_by: (0..=DomainSlot::MAX).map(|_| AtomicU32::new(0)).collect(),
            bounds,
        }
    }

    /// How many keys are known.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What all entries take at the moment, spare room included.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.allocation_size()).sum()
    }

    /// Lets `act` read and change what is kept of a key; `None` where it is new and there is no room for it.
    pub(crate) fn with<R>(
        &self,
        key: Key,
        domain: DomainSlot,
        room: Room,
        now: u64,
        act: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let key = halves(key);
        let mut shard = self.shard(key);
        if let Some(entry) = shard.entries.find_mut(key.1, |entry| entry.key == key) {
            return Some(act(&mut entry.kept));
        }
        self.sweep(&mut shard, SWEPT_FOR_EACH, now);
        if room == Room::Bounded && self.is_full(domain) {
            self.sweep(&mut shard, SWEPT_WHEN_FULL, now);
            if self.is_full(domain) {
                return None;
            }
        }
        let mut entry = Entry { key, domain, kept: T::NEW };
        let result = act(&mut entry.kept);
        shard.entries.insert_unique(key.1, entry, |entry| entry.key.1);
        self.used.fetch_add(1, Ordering::Relaxed);
        self.used_by[usize::from(domain)].fetch_add(1, Ordering::Relaxed);
        Some(result)
    }

    /// The same for a key that is known.
    pub(crate) fn with_known<R>(&self, key: Key, act: impl FnOnce(&mut T) -> R) -> Option<R> {
        let key = halves(key);
        let mut shard = self.shard(key);
        shard.entries.find_mut(key.1, |entry| entry.key == key).map(|entry| act(&mut entry.kept))
    }

    fn shard(&self, key: (u64, u64)) -> MutexGuard<'_, Shard<T>> {
        lock(&self.shards[usize::try_from(key.0 % SHARDS as u64).unwrap_or(0)])
    }

    fn is_full(&self, domain: DomainSlot) -> bool {
        self.used() >= self.bounds.keys
            || self.used_by[usize::from(domain)].load(Ordering::Relaxed) >= self.bounds.keys_of_domain
    }

    /// Forgets what is as good as new in the next buckets.
    fn sweep(&self, shard: &mut Shard<T>, buckets: usize, now: u64) {
        let all = shard.entries.num_buckets();
        for _ in 0..buckets.min(all) {
            shard.swept = (shard.swept + 1) % all;
            let Ok(entry) = shard.entries.get_bucket_entry(shard.swept) else { continue };
            if entry.get().kept.new_again_at() > now {
                continue;
            }
            let domain = entry.remove().0.domain;
            self.used.fetch_sub(1, Ordering::Relaxed);
            self.used_by[usize::from(domain)].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// New again at this time.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Until(u64);

    impl Kept for Until {
        const NEW: Self = Self(0);

        fn new_again_at(&self) -> u64 {
            self.0
        }
    }

    fn table(keys: usize, keys_of_domain: u32) -> Table<Until> {
        Table::new(Bounds { keys, keys_of_domain })
    }

    /// As a hash spreads them.
    fn key(number: u64) -> Key {
        let hash = blake3::hash(&number.to_le_bytes());
        Key::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap())
    }

    fn keep(table: &Table<Until>, number: u64, domain: DomainSlot, now: u64) -> bool {
        table.with(key(number), domain, Room::Bounded, now, |kept| kept.0 = now + 100).is_some()
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let table = table(100, 100);
        assert!(keep(&table, 1, 0, 7));
        assert_eq!(table.with_known(key(1), |kept| kept.0), Some(107));
        assert_eq!(table.with_known(key(2), |kept| kept.0), None);
        assert_eq!(table.used(), 1);
    }

    #[test]
    fn a_flood_of_a_million_keys_stays_in_its_bounds() {
        let table = table(10_000, 1_000);
        let kept = (0..1_000_000).filter(|number| keep(&table, *number, 3, 0)).count();
        assert_eq!((kept, table.used()), (1_000, 1_000));
        assert!(table.bytes() < 1_000 * 150, "{}", table.bytes());
        assert!(keep(&table, 2_000_000, 4, 0), "another domain has room");
        let of_the_limit = table.with(key(3_000_000), 3, Room::Shared, 0, |kept| kept.0 = 100);
        assert!(of_the_limit.is_some(), "the limit's own has too");
    }

    #[test]
    fn all_domains_together_have_a_bound() {
        let table = table(100, 50);
        let kept =
            (0..500).filter(|number| keep(&table, *number, DomainSlot::try_from(number % 10).unwrap(), 0));
        assert_eq!(kept.count(), 100);
    }

    #[test]
    fn what_is_as_good_as_new_makes_room_and_nothing_else_does() {
        let table = table(100, 1_000);
        for number in 0..100 {
            assert!(keep(&table, number, 0, 0));
        }
        assert!((100..1_000).all(|number| !keep(&table, number, 0, 99)), "all are in use");
        assert!((0..100).all(|number| table.with_known(key(number), |_| ()).is_some()));
        let kept = (1_000..3_000).filter(|number| keep(&table, *number, 0, 100)).count();
        assert_eq!(kept, 100, "the old ones are gone, the new ones stay");
    }
}
