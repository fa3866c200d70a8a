//! Finds the line of a field in a document: YAML readers tell lines only where they stumble, so this one does.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::walk::{Path, Step};

/// The line of the mapping or the list that holds the field, from 1; the field stands at or below it.
pub(crate) fn line_of(text: &str, resource: usize, path: &Path) -> Option<usize> {
    let mut names = vec![vec!["resources".to_owned()], vec![resource.to_string()]];
    names.extend(path.steps().iter().map(names_of));
    let found = Seek(&names).deserialize(serde_norway::Deserializer::from_str(text));
    found.err()?.location().map(|at| at.line())
}

/// As it may stand in the text.
fn names_of(step: &Step) -> Vec<String> {
    match step {
        Step::Field(field) => vec![field.name().to_owned(), field.json_name().to_owned()],
        Step::At(index) => vec![index.to_string()],
        Step::Of(key) => vec![key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned)],
    }
}

/// Goes down these steps, and fails at the end of them.
struct Seek<'a>(&'a [Vec<String>]);

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the end of the path")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((names, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(key) = map.next_key::<String>()? {
            if names.contains(&key) && !rest.is_empty() {
                return map.next_value_seed(Seek(rest));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::custom("here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((names, rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        let index: usize = names[0].parse().map_err(A::Error::custom)?;
        for _ in 0..index {
            list.next_element::<IgnoredAny>()?;
        }
        match list.next_element_seed(Seek(rest))? {
            Some(()) => Ok(()),
            None => Err(A::Error::custom("here")),
        }
    }
}
