//! Writes a time as RFC 3339 in UTC with microseconds. No time zones, no leap seconds, no clock.

use std::io::Write;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// Appends `2026-11-22T02:14:18.000123Z` for nanoseconds since the epoch. 2^64 of them end in 2554.
pub(crate) fn push_rfc3339(out: &mut Vec<u8>, ns: u64) {
    let (seconds, micros) = (ns / 1_000_000_000, ns / 1_000 % 1_000_000);
    let (year, month, day) = civil(seconds / SECONDS_PER_DAY);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Writing to a vector cannot fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z");
}

/// Year, month and day of a day counted from 1970-01-01: `civil_from_days` of Howard Hinnant's
/// "chrono-Compatible Low-Level Date Algorithms", for days after the epoch.
fn civil(day: u64) -> (u64, u64, u64) {
    // Years begin on 1 March here, so that a leap day is the last day of one.
    let day = day + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ns: u64, expected: &str) {
        let mut out = Vec::new();
        push_rfc3339(&mut out, ns);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn times_are_written_in_utc_with_microseconds() {
        check(0, "1970-01-01T00:00:00.000000Z");
        check(1_000_000_000_000_001_999, "2001-09-09T01:46:40.000001Z");
        check(1_795_313_658_123_456_789, "2026-11-22T02:14:18.123456Z");
        check(u64::MAX, "2554-07-21T23:34:33.709551Z");
    }

    #[test]
    fn leap_days_are_where_they_belong() {
        check(951_782_400_000_000_000, "2000-02-29T00:00:00.000000Z");
        check(1_709_251_199_000_000_000, "2024-02-29T23:59:59.000000Z");
        check(1_709_251_200_000_000_000, "2024-03-01T00:00:00.000000Z");
        check(4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn days_follow_each_other_for_five_hundred_years() {
        let mut last = civil(0);
        for day in 1..200_000 {
            let today = civil(day);
            assert!(today > last, "{last:?} then {today:?}");
            assert!((1..=12).contains(&today.1) && (1..=31).contains(&today.2));
            last = today;
        }
    }
}
