//! Remembers settings by the bytes that routes carry, so that each is parsed and complained of once.

use std::{collections::BTreeMap, rc::Rc};

use crate::{InvalidSettings, Settings};

/// Far past the routes that one worker serves in a moment, and some 250 KB. When it is full it starts anew,
/// which costs one parse (a few µs) for each route still in use; the routes of a node change too seldom
/// for anything finer.
const MAX_KNOWN: usize = 512;

/// Longer settings are parsed each time: they would make the bound above a bound on nothing.
const MAX_KNOWN_BYTES: usize = 4 * 1024;

/// The settings that were met lately.
#[derive(Debug, Default)]
pub struct KnownSettings {
    by_json: BTreeMap<Vec<u8>, Rc<Settings>>,
}

impl KnownSettings {
    /// The settings that `json` describes; [`Settings::invalid`] where it describes none, and then
    /// `report` is told why, the first time.
    pub fn of(&mut self, json: &[u8], report: impl FnOnce(InvalidSettings)) -> Rc<Settings> {
        if let Some(settings) = self.by_json.get(json) {
            return Rc::clone(settings);
        }
        let settings = Rc::new(Settings::parse(json).unwrap_or_else(|error| {
            report(error);
            Settings::invalid()
        }));
        self.remember(json, &settings);
        settings
    }

    fn remember(&mut self, json: &[u8], settings: &Rc<Settings>) {
        if json.len() > MAX_KNOWN_BYTES {
            return;
        }
        if self.by_json.len() >= MAX_KNOWN {
            self.by_json.clear();
        }
        self.by_json.insert(json.to_vec(), Rc::clone(settings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_parsed_once() {
        let mut known = KnownSettings::default();
        let first = known.of(br#"{"service": "a"}"#, |_| panic!());
        let again = known.of(br#"{"service": "a"}"#, |_| panic!());
        assert!(Rc::ptr_eq(&first, &again));
    }

    #[test]
    fn malformed_settings_are_reported_once() {
        let mut known = KnownSettings::default();
        let mut reports = 0;
        for _ in 0..3 {
            let settings = known.of(b"nonsense", |_| reports += 1);
            assert_eq!(*settings, Settings::invalid());
        }
        assert_eq!(reports, 1);
    }

    #[test]
    fn no_number_of_routes_makes_it_grow_without_end() {
        let mut known = KnownSettings::default();
        for route in 0..3 * MAX_KNOWN {
            known.of(format!(r#"{{"service": "s{route}"}}"#).as_bytes(), |_| panic!());
            assert!(known.by_json.len() <= MAX_KNOWN);
        }
        let long = format!(r#"{{"service": "{}"}}"#, "s".repeat(MAX_KNOWN_BYTES));
        let before = known.by_json.len();
        assert_eq!(known.of(long.as_bytes(), |_| panic!()).service.len(), MAX_KNOWN_BYTES);
        assert_eq!(known.by_json.len(), before);
    }
}
