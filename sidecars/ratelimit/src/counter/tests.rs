//! Counters against figures by hand, against exact models, and GCRA against governor.

use std::{num::NonZeroU32, time::Duration};

use governor::{Quota, RateLimiter, clock::FakeRelativeClock};
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Fixed, Algorithm::Sliding, Algorithm::Gcra];

fn terms(algorithm: Algorithm, requests: u32, window_secs: u64) -> Terms {
    Terms { algorithm, requests, window: window_secs * SECOND, all_or_nothing: false }
}

/// Over, remaining, and seconds until the reset, rounded up.
fn take(counter: &mut Counter, terms: &Terms, hits: u64, now_secs: u64) -> (bool, u32, u64) {
    let Taken { over, remaining, reset } = counter.take(terms, hits, now_secs * SECOND);
    (over, remaining, reset.div_ceil(SECOND))
}

#[test]
fn a_fixed_window_lets_its_limit_pass_and_begins_anew_at_a_full_minute() {
    let (mut counter, terms) = (Counter::NEW, terms(Algorithm::Fixed, 2, 60));
    assert_eq!(take(&mut counter, &terms, 1, 6_000_010), (false, 1, 50));
    assert_eq!(take(&mut counter, &terms, 1, 6_000_010), (false, 0, 50));
    assert_eq!(take(&mut counter, &terms, 1, 6_000_059), (true, 0, 1));
    assert_eq!(take(&mut counter, &terms, 1, 6_000_060), (false, 1, 60));
}

#[test]
fn windows_of_every_unit_are_aligned_to_the_epoch() {
    // 2026-11-23 is a Monday; weeks end on Thursdays, as the epoch was one.
    let now = 1_795_392_000;
    for (days, ends) in [(1, 86_400), (7, 3 * 86_400), (30, 0), (365, 0)] {
        let window = days * 86_400;
        let ends = if ends == 0 { window - now % window } else { ends };
        let taken = take(&mut Counter::NEW.clone(), &terms(Algorithm::Fixed, 5, window), 1, now);
        assert_eq!(taken, (false, 4, ends), "{days} days");
    }
}

#[test]
fn refused_hits_count_as_the_reference_has_it_and_not_with_all_or_nothing() {
    for algorithm in ALGORITHMS {
        let (mut counter, mut terms) = (Counter::NEW, terms(algorithm, 100, 60));
        assert!(!take(&mut counter, &terms, 95, 60).0);
        assert!(take(&mut counter, &terms, 10, 60).0, "{algorithm:?}");
        assert!(take(&mut counter, &terms, 1, 60).0, "what was left is used up: {algorithm:?}");
        terms.all_or_nothing = true;
        let mut counter = Counter::NEW;
        assert!(!take(&mut counter, &terms, 95, 60).0);
        assert!(take(&mut counter, &terms, 10, 60).0);
        assert!(!take(&mut counter, &terms, 5, 60).0, "{algorithm:?}");
    }
}

#[test]
fn zero_hits_only_look_and_huge_ones_overflow_nothing() {
    for algorithm in ALGORITHMS {
        let (mut counter, terms) = (Counter::NEW, terms(algorithm, 2, 60));
        for _ in 0..5 {
            let looked = take(&mut counter, &terms, 0, 0);
            assert_eq!((looked.0, looked.1), (false, 2), "{algorithm:?}");
        }
        assert!(take(&mut counter, &terms, u64::MAX, 0).0);
        assert!(take(&mut counter, &terms, u64::MAX, 0).0);
        assert!(take(&mut counter, &terms, 0, 0).0, "costs that were told afterwards: {algorithm:?}");
        assert!(counter.take(&terms, u64::MAX, u64::MAX).over, "a clock at its end");
        let nothing = Terms { requests: 0, ..terms };
        assert!(take(&mut Counter::NEW.clone(), &nothing, 1, 0).0, "a limit of zero: {algorithm:?}");
    }
}

#[test]
fn a_sliding_window_remembers_the_one_before() {
    let (mut counter, terms) = (Counter::NEW, terms(Algorithm::Sliding, 10, 60));
    assert_eq!(take(&mut counter, &terms, 10, 59), (false, 0, 1));
    // All ten lie within the last minute; the first leaves after a tenth of it.
    assert_eq!(take(&mut counter, &terms, 1, 60), (true, 0, 6));
    assert_eq!(take(&mut counter, &terms, 1, 66), (false, 0, 54));
    assert_eq!(take(&mut counter, &terms, 1, 90), (false, 3, 30));
    assert_eq!(take(&mut counter, &terms, 1, 300), (false, 9, 60), "long ago");
}

#[test]
fn with_gcra_hits_come_back_one_by_one() {
    let (mut counter, terms) = (Counter::NEW, terms(Algorithm::Gcra, 6, 60));
    assert_eq!(take(&mut counter, &terms, 6, 1_000), (false, 0, 60));
    assert_eq!(take(&mut counter, &terms, 1, 1_005), (true, 0, 5));
    assert_eq!(take(&mut counter, &terms, 1, 1_010), (false, 0, 60));
    assert_eq!(take(&mut counter, &terms, 2, 1_025), (true, 0, 15), "it used up the one that was there");
    assert_eq!(take(&mut counter, &terms, 1, 1_030), (false, 0, 60));
    assert_eq!(take(&mut counter, &terms, 0, 1_090), (false, 6, 0));
}

#[test]
fn what_was_taken_can_be_given_back() {
    for algorithm in ALGORITHMS {
        let (mut counter, terms) = (Counter::NEW, terms(algorithm, 7, 60));
        take(&mut counter, &terms, 2, 120);
        let before = counter;
        take(&mut counter, &terms, 5, 120);
        counter.give_back(&terms, 5);
        assert_eq!(counter.take(&terms, 0, 120 * SECOND), before.clone().take(&terms, 0, 120 * SECOND));
    }
}

#[test]
fn a_clock_that_is_set_back_makes_nothing_new() {
    for algorithm in ALGORITHMS {
        let (mut counter, terms) = (Counter::NEW, terms(algorithm, 1, 60));
        assert!(!take(&mut counter, &terms, 1, 120).0);
        assert!(take(&mut counter, &terms, 1, 119).0, "{algorithm:?}");
    }
}

/// Steps of time in nanoseconds, and hits.
fn steps() -> impl Strategy<Value = Vec<(u64, u64)>> {
    proptest::collection::vec((prop_oneof![Just(0), 0..SECOND, 0..100 * SECOND], 0_u64..6), 1..120)
}

proptest! {
    #[test]
    fn gcra_decides_as_governor_does(requests in 1_u32..60, steps in steps()) {
        // A period that the limit divides: governor counts in whole nanoseconds, and we exactly.
        let each = Duration::from_millis(250);
        let quota = Quota::with_period(each).unwrap().allow_burst(NonZeroU32::new(requests).unwrap());
        let clock = FakeRelativeClock::default();
        let governor = RateLimiter::direct_with_clock(quota, clock.clone());
        let window = u64::try_from(each.as_nanos()).unwrap() * u64::from(requests);
        let terms = Terms { algorithm: Algorithm::Gcra, requests, window, all_or_nothing: true };
        let (mut counter, mut now) = (Counter::NEW, 1_000 * SECOND);
        for (step, hits) in steps {
            clock.advance(Duration::from_nanos(step));
            now += step;
            let Some(hits) = NonZeroU32::new(u32::try_from(hits).unwrap()) else { continue };
            let theirs = matches!(governor.check_n(hits), Ok(Ok(())));
            prop_assert_eq!(!counter.take(&terms, hits.get().into(), now).over, theirs);
        }
    }

    #[test]
    fn gcra_is_exact_where_the_limit_does_not_divide_the_window(requests in 1_u32..1_000, window_secs in 1_u64..100, steps in steps()) {
        let terms = Terms { all_or_nothing: true, ..terms(Algorithm::Gcra, requests, window_secs) };
        // A bucket in parts of `requests` times a nanosecond: a hit costs a window, a nanosecond brings `requests`.
        let (full, each) = (u128::from(terms.window) * u128::from(requests), u128::from(terms.window));
        let (mut bucket, mut counter, mut now) = (full, Counter::NEW, 1_000 * SECOND);
        for (step, hits) in steps {
            now += step;
            bucket = (bucket + u128::from(step) * u128::from(requests)).min(full);
            let wanted = u128::from(hits) * each;
            let admitted = bucket >= wanted.max(each);
            if admitted {
                bucket -= wanted;
            }
            let taken = counter.take(&terms, hits, now);
            prop_assert_eq!((!taken.over, u128::from(taken.remaining)), (admitted, bucket / each));
        }
    }

    #[test]
    fn no_window_lets_more_pass_than_its_limit(requests in 0_u32..50, steps in steps()) {
        let mut counters = [Counter::NEW; 2];
        let (mut passed, mut now) = ([0; 2], 0);
        let mut window = 0;
        for (step, hits) in steps {
            now += step / 10;
            if window != now / (60 * SECOND) {
                (window, passed) = (now / (60 * SECOND), [0; 2]);
            }
            for (at, algorithm) in [Algorithm::Fixed, Algorithm::Sliding].into_iter().enumerate() {
                let taken = counters[at].take(&terms(algorithm, requests, 60), hits, now);
                if !taken.over {
                    passed[at] += hits;
                }
                prop_assert!(passed[at] <= u64::from(requests), "{:?}", algorithm);
            }
        }
    }

    #[test]
    fn a_sliding_window_is_the_exact_weighted_sum(requests in 1_u32..40, steps in steps()) {
        let terms = Terms { all_or_nothing: true, ..terms(Algorithm::Sliding, requests, 60) };
        let (mut counter, mut now) = (Counter::NEW, 600 * SECOND);
        let mut admitted = std::collections::BTreeMap::<u64, u64>::new();
        for (step, hits) in steps {
            now += step / 5;
            let hits = hits.max(1);
            let window = now / terms.window;
            let of = |window: u64| u128::from(admitted.get(&window).copied().unwrap_or(0));
            let left = u128::from(terms.window - now % terms.window);
            let all = u128::from(terms.window);
            let fits = of(window - 1) * left + (of(window) + u128::from(hits)) * all <= u128::from(requests) * all;
            prop_assert_eq!(!counter.take(&terms, hits, now).over, fits);
            if fits {
                *admitted.entry(window).or_default() += hits;
            }
        }
    }
}
