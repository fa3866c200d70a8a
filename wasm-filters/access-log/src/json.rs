//! Writes JSON into a byte buffer: hostile text in, one line of bounded size out.
//!
//! By hand, for the two things that serde_json does not do: cut a text by what it costs when written, and
//! escape all that some reader takes for the end of a line.

use std::io::Write;

/// Stands at the end of a text that was cut.
pub(crate) const CUT: &str = "…[cut]";

/// An object that is being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    /// Opens an object at the end of `out`.
    pub(crate) fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// Ends the object.
    pub(crate) fn close(self) {
        self.out.push(b'}');
    }

    /// A text of at most `most` bytes as written, and a mark where it was longer.
    pub(crate) fn text(&mut self, key: &str, value: &str, most: usize) {
        self.key(key);
        push_text(self.out, value, most);
    }

    /// A text, where there is one.
    pub(crate) fn text_if(&mut self, key: &str, value: Option<&str>, most: usize) {
        if let Some(value) = value {
            self.text(key, value, most);
        }
    }

    /// A whole number.
    pub(crate) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        // Writing to a vector cannot fail.
        let _ = write!(self.out, "{value}");
    }

    /// A whole number, where there is one.
    pub(crate) fn number_if(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(key, value);
        }
    }

    /// A text that `write` puts there, and that needs no escaping.
    pub(crate) fn plain(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.key(key);
        self.out.push(b'"');
        write(self.out);
        self.out.push(b'"');
    }

    /// An object within this one.
    pub(crate) fn object(&mut self, key: &str) -> Object<'_> {
        self.key(key);
        Object::open(self.out)
    }

    /// How much has been written, with all that stood before.
    pub(crate) fn written_bytes(&self) -> usize {
        self.out.len()
    }

    /// Our keys are short; a header's name is bounded where it is accepted.
    fn key(&mut self, key: &str) {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        push_text(self.out, key, usize::MAX);
        self.out.push(b':');
    }
}

fn push_text(out: &mut Vec<u8>, text: &str, most: usize) {
    out.push(b'"');
    let end = out.len().saturating_add(most);
    for character in text.chars() {
        let before = out.len();
        push_character(out, character);
        if out.len() > end {
            out.truncate(before);
            out.extend_from_slice(CUT.as_bytes());
            break;
        }
    }
    out.push(b'"');
}

fn push_character(out: &mut Vec<u8>, character: char) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        _ if is_unsafe(character) => {
            // Writing to a vector cannot fail. None of these lies past U+FFFF.
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        }
        _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// What ends a line for some reader (C0, C1, U+2028, U+2029), or turns text around on a screen.
fn is_unsafe(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str, most: usize) -> String {
        let mut out = Vec::new();
        push_text(&mut out, text, most);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_object_keeps_the_order_in_which_it_is_written() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.number("b", 2);
        object.text("a", "x", 10);
        object.text_if("absent", None, 10);
        object.number_if("absent", None);
        let mut inner = object.object("inner");
        inner.plain("c", |out| out.extend(b"now"));
        inner.close();
        object.object("empty").close();
        object.close();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"b":2,"a":"x","inner":{"c":"now"},"empty":{}}"#);
    }

    #[test]
    fn what_could_end_a_line_is_escaped() {
        assert_eq!(written("a\n\r\t\0\x1b\x7f\u{85}\u{2028}\u{202e}é\"\\", 100), {
            r#""a\u000a\u000d\u0009\u0000\u001b\u007f\u0085\u2028\u202eé\"\\""#
        });
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_marked() {
        assert_eq!(written("abc", 3), r#""abc""#);
        assert_eq!(written("abcd", 3), r#""abc…[cut]""#);
        assert_eq!(written("aéé", 4), r#""aé…[cut]""#);
        assert_eq!(written("a\n\n", 8), r#""a\u000a…[cut]""#);
        assert_eq!(written("a", 0), r#""…[cut]""#);
    }

    proptest! {
        #[test]
        fn any_text_survives_and_stays_on_one_line(text in any::<String>()) {
            let json = written(&text, usize::MAX);
            prop_assert!(!json.chars().any(char::is_control));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn no_text_is_longer_than_allowed(text in any::<String>(), most in 0usize..40) {
            let json = written(&text, most);
            prop_assert!(json.len() <= most + CUT.len() + 2);
            prop_assert!(serde_json::from_str::<String>(&json).is_ok());
        }
    }
}
