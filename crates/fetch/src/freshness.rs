//! What an answer says of how long it is good (RFC 9111 section 5.2.2). Pure.

use std::time::Duration;

/// Of the values of `Cache-Control`: nothing where none says so, zero where it is not to be kept at all.
pub(crate) fn max_age<'a>(values: impl Iterator<Item = &'a str>) -> Option<Duration> {
    let directives = values.flat_map(|value| value.split(','));
    let ages = directives.filter_map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => Some(Duration::ZERO),
            // RFC 9111 section 4.2.1: what cannot be read is not fresh.
            "max-age" => Some(Duration::from_secs(value.trim().trim_matches('"').parse().unwrap_or(0))),
            _ => None,
        }
    });
    ages.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_age_that_is_said_counts() {
        for (header, secs) in [
            ("", None),
            ("public, must-revalidate", None),
            ("public, max-age=300", Some(300)),
            ("Max-Age=\"60\"", Some(60)),
            ("max-age=300, no-cache", Some(0)),
            ("no-store", Some(0)),
            ("max-age=300, max-age=10", Some(10)),
            ("max-age=-1", Some(0)),
            ("max-age=99999999999999999999999", Some(0)),
            ("max-age", Some(0)),
        ] {
            assert_eq!(max_age([header].into_iter()), secs.map(Duration::from_secs), "{header}");
        }
    }
}
