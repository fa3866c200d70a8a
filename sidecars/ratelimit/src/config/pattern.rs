//! Wildcards: each `*` stands for any characters, or for none.

/// Split where its wildcards are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    first: Box<str>,
    /// Between wildcards.
    inner: Box<[Box<str>]>,
    /// `None` where there is no wildcard at all: then `first` is everything.
    last: Option<Box<str>>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let mut parts = text.split('*').map(Box::from);
        let first = parts.next().unwrap_or_default();
        let mut inner: Vec<Box<str>> = parts.collect();
        let last = inner.pop();
        Self { first, inner: inner.into(), last }
    }

    /// Whatever it is.
    pub(super) fn anything() -> Self {
        Self::new("*")
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(last) = &self.last else { return *text == *self.first };
        let Some(mut rest) = text.strip_prefix(&*self.first) else { return false };
        // The earliest place leaves the most for those that follow.
        for part in &self.inner {
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wildcard_stands_for_any_characters_or_none() {
        for (pattern, yes, no) in [
            ("abc", &["abc"][..], &["ab", "abcd", ""][..]),
            ("*", &["", "x", "a*b"], &[]),
            ("a*", &["a", "ab"], &["", "ba"]),
            ("*a", &["a", "ba"], &["ab"]),
            ("a*b*c", &["abc", "a-b-b-c", "abbc"], &["ac", "acb", "ab"]),
            ("ab*ba", &["abba", "ab-ba"], &["aba"]),
            ("/users/*/photos", &["/users/1/photos", "/users//photos"], &["/users/photos"]),
            ("**", &["", "x"], &[]),
        ] {
            for text in yes {
                assert!(Pattern::new(pattern).matches(text), "{pattern} {text}");
            }
            for text in no {
                assert!(!Pattern::new(pattern).matches(text), "{pattern} {text}");
            }
        }
    }

    /// By trying everything.
    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| slowly(rest, &text[at..])),
            Some((one, rest)) => text.first() == Some(one) && slowly(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_matches_what_trying_everything_finds(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(Pattern::new(&pattern).matches(&text), slowly(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
