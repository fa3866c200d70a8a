//! When a rule counts. Zones are those of the IANA time zone database that is part of the binary, so that the control
//! plane and all nodes read a rule in the same way.

use jiff::{Timestamp, tz::TimeZone};

use crate::{Invalid, pb};

/// Days, hours and an interval; all that are given must fit.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeRule {
    /// Every day and hour where there is none.
    pub hours: Option<Hours>,
    /// Seconds since the epoch: from then on.
    pub after: Option<i64>,
    /// Seconds since the epoch: until before then.
    pub before: Option<i64>,
}

/// Days and hours of a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    /// Monday is the lowest bit.
    days: u8,
    /// Minutes since midnight: from then on.
    from: u16,
    /// Minutes since midnight: until before then.
    to: u16,
    zone: TimeZone,
}

/// A time of a request, in whole seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MINUTES: u16 = 24 * 60;

impl TimeRule {
    /// Whether it counts then.
    pub fn holds(&self, moment: Moment) -> bool {
        self.after.is_none_or(|after| after <= moment.0)
            && self.before.is_none_or(|before| moment.0 < before)
            && self.hours.as_ref().is_none_or(|hours| hours.hold(moment))
    }
}

impl Hours {
    fn hold(&self, moment: Moment) -> bool {
        // A time that no calendar has is within no hours.
        let Ok(at) = Timestamp::from_second(moment.0) else { return false };
        let local = self.zone.to_datetime(at);
        let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
        let minute = u16::try_from(minute).unwrap_or(DAY_MINUTES);
        let day = local.weekday().to_monday_zero_offset();
        self.days >> day & 1 == 1 && self.from <= minute && minute < self.to
    }
}

impl Moment {
    /// Reads RFC 3339.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let parsed = text.parse::<Timestamp>();
        let wrong = || Invalid::new("", text, "a time such as 2026-01-31T08:00:00Z (RFC 3339)");
        // The reader takes more than that: what has no zone, or one in brackets behind it.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.TZ+".contains(&byte));
        parsed.ok().filter(|_| is_plain).map(|at| Self(at.as_second())).ok_or_else(wrong)
    }
}

impl TryFrom<pb::authz::Time> for TimeRule {
    type Error = Invalid;

    fn try_from(wire: pb::authz::Time) -> Result<Self, Invalid> {
        let moment = |field: &str, text: &str| match text {
            "" => Ok(None),
            text => Moment::parse(text).map(|moment| Some(moment.0)).map_err(|why| why.within(field)),
        };
        let (after, before) = (moment("after", &wire.after)?, moment("before", &wire.before)?);
        if let (Some(after), Some(before)) = (after, before)
            && before <= after
        {
            return Err(Invalid::new("before", wire.before, "later than `after`"));
        }
        let hours = hours(&wire)?;
        if hours.is_none() && after.is_none() && before.is_none() {
            return Err(Invalid::missing("", "days, from, to, after or before"));
        }
        Ok(Self { hours, after, before })
    }
}

fn hours(wire: &pb::authz::Time) -> Result<Option<Hours>, Invalid> {
    let has_hours = !(wire.days.is_empty() && wire.from.is_empty() && wire.to.is_empty());
    if !has_hours {
        return match wire.zone.as_str() {
            "" => Ok(None),
            zone => Err(Invalid::new("zone", zone, "nothing, without days, from or to")),
        };
    }
    if wire.zone.is_empty() {
        return Err(Invalid::missing("zone", "whose days and hours: a name such as Europe/Berlin, or UTC"));
    }
    let zone = TimeZone::get(&wire.zone).map_err(|_| {
        Invalid::new("zone", &wire.zone, "a name of the IANA time zone database, such as Europe/Berlin")
    })?;
    let mut days = 0;
    for (at, day) in wire.days.iter().enumerate() {
        let number = DAYS.iter().position(|known| known == day);
        let number = number.ok_or_else(|| {
            Invalid::new(format!("days[{at}]"), day, "one of mon, tue, wed, thu, fri, sat, sun")
        })?;
        days |= 1 << number;
    }
    if wire.days.is_empty() {
        days = 0x7f;
    }
    let (from, to) = (minute("from", &wire.from, 0)?, minute("to", &wire.to, DAY_MINUTES)?);
    if to <= from {
        return Err(Invalid::new(
            "to",
            &wire.to,
            "later than `from`: a rule for each day, where a night is meant",
        ));
    }
    Ok(Some(Hours { days, from, to, zone }))
}

/// `08:00`; `24:00` is the end of a day.
fn minute(field: &str, text: &str, default: u16) -> Result<u16, Invalid> {
    let two = |text: &str| -> Option<u16> {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    if text.is_empty() {
        return Ok(default);
    }
    let minute = text.split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes) = (two(hours)?, two(minutes).filter(|minutes| *minutes < 60)?);
        Some(hours * 60 + minutes).filter(|minute| *minute <= DAY_MINUTES)
    });
    minute.ok_or_else(|| Invalid::new(field, text, "an hour such as 08:00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> pb::authz::Time {
        pb::authz::Time {
            days: vec!["mon".into(), "sun".into()],
            from: "08:00".into(),
            to: "18:30".into(),
            zone: "Europe/Berlin".into(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut pb::authz::Time), at: &str, expected: bool) {
        let mut wire = wire();
        change(&mut wire);
        let rule = TimeRule::try_from(wire).unwrap();
        assert_eq!(rule.holds(Moment::parse(at).unwrap()), expected, "{at}");
    }

    #[test]
    fn hours_are_those_of_their_place_in_summer_and_winter() {
        // A Monday in winter, an hour before UTC; then one in summer, two hours before it.
        check(|_| (), "2026-01-05T06:59:59Z", false);
        check(|_| (), "2026-01-05T07:00:00Z", true);
        check(|_| (), "2026-01-05T17:29:59Z", true);
        check(|_| (), "2026-01-05T17:30:00Z", false);
        check(|_| (), "2026-07-06T06:00:00Z", true);
        check(|_| (), "2026-07-06T16:30:00Z", false);
        check(|_| (), "2026-01-06T12:00:00Z", false);
        check(|wire| wire.days.clear(), "2026-01-06T12:00:00Z", true);
        // It is Monday there already.
        check(
            |wire| (wire.from, wire.to, wire.days) = (String::new(), String::new(), vec!["mon".into()]),
            "2026-01-04T23:30:00Z",
            true,
        );
        check(|wire| wire.to = "24:00".into(), "2026-01-05T22:59:59Z", true);
    }

    #[test]
    fn an_interval_begins_with_its_first_second_and_ends_before_its_last() {
        let between = |wire: &mut pb::authz::Time| {
            *wire = pb::authz::Time {
                after: "2026-01-01T00:00:00Z".into(),
                before: "2027-01-01T00:00:00+01:00".into(),
                ..Default::default()
            };
        };
        check(between, "2025-12-31T23:59:59Z", false);
        check(between, "2026-01-01T00:00:00Z", true);
        check(between, "2026-12-31T22:59:59Z", true);
        check(between, "2026-12-31T23:00:00Z", false);
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut pb::authz::Time), expected: &str) {
        let mut wire = wire();
        change(&mut wire);
        assert_eq!(TimeRule::try_from(wire).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_time_that_is_not_clear_is_refused() {
        refused(|wire| *wire = pb::authz::Time::default(), ": days, from, to, after or before, got nothing");
        refused(
            |wire| wire.zone.clear(),
            "zone: whose days and hours: a name such as Europe/Berlin, or UTC, got nothing",
        );
        refused(
            |wire| wire.zone = "Europe/Atlantis".into(),
            "zone: a name of the IANA time zone database, such as Europe/Berlin, got \"Europe/Atlantis\"",
        );
        refused(
            |wire| wire.days[1] = "Sunday".into(),
            "days[1]: one of mon, tue, wed, thu, fri, sat, sun, got \"Sunday\"",
        );
        refused(|wire| wire.from = "8:00".into(), "from: an hour such as 08:00, got \"8:00\"");
        refused(|wire| wire.from = "08:60".into(), "from: an hour such as 08:00, got \"08:60\"");
        refused(|wire| wire.to = "24:01".into(), "to: an hour such as 08:00, got \"24:01\"");
        refused(
            |wire| wire.to = "06:00".into(),
            "to: later than `from`: a rule for each day, where a night is meant, got \"06:00\"",
        );
        for text in ["tomorrow", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z[UTC]", "1"] {
            assert!(Moment::parse(text).is_err(), "{text}");
        }
        refused(
            |wire| {
                wire.after = "2026-01-01T00:00:00Z".into();
                wire.before = wire.after.clone();
            },
            "before: later than `after`, got \"2026-01-01T00:00:00Z\"",
        );
        refused(
            |wire| {
                *wire = pb::authz::Time {
                    zone: "UTC".into(),
                    after: "2026-01-01T00:00:00Z".into(),
                    ..Default::default()
                }
            },
            "zone: nothing, without days, from or to, got \"UTC\"",
        );
    }
}
