//! Where in a YAML file a field stands, for messages about it.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser};

/// The lines of a file's fields, by their paths as our messages have them: `routes[0].upstream.urls[1]`.
pub(crate) struct Lines(BTreeMap<String, usize>);

/// A collection that is being read.
enum Open {
    List {
        path: String,
        next: usize,
    },
    /// With the key whose value comes next.
    Fields {
        path: String,
        key: Option<String>,
    },
}

impl Lines {
    /// What cannot be read has no lines; whoever parses it tells why.
    pub(crate) fn of(text: &str) -> Self {
        let mut lines = BTreeMap::new();
        let mut open: Vec<Open> = Vec::new();
        for next in Parser::new_from_str(text) {
            let Ok((event, span)) = next else { break };
            let line = span.start.line();
            match event {
                Event::SequenceStart(..) => {
                    let path = value_at(&mut open, line, &mut lines);
                    open.push(Open::List { path, next: 0 });
                }
                Event::MappingStart(..) => {
                    let path = value_at(&mut open, line, &mut lines);
                    open.push(Open::Fields { path, key: None });
                }
                Event::SequenceEnd | Event::MappingEnd => drop(open.pop()),
                Event::Scalar(text, ..) => match open.last_mut() {
                    Some(Open::Fields { path, key: key @ None }) => {
                        // A field stands where its key does.
                        let name = if path.is_empty() { text.to_string() } else { format!("{path}.{text}") };
                        lines.insert(name, line);
                        *key = Some(text.into_owned());
                    }
                    _ => drop(value_at(&mut open, line, &mut lines)),
                },
                Event::Alias(_) => drop(value_at(&mut open, line, &mut lines)),
                _ => {}
            }
        }
        Self(lines)
    }

    /// A message that begins with a field, with the line before it where that is known.
    pub(crate) fn told(&self, message: &str) -> String {
        let field = message.split_once(": ").map_or("", |(field, _)| field);
        match self.line(field) {
            Some(line) => format!("line {line}: {message}"),
            None => message.to_owned(),
        }
    }

    /// Of the field, or of what holds it.
    fn line(&self, field: &str) -> Option<usize> {
        let mut field = field;
        while !field.is_empty() {
            if let Some(line) = self.0.get(field) {
                return Some(*line);
            }
            field = &field[..field.rfind(['.', '[']).unwrap_or(0)];
        }
        None
    }
}

/// The path of the value that begins here.
fn value_at(open: &mut [Open], line: usize, lines: &mut BTreeMap<String, usize>) -> String {
    match open.last_mut() {
        None => String::new(),
        Some(Open::List { path, next }) => {
            let item = format!("{path}[{next}]");
            *next += 1;
            lines.insert(item.clone(), line);
            item
        }
        Some(Open::Fields { path, key }) => {
            let name = key.take().unwrap_or_default();
            if path.is_empty() { name } else { format!("{path}.{name}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_with_the_line_of_its_field() {
        let lines = Lines::of(
            "service: hello\nhosts: [a.test,\n  b.test]\nroutes:\n- path: /\n  upstream:\n    urls:\n    - http://x\n- &r\n  path: /a\nauth: {any: [{jwt: {issuer: x}}]}\nagain: *r\nlast: 1\n",
        );
        for (message, told) in [
            ("service: no", "line 1: service: no"),
            ("hosts[1]: no", "line 3: hosts[1]: no"),
            ("routes[0].upstream.urls[0]: no", "line 8: routes[0].upstream.urls[0]: no"),
            ("routes[1].path: no", "line 10: routes[1].path: no"),
            ("routes[1].timeout: of what holds it", "line 9: routes[1].timeout: of what holds it"),
            ("auth.any[0].jwt.audiences: no", "line 11: auth.any[0].jwt.audiences: no"),
            ("last: no", "line 13: last: no"),
            ("\"x\" is required", "\"x\" is required"),
        ] {
            assert_eq!(lines.told(message), told);
        }
    }

    #[test]
    fn what_is_no_yaml_has_no_lines() {
        assert_eq!(Lines::of("a: [").told("b: c"), "b: c");
        assert_eq!(Lines::of("").told("b: c"), "b: c");
    }
}
