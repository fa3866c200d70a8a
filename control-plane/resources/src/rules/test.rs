//! One rule for one value.

use std::{cmp::Ordering, fmt, net::IpAddr};

use prost_reflect::{DynamicMessage, EnumDescriptor, ReflectMessage as _, Value};
use regex::Regex;

/// What a value has to pass. Its `Display` is the rule, in words.
#[derive(Debug)]
pub(super) enum Test {
    Is(Value),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Less(Quantity),
    AtMost(Quantity),
    More(Quantity),
    AtLeast(Quantity),
    /// Outside of what lies between two bounds, of which the upper comes first in number.
    Outside(Vec<Test>),
    /// Characters, bytes or items.
    Length(Measure, Box<Test>),
    Pattern(Regex),
    Header(Regex, &'static str),
    Prefix(String),
    Suffix(String),
    Contains(String),
    NotContains(String),
    Address(AddressKind),
    Defined(EnumDescriptor),
    Unique,
    /// A rule of a newer protoc-gen-validate: rather refused than passed over.
    Unknown(String),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Measure {
    Characters,
    Bytes,
    Items,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum AddressKind {
    Any,
    V4,
    V6,
}

/// A number, or a duration in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Quantity {
    Int(i128),
    Float(f64),
    Nanos(i128),
}

const NANOS: i128 = 1_000_000_000;
/// Enough to recognise a value.
const MAX_SHOWN_CHARS: usize = 100;

const HEADER_NAME: &str = "^:?[0-9a-zA-Z!#$%&'*+\\-.^_|~\x60]+$";
const HEADER_VALUE: &str = "^[^\\x00-\\x08\\x0A-\\x1F\\x7F]*$";
/// What is asked of either when it is not strict.
const HEADER_LOOSE: &str = "^[^\\x00\\x0A\\x0D]*$";

impl Test {
    /// `None` for a rule that asks nothing.
    pub(super) fn read(
        of: Option<&EnumDescriptor>,
        kind: &str,
        of_kind: &DynamicMessage,
        rule: &str,
        value: &Value,
    ) -> Option<Self> {
        let unknown = || Self::Unknown(format!("{kind}.{rule}"));
        let bound = |make: fn(Quantity) -> Self| Quantity::of(value).map_or_else(unknown, make);
        let length = |measure, make: fn(Quantity) -> Self| {
            let test = Quantity::of(value).map(make);
            test.map_or_else(unknown, |test| Self::Length(measure, Box::new(test)))
        };
        let text =
            |make: fn(String) -> Self| value.as_str().map_or_else(unknown, |text| make(text.to_owned()));
        let regex = |pattern: &str| Regex::new(pattern).ok();
        let is_bytes = kind == "bytes";
        let characters = if is_bytes { Measure::Bytes } else { Measure::Characters };
        Some(match rule {
            "const" => Self::Is(value.clone()),
            "in" => value.as_list().map_or_else(unknown, |values| Self::In(values.to_vec())),
            "not_in" => value.as_list().map_or_else(unknown, |values| Self::NotIn(values.to_vec())),
            "lt" | "lte" | "gt" | "gte" if is_outside(of_kind) => Self::outside(of_kind, rule)?,
            "lt" => bound(Self::Less),
            "lte" => bound(Self::AtMost),
            "gt" => bound(Self::More),
            "gte" => bound(Self::AtLeast),
            "len" => Self::Length(characters, Box::new(Self::Is(value.clone()))),
            "len_bytes" => Self::Length(Measure::Bytes, Box::new(Self::Is(value.clone()))),
            "min_len" => length(characters, Self::AtLeast),
            "max_len" => length(characters, Self::AtMost),
            "min_bytes" => length(Measure::Bytes, Self::AtLeast),
            "max_bytes" => length(Measure::Bytes, Self::AtMost),
            "min_items" | "min_pairs" => length(Measure::Items, Self::AtLeast),
            "max_items" | "max_pairs" => length(Measure::Items, Self::AtMost),
            "pattern" if !is_bytes => value.as_str().and_then(regex).map_or_else(unknown, Self::Pattern),
            "prefix" if !is_bytes => text(Self::Prefix),
            "suffix" if !is_bytes => text(Self::Suffix),
            "contains" if !is_bytes => text(Self::Contains),
            "not_contains" => text(Self::NotContains),
            "ip" if !is_bytes => Self::Address(AddressKind::Any),
            "ipv4" if !is_bytes => Self::Address(AddressKind::V4),
            "ipv6" if !is_bytes => Self::Address(AddressKind::V6),
            "well_known_regex" => header(of_kind, value).unwrap_or_else(unknown),
            // `strict` is read with the rule that it belongs to. Of messages only wrappers are skipped, which hold
            // no rules.
            "strict" | "skip" => return None,
            "defined_only" | "unique" if value.as_bool() == Some(false) => return None,
            "defined_only" => of.cloned().map_or_else(unknown, Self::Defined),
            "unique" => Self::Unique,
            _ => unknown(),
        })
    }

    /// With the upper bound below the lower one both are read together, once.
    fn outside(of_kind: &DynamicMessage, rule: &str) -> Option<Self> {
        if rule.starts_with('g') {
            return None;
        }
        let bound = |name: &str, make: fn(Quantity) -> Self| {
            let is_set = of_kind.has_field_by_name(name);
            Quantity::of(&*of_kind.get_field_by_name(name)?).filter(|_| is_set).map(make)
        };
        let bounds = [
            bound("lt", Self::Less),
            bound("lte", Self::AtMost),
            bound("gt", Self::More),
            bound("gte", Self::AtLeast),
        ];
        Some(Self::Outside(bounds.into_iter().flatten().collect()))
    }

    pub(super) fn passes(&self, value: &Value) -> bool {
        let quantity = |test: fn(Ordering) -> bool, bound: &Quantity| {
            Quantity::of(value).is_none_or(|value| value.compare(bound).is_some_and(test))
        };
        let wrapped = unwrapped(value);
        let value = wrapped.as_ref().unwrap_or(value);
        let text = |test: &dyn Fn(&str) -> bool| value.as_str().is_none_or(test);
        match self {
            Self::Is(wanted) => is_same(value, wanted),
            Self::In(values) => values.iter().any(|wanted| is_same(value, wanted)),
            Self::NotIn(values) => !values.iter().any(|wanted| is_same(value, wanted)),
            Self::Less(bound) => quantity(Ordering::is_lt, bound),
            Self::AtMost(bound) => quantity(Ordering::is_le, bound),
            Self::More(bound) => quantity(Ordering::is_gt, bound),
            Self::AtLeast(bound) => quantity(Ordering::is_ge, bound),
            Self::Outside(bounds) => bounds.iter().any(|bound| bound.passes(value)),
            Self::Length(measure, test) => {
                measure.of(value).is_none_or(|length| test.passes(&Value::U64(length)))
            }
            Self::Pattern(regex) | Self::Header(regex, _) => text(&|text| regex.is_match(text)),
            Self::Prefix(part) => text(&|text| text.starts_with(part)),
            Self::Suffix(part) => text(&|text| text.ends_with(part)),
            Self::Contains(part) => text(&|text| text.contains(part)),
            Self::NotContains(part) => text(&|text| !text.contains(part)),
            Self::Address(kind) => text(&|text| kind.fits(text)),
            Self::Defined(of) => value.as_enum_number().is_none_or(|number| of.get_value(number).is_some()),
            Self::Unique => {
                let Some(items) = value.as_list() else { return true };
                items.iter().enumerate().all(|(at, item)| !items[..at].contains(item))
            }
            Self::Unknown(_) => false,
        }
    }
}

fn is_outside(of_kind: &DynamicMessage) -> bool {
    let bound = |names: [&str; 2]| {
        let set = names.into_iter().find(|name| of_kind.has_field_by_name(name))?;
        Quantity::of(&*of_kind.get_field_by_name(set)?)
    };
    let (upper, lower) = (bound(["lt", "lte"]), bound(["gt", "gte"]));
    upper.zip(lower).is_some_and(|(upper, lower)| upper.compare(&lower) == Some(Ordering::Less))
}

/// `well_known_regex`, strict unless it says otherwise. The expressions are those of protoc-gen-validate.
fn header(of_kind: &DynamicMessage, value: &Value) -> Option<Test> {
    let is_strict = of_kind.get_field_by_name("strict")?.as_bool()?;
    let (pattern, what) = match (value.as_enum_number()?, is_strict) {
        (1, true) => (HEADER_NAME, "the name of a header (RFC 9110, section 5.1)"),
        (2, true) => (HEADER_VALUE, "the value of a header, without control characters"),
        (1 | 2, false) => (HEADER_LOOSE, "without NUL, CR and LF"),
        _ => return None,
    };
    Some(Test::Header(Regex::new(pattern).ok()?, what))
}

/// Enums are compared with the numbers of their rules.
fn is_same(value: &Value, wanted: &Value) -> bool {
    match (Quantity::of(value), Quantity::of(wanted)) {
        (Some(value), Some(wanted)) => value.compare(&wanted) == Some(Ordering::Equal),
        _ => value == wanted,
    }
}

/// What a wrapper of `google/protobuf/wrappers.proto` holds.
fn unwrapped(value: &Value) -> Option<Value> {
    let message = value.as_message()?;
    let descriptor = message.descriptor();
    let name = descriptor.full_name().strip_prefix("google.protobuf.")?;
    name.ends_with("Value").then(|| message.get_field_by_name("value").map(std::borrow::Cow::into_owned))?
}

/// Whether a value is what it is when nothing is said.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        Value::Bool(is) => !is,
        _ => {
            matches!(Quantity::of(value), Some(Quantity::Int(0)))
                || Quantity::of(value).is_some_and(|value| value == Quantity::Float(0.0))
        }
    }
}

/// A value for people, shortened.
pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("{text:?}"),
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::List(items) => format!("{} items", items.len()),
        Value::Map(entries) => format!("{} entries", entries.len()),
        _ => match Quantity::of(value) {
            Some(quantity) => quantity.to_string(),
            None => unwrapped(value).map_or_else(|| value.to_string(), |inner| shown(&inner)),
        },
    };
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

impl Quantity {
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::I32(number) | Value::EnumNumber(number) => Self::Int((*number).into()),
            Value::I64(number) => Self::Int((*number).into()),
            Value::U32(number) => Self::Int((*number).into()),
            Value::U64(number) => Self::Int((*number).into()),
            Value::F32(number) => Self::Float((*number).into()),
            Value::F64(number) => Self::Float(*number),
            Value::Message(message) => match message.descriptor().full_name() {
                "google.protobuf.Duration" | "google.protobuf.Timestamp" => {
                    let secs = i128::from(message.get_field_by_name("seconds")?.as_i64()?);
                    let nanos = i128::from(message.get_field_by_name("nanos")?.as_i32()?);
                    Self::Nanos(secs * NANOS + nanos)
                }
                _ => return Self::of(&unwrapped(value)?),
            },
            _ => return None,
        })
    }

    /// `None` for what has no order: NaN breaks every bound.
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) | (Self::Nanos(a), Self::Nanos(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            _ => None,
        }
    }
}

impl Measure {
    fn of(self, value: &Value) -> Option<u64> {
        let length = match (self, value) {
            (Self::Characters, Value::String(text)) => text.chars().count(),
            (Self::Bytes, Value::String(text)) => text.len(),
            (Self::Bytes, Value::Bytes(bytes)) => bytes.len(),
            (Self::Items, Value::List(items)) => items.len(),
            (Self::Items, Value::Map(entries)) => entries.len(),
            _ => return None,
        };
        Some(length as u64)
    }
}

impl AddressKind {
    fn fits(self, text: &str) -> bool {
        text.parse::<IpAddr>().is_ok_and(|address| match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Nanos(nanos) => {
                let (sign, nanos) = (if *nanos < 0 { "-" } else { "" }, nanos.abs());
                let fraction = format!("{:09}", nanos % NANOS);
                let fraction = fraction.trim_end_matches('0');
                let dot = if fraction.is_empty() { "" } else { "." };
                write!(f, "{sign}{}{dot}{fraction}s", nanos / NANOS)
            }
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[Value]| values.iter().map(shown).collect::<Vec<_>>().join(", ");
        match self {
            Self::Is(value) => write!(f, "must be {}", shown(value)),
            Self::In(values) => write!(f, "one of {}", list(values)),
            Self::NotIn(values) => write!(f, "none of {}", list(values)),
            Self::Less(bound) => write!(f, "less than {bound}"),
            Self::AtMost(bound) => write!(f, "at most {bound}"),
            Self::More(bound) => write!(f, "more than {bound}"),
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
            Self::Outside(bounds) => {
                let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
                f.write_str(&bounds.join(" or "))
            }
            Self::Length(measure, test) => write!(
                f,
                "{test} {}",
                match measure {
                    Measure::Characters => "characters",
                    Measure::Bytes => "bytes",
                    Measure::Items => "items",
                }
            ),
            Self::Pattern(regex) => write!(f, "must match `{regex}`"),
            Self::Header(_, what) => f.write_str(what),
            Self::Prefix(part) => write!(f, "must begin with {part:?}"),
            Self::Suffix(part) => write!(f, "must end with {part:?}"),
            Self::Contains(part) => write!(f, "must contain {part:?}"),
            Self::NotContains(part) => write!(f, "must not contain {part:?}"),
            Self::Address(AddressKind::Any) => f.write_str("an IP address"),
            Self::Address(AddressKind::V4) => f.write_str("an IPv4 address"),
            Self::Address(AddressKind::V6) => f.write_str("an IPv6 address"),
            Self::Defined(of) => write!(f, "a value of {}", of.full_name()),
            Self::Unique => f.write_str("no item twice"),
            Self::Unknown(rule) => write!(f, "the rule {rule} is not known to this release"),
        }
    }
}
