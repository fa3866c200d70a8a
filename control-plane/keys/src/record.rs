//! What is known of one set, what of it is in force, and when to look again. Pure: it is told what happened and when.

use std::{sync::Arc, time::Duration};

use crate::{moment::Moment, set::Set};

/// How old a set may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ages {
    /// Then it is asked for again.
    pub(crate) soft: Duration,
    /// Then it is in force no more.
    pub(crate) hard: Duration,
}

/// One set.
#[derive(Debug)]
pub(crate) struct Record {
    ages: Ages,
    good: Option<Good>,
    looked: Option<Moment>,
    /// From then on.
    wait: Duration,
    failures: u32,
    error: Option<String>,
    wished: Option<Moment>,
    /// Somebody waits for a look.
    is_wanted: bool,
    is_withdrawn: bool,
}

/// The last answer that was good.
#[derive(Debug)]
struct Good {
    set: Arc<Set>,
    taken: Moment,
    /// How old it was then: one from the disk is older than this process.
    age: Duration,
}

/// What has become of a set by time alone, or by a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    None,
    /// It has reached its hard age.
    Withdrawn,
    /// It is in force again.
    Back,
}

/// What a server may say of how long its answer is good: less would be a load, more would delay a rotation.
const MAX_AGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(3600);
/// Of an age, to both sides: replicas that started together do not ask together.
const JITTER: f64 = 0.2;
/// After the first failure; doubled with each one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// An issuer that is back is noticed within this.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// Between two wishes for one issuer.
pub(crate) const WISH_EVERY: Duration = Duration::from_secs(30);

impl Record {
    pub(crate) fn new(ages: Ages) -> Self {
        Self {
            ages,
            good: None,
            looked: None,
            wait: Duration::ZERO,
            failures: 0,
            error: None,
            wished: None,
            is_wanted: false,
            is_withdrawn: false,
        }
    }

    /// Begins with what an earlier process had. It is looked for at once.
    pub(crate) fn restore(&mut self, set: Set, age: Duration, now: Moment) {
        self.good = Some(Good { set: Arc::new(set), taken: now, age });
    }

    /// A look begins. Whoever wants one from now on wants another: this one may have passed by what he waits for.
    pub(crate) fn begin(&mut self) {
        self.is_wanted = false;
    }

    /// A look has found a set. `share` is a number from 0 to 1, by chance. Whether it is another set than before.
    pub(crate) fn succeed(&mut self, now: Moment, set: Set, max_age: Option<Duration>, share: f64) -> bool {
        let known = self.good.take().map(|good| good.set);
        let is_new = known.as_deref() != Some(&set);
        // The same set stays the same piece of memory: whoever compares has it cheap.
        let set = known.filter(|_| !is_new).unwrap_or_else(|| Arc::new(set));
        self.good = Some(Good { set, taken: now, age: Duration::ZERO });
        self.ended_well(now, max_age, share);
        is_new
    }

    /// A look has found that nothing is other than it was. Whether there was something.
    pub(crate) fn confirm(&mut self, now: Moment, max_age: Option<Duration>, share: f64) -> bool {
        let Some(good) = &mut self.good else { return false };
        (good.taken, good.age) = (now, Duration::ZERO);
        self.ended_well(now, max_age, share);
        true
    }

    fn ended_well(&mut self, now: Moment, max_age: Option<Duration>, share: f64) {
        let jittered = |age: Duration| age.mul_f64(1.0 - JITTER + 2.0 * JITTER * share);
        let wait = match max_age {
            None => jittered(self.ages.soft),
            Some(said) => {
                jittered(said.clamp(*MAX_AGE.start(), *MAX_AGE.end())).clamp(*MAX_AGE.start(), *MAX_AGE.end())
            }
        };
        // Whatever the server says: a set is asked for again before it is too old.
        self.wait = wait.min(self.ages.hard / 2);
        (self.looked, self.failures, self.error) = (Some(now), 0, None);
    }

    /// A look has failed. What was good stays. Whether that is news.
    pub(crate) fn fail(&mut self, now: Moment, error: String, share: f64) -> bool {
        let doubled =
            FIRST_RETRY.saturating_mul(1_u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX));
        self.wait = doubled.min(LONGEST_RETRY).mul_f64(0.5 + share).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.looked = Some(now);
        let is_news = self.error.as_ref() != Some(&error);
        self.error = Some(error);
        is_news
    }

    /// How long until the next look.
    pub(crate) fn wait(&self, now: Moment) -> Duration {
        match self.looked {
            Some(looked) if !self.is_wanted => self.wait.saturating_sub(now.since(looked)),
            _ => Duration::ZERO,
        }
    }

    /// Whether a look is due for another reason than time: its file has changed.
    pub(crate) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Somebody would like a look now.
    ///
    /// # Errors
    /// How long until the next wish is heard.
    pub(crate) fn wish(&mut self, now: Moment) -> Result<(), Duration> {
        if let Some(left) = self.wish_in(now) {
            return Err(left);
        }
        self.wished = Some(now);
        self.is_wanted = true;
        Ok(())
    }

    /// Until a wish is heard, where it is not at once.
    pub(crate) fn wish_in(&self, now: Moment) -> Option<Duration> {
        let left = WISH_EVERY.saturating_sub(now.since(self.wished?));
        (!left.is_zero()).then_some(left)
    }

    pub(crate) fn was_looked_at(&self) -> bool {
        self.looked.is_some()
    }

    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// How long ago the set was known to be good.
    pub(crate) fn age(&self, now: Moment) -> Option<Duration> {
        self.good.as_ref().map(|good| good.age.saturating_add(now.since(good.taken)))
    }

    /// The set that is in force.
    pub(crate) fn in_force(&self, now: Moment) -> Option<&Arc<Set>> {
        let age = self.age(now)?;
        self.good.as_ref().map(|good| &good.set).filter(|_| age < self.ages.hard)
    }

    /// What has become of it since the last call.
    pub(crate) fn turn(&mut self, now: Moment) -> Turn {
        let is_withdrawn = self.good.is_some() && self.in_force(now).is_none();
        match (std::mem::replace(&mut self.is_withdrawn, is_withdrawn), is_withdrawn) {
            (false, true) => Turn::Withdrawn,
            (true, false) => Turn::Back,
            _ => Turn::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: Ages = Ages { soft: Duration::from_secs(300), hard: Duration::from_secs(86_400) };
    const X: &str = "WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis";
    const Y: &str = "y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE";

    fn at(secs: u64) -> Moment {
        Moment { wall: Duration::from_secs(1_700_000_000 + secs), running: Duration::from_secs(secs) }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn set(kid: &str) -> Set {
        let jwks = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}","kid":"{kid}"}}]}}"#);
        Set::read("https://id.example.test/", &jwks, None).unwrap()
    }

    fn kid(record: &Record, now: Moment) -> Option<String> {
        record.in_force(now).map(|set| set.kids[0].clone())
    }

    #[test]
    fn it_is_asked_for_again_at_its_soft_age_give_or_take_a_fifth() {
        let mut record = Record::new(AGES);
        assert_eq!(record.wait(at(0)), secs(0), "at once at first");
        for (share, wait) in [(0.0, 240), (0.5, 300), (1.0, 360)] {
            record.succeed(at(0), set("a"), None, share);
            assert_eq!((record.wait(at(0)) + Duration::from_millis(1)).as_secs(), wait, "{share}");
        }
        assert_eq!(record.wait(at(400)), secs(0));
    }

    #[test]
    fn what_the_server_says_of_its_age_counts_from_a_minute_to_an_hour() {
        let mut record = Record::new(AGES);
        for (said, wait) in [(0, 60), (10, 60), (600, 600), (7200, 3600), (u64::MAX, 3600)] {
            record.succeed(at(0), set("a"), Some(secs(said)), 0.5);
            assert_eq!((record.wait(at(0)) + Duration::from_millis(1)).as_secs(), wait, "{said}");
            for share in [0.0, 1.0] {
                record.succeed(at(0), set("a"), Some(secs(said)), share);
                assert!((secs(60)..=secs(3600)).contains(&record.wait(at(0))), "{said} {share}");
            }
        }
        let mut short = Record::new(Ages { soft: secs(60), hard: secs(600) });
        short.succeed(at(0), set("a"), Some(secs(3600)), 0.5);
        assert_eq!(short.wait(at(0)), secs(300), "never past its hard age");
    }

    #[test]
    fn failures_are_tried_again_later_and_later_and_change_nothing() {
        let mut record = Record::new(AGES);
        record.succeed(at(0), set("a"), None, 0.5);
        let mut waits = Vec::new();
        for failure in 0..100 {
            record.fail(at(failure), "away".into(), 0.5);
            waits.push(record.wait(at(failure)).as_secs());
            assert_eq!(kid(&record, at(failure)), Some("a".into()));
        }
        assert_eq!(waits[..8], [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(waits[99], 300);
        for share in [0.0, 1.0] {
            record.fail(at(100), "away".into(), share);
            assert!((secs(150)..=secs(300)).contains(&record.wait(at(100))), "{share}");
        }
        assert!(!record.fail(at(101), "away".into(), 0.5), "no news");
        assert!(record.fail(at(101), "away in another way".into(), 0.5));
    }

    #[test]
    fn a_day_without_its_issuer_ends_a_set_and_the_next_success_brings_it_back() {
        let mut record = Record::new(AGES);
        record.succeed(at(0), set("a"), None, 0.5);
        record.fail(at(86_399), "away".into(), 0.5);
        assert_eq!((kid(&record, at(86_399)), record.turn(at(86_399))), (Some("a".into()), Turn::None));
        assert_eq!((kid(&record, at(86_400)), record.turn(at(86_400))), (None, Turn::Withdrawn));
        assert_eq!(record.turn(at(90_000)), Turn::None, "told once");
        // Even where the server only says that it is the same.
        assert!(record.confirm(at(90_001), None, 0.5));
        assert_eq!((kid(&record, at(90_001)), record.turn(at(90_001))), (Some("a".into()), Turn::Back));
        assert_eq!(record.age(at(90_011)), Some(secs(10)));
    }

    #[test]
    fn the_same_set_is_no_change_and_keys_that_are_gone_are_gone() {
        let mut record = Record::new(AGES);
        assert!(!record.confirm(at(0), None, 0.5), "there is nothing to confirm");
        assert!(record.succeed(at(0), set("a"), None, 0.5));
        let first = record.in_force(at(0)).unwrap().clone();
        assert!(!record.succeed(at(1), set("a"), None, 0.5));
        assert!(Arc::ptr_eq(&first, record.in_force(at(1)).unwrap()));
        assert!(record.succeed(at(2), set("b"), None, 0.5));
        assert_eq!(kid(&record, at(2)), Some("b".into()));
    }

    #[test]
    fn a_wish_is_heard_every_half_minute() {
        let mut record = Record::new(AGES);
        record.succeed(at(0), set("a"), None, 0.5);
        record.wish(at(10)).unwrap();
        assert_eq!(record.wait(at(10)), secs(0));
        record.begin();
        record.succeed(at(11), set("a"), None, 0.5);
        assert_eq!(record.wait(at(11)), secs(300), "one look is enough");
        assert_eq!(record.wish(at(20)), Err(secs(20)));
        assert_eq!(record.wait(at(20)), secs(291));
        record.begin();
        record.wish(at(40)).unwrap();
        record.succeed(at(41), set("a"), None, 0.5);
        assert_eq!(record.wait(at(41)), secs(0), "what was on its way when somebody wished may be too old");
    }

    #[test]
    fn a_clock_that_jumps_makes_no_set_younger() {
        let mut record = Record::new(AGES);
        record.succeed(at(0), set("a"), None, 0.5);
        record.wish(at(0)).unwrap();
        record.begin();
        record.succeed(at(0), set("a"), None, 0.5);
        let back = |running| Moment { wall: secs(0), running: secs(running) };
        assert_eq!(record.age(back(50)), Some(secs(50)));
        assert_eq!(record.wait(back(50)), secs(250), "it is asked for as if nothing had happened");
        assert!(record.wish_in(back(10)).is_some() && record.wish_in(back(30)).is_none());
        assert_eq!(kid(&record, back(86_400)), None);
        let ahead = Moment { wall: secs(u64::MAX), running: secs(1) };
        assert_eq!(kid(&record, ahead), None);
        assert_eq!(record.wait(ahead), secs(0), "so that the next success brings it back");
        assert_eq!(kid(&record, at(2)), Some("a".into()), "and so does the clock");
    }

    #[test]
    fn a_set_of_an_earlier_process_has_the_age_that_it_had() {
        let mut record = Record::new(AGES);
        record.restore(set("a"), secs(86_000), at(0));
        assert_eq!(record.wait(at(0)), secs(0));
        assert_eq!((kid(&record, at(399)), kid(&record, at(400))), (Some("a".into()), None));
        let mut old = Record::new(AGES);
        old.restore(set("a"), Duration::MAX, at(0));
        assert_eq!((kid(&old, at(5)), old.turn(at(5))), (None, Turn::Withdrawn));
    }
}
