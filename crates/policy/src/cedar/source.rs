//! From the text of policies to validated policies, and where in the text a mistake stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use cedar_policy::{
    Policy, PolicyId, PolicySet, Schema, ValidationMode, ValidationWarning, Validator, ffi::DetailedError,
};

/// Why a service cannot decide with Cedar: at least one mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct InvalidCedar(pub Vec<Mistake>);

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// As the service file has it below `authz.cedar`: `policies`, `resources[0].entity`.
    pub field: String,
    /// Line and column of the field's text, both from 1.
    pub place: Option<(usize, usize)>,
    /// The rule, the value, and the policy where it is about one.
    pub message: String,
}

/// So many are told at once; more would not be read.
const MAX_MISTAKES: usize = 10;
/// Cedar quotes what it does not understand.
const MAX_MESSAGE_CHARS: usize = 400;
/// Names of policies stand in logs.
const MAX_NAME_BYTES: usize = 64;
/// How far a policy may follow the attributes of entities: `resource.folder.team` are two steps. So the entities that a
/// request needs are known beforehand.
pub(super) const MAX_DEREFERENCES: u32 = 3;
const FIELD: &str = "policies";

impl InvalidCedar {
    /// The same mistakes, seen from the field that holds these.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        for mistake in &mut self.0 {
            mistake.field = format!("{parent}.{}", mistake.field);
        }
        self
    }

    pub(super) fn of(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl Mistake {
    /// Of a field as a whole.
    pub(super) fn at(field: &str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let mut shown: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
        if shown.len() < message.len() {
            shown.push('…');
        }
        Self { field: field.to_owned(), place: None, message: shown }
    }

    /// What Cedar says, and where it says that it is.
    pub(super) fn diagnosed<E>(field: &str, text: &str, error: &E) -> Self
    where
        for<'e> DetailedError: From<&'e E>,
    {
        let detailed = DetailedError::from(error);
        let mut message = detailed.message.clone();
        if let Some(help) = &detailed.help {
            message.push_str(&format!(" ({help})"));
        }
        let label = detailed.source_locations.first();
        let place = label.and_then(|label| place(text, label.loc.start));
        Self { place, ..Self::at(field, message) }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, place, message } = self;
        match place {
            Some((line, column)) => write!(f, "{field}: line {line}, column {column}: {message}"),
            None => write!(f, "{field}: {message}"),
        }
    }
}

/// Line and column, both from 1; a column is a character.
fn place(text: &str, offset: usize) -> Option<(usize, usize)> {
    let before = text.get(..offset).filter(|_| !text.is_empty())?;
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Some((line, column))
}

/// The policies in the order of the text, each under its name: what its annotation `@id` says, or `policy-0`, ….
pub(super) fn policies(text: &str) -> Result<Vec<Policy>, InvalidCedar> {
    let set: PolicySet =
        text.parse().map_err(|error| InvalidCedar::of(Mistake::diagnosed(FIELD, text, &error)))?;
    if let Some(template) = set.templates().next() {
        let message = format!("nothing fills the slots of a template, got `{}`", template.id());
        return Err(InvalidCedar::of(Mistake::at(FIELD, message)));
    }
    // Cedar numbers them: `policy0`, `policy1`, ….
    let numbered = set.policies().map(|policy| {
        let id: &str = policy.id().as_ref();
        (
            id.strip_prefix("policy").and_then(|number| number.parse::<usize>().ok()).unwrap_or(usize::MAX),
            policy,
        )
    });
    let numbered: BTreeMap<usize, &Policy> = numbered.collect();
    let mut names = BTreeSet::new();
    let mut policies = Vec::with_capacity(numbered.len());
    for (number, policy) in numbered {
        let name = policy.annotation("id").map_or_else(|| format!("policy-{number}"), str::to_owned);
        let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_plain || name.len() > MAX_NAME_BYTES {
            let message =
                format!("@id: 1 to {MAX_NAME_BYTES} printable characters without spaces, got {name:?}");
            return Err(InvalidCedar::of(Mistake::at(FIELD, message)));
        }
        if !names.insert(name.clone()) {
            let message = format!("@id: another one for each policy, got {name:?} twice");
            return Err(InvalidCedar::of(Mistake::at(FIELD, message)));
        }
        policies.push(policy.new_id(PolicyId::new(name)));
    }
    if policies.is_empty() {
        return Err(InvalidCedar::of(Mistake::at(FIELD, "at least one policy, got none")));
    }
    Ok(policies)
}

/// Strictly, against the schema.
pub(super) fn validate(text: &str, policies: &[Policy], schema: &Schema) -> Result<(), InvalidCedar> {
    let policies = PolicySet::from_policies(policies.iter().cloned())
        .map_err(|error| InvalidCedar::of(Mistake::diagnosed(FIELD, text, &error)))?;
    let validator = Validator::new(schema.clone());
    let result = validator.validate_with_level(&policies, ValidationMode::Strict, MAX_DEREFERENCES);
    let errors = result.validation_errors().map(|error| Mistake::diagnosed(FIELD, text, error));
    // A policy that can never apply, and text that shows in another order than it is read, are mistakes too.
    let warnings = result.validation_warnings().filter(|warning| {
        matches!(
            warning,
            ValidationWarning::ImpossiblePolicy(_)
                | ValidationWarning::BidiCharsInString(_)
                | ValidationWarning::BidiCharsInIdentifier(_)
        )
    });
    let warnings = warnings.map(|warning| Mistake::diagnosed(FIELD, text, warning));
    let mut mistakes: Vec<_> = errors.chain(warnings).collect();
    mistakes.sort_by(|a, b| (a.place, &a.message).cmp(&(b.place, &b.message)));
    mistakes.dedup();
    mistakes.truncate(MAX_MISTAKES);
    if mistakes.is_empty() { Ok(()) } else { Err(InvalidCedar(mistakes)) }
}
