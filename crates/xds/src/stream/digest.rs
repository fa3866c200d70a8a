//! What a whole set is known by, in whatever order it is told: clients that come back bring along the same thousands
//! of names, each in an order of its own.

use std::{hash::BuildHasher as _, sync::LazyLock};

use foldhash::fast::RandomState;

/// Of names, or of names with versions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    count: usize,
    sum: u64,
}

/// Random for each process: a client cannot make up other names of the same sum, and would deceive only itself.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

impl Digest {
    /// Of names.
    pub fn of_names<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        names.fold(Self::default(), |all, name| all.with(SEED.hash_one(name)))
    }

    /// Of names and versions.
    pub fn of_versions<'a>(versions: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        versions.fold(Self::default(), |all, version| all.with(SEED.hash_one(version)))
    }

    fn with(self, hash: u64) -> Self {
        Self { count: self.count + 1, sum: self.sum.wrapping_add(hash) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_set_has_the_same_digest_in_any_order() {
        let of = |versions: &[(&'static str, &'static str)]| Digest::of_versions(versions.iter().copied());
        assert_eq!(of(&[("a", "1"), ("b", "2")]), of(&[("b", "2"), ("a", "1")]));
        for other in [
            &[("a", "2"), ("b", "1")][..],
            &[("a", "1")],
            &[("a", "1"), ("a", "1")],
            &[("a1", ""), ("b", "2")],
        ] {
            assert_ne!(of(&[("a", "1"), ("b", "2")]), of(other), "{other:?}");
        }
        assert_ne!(Digest::of_names(["a", "a"].into_iter()), Digest::of_names(["a", "b"].into_iter()));
    }
}
