//! The advanced engine: policies in the language Cedar beside the rules. What does not validate against the schema is
//! refused before it is in force; what fails while a request is decided denies it.
//!
//! A request is asked about as `principal, action, resource, context`: a [`User`](schema) in its `Group`s, the HTTP
//! method, the entity that the path is mapped to or else a `Path`, and what is known of the request. Nobody, the
//! anonymous request, never comes here.

mod combine;
mod entities;
mod schema;
mod slices;
mod source;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::SystemTime};

use api::{
    cedar::{Cedar, DecodedPath, Found, Mapping},
    path::RequestPath,
};
use cedar_policy::{
    Authorizer, Context, Decision, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Response,
    RestrictedExpression,
};
use time::OffsetDateTime;

pub use combine::{Said, Stands, combine};
pub use source::{InvalidCedar, Mistake};

use entities::Store;
use schema::{METHODS, PATH};
use slices::Slices;

/// The policies of a service, ready to decide.
#[derive(Debug)]
pub struct Compiled {
    mappings: Vec<Target>,
    path_type: EntityTypeName,
    actions: Vec<EntityUid>,
    /// By their names, in the order of the text.
    names: Vec<PolicyId>,
    slices: Slices,
    store: Store,
    authorizer: Authorizer,
    needs_address: bool,
    needs_time: bool,
}

/// Where a mapping leads.
#[derive(Debug)]
struct Target {
    mapping: Mapping,
    entity: EntityTypeName,
}

/// Who sends a request: what authentication put into the metadata, never a header.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Never empty: nobody is not asked about.
    pub subject: &'a str,
    /// Who says so, where somebody does.
    pub issuer: Option<&'a str>,
    /// Whom the subject belongs to.
    pub tenant: Option<&'a str>,
    /// How it was proven: `jwt`, `mtls`, …
    pub method: &'a str,
    /// What it may do.
    pub scopes: &'a [&'a str],
    /// What it is a member of.
    pub groups: &'a [&'a str],
}

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// As on the wire.
    pub method: &'a str,
    /// What the client called; without a port. Policies see it in lower case.
    pub host: &'a str,
    /// Without its query.
    pub path: RequestPath<'a>,
    /// Of the client. Where it is not known, a policy that asks for it is in error.
    pub address: Option<IpAddr>,
    /// When it came. Where it is not known, a policy that asks for it is in error.
    pub time: Option<SystemTime>,
    /// Who sends it.
    pub identity: Identity<'a>,
}

/// What Cedar says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// A policy permits it, and none forbids it.
    Permit(&'a str),
    /// A policy forbids it, whatever others say.
    Forbid(&'a str),
    /// No policy is about it.
    Neither,
    /// A policy, or what it would have been asked, is in error. Cedar itself would go on without that policy, even if it
    /// is the one that forbids: here nothing passes.
    Failed {
        /// The policy, or `request`.
        policy: &'a str,
        /// For operators.
        cause: String,
    },
}

impl Verdict<'_> {
    /// What stands in logs and metadata for the rule that decided: `cedar:<policy>`, or `cedar-error:<policy>`.
    pub fn told(&self) -> String {
        match self {
            Self::Permit(policy) | Self::Forbid(policy) => format!("cedar:{policy}"),
            Self::Neither => "default".to_owned(),
            Self::Failed { policy, .. } => format!("cedar-error:{policy}"),
        }
    }
}

/// A request with a longer path is denied: `like` looks at each character again for each character of a pattern.
const MAX_PATH_BYTES: usize = 2_048;
/// What failed, where it was no policy.
const REQUEST: &str = "request";

impl Compiled {
    /// Reads and validates the texts.
    ///
    /// # Errors
    /// Each mistake with its field, its line and column in the text, and its policy.
    pub fn new(cedar: &Cedar) -> Result<Self, InvalidCedar> {
        let schema = schema::read(&cedar.schema, &cedar.resources)?;
        let policies = source::policies(&cedar.policies)?;
        let store = Store::read(cedar.entities.as_deref(), &schema)?;
        let path_type = schema::entity_type(PATH)?;
        let actions = METHODS.iter().map(|method| schema::action(method)).collect::<Result<Vec<_>, _>>()?;
        let mappings = (cedar.resources.iter())
            .map(|mapping| {
                let entity = schema::entity_type(&mapping.entity)?;
                Ok(Target { mapping: mapping.clone(), entity })
            })
            .collect::<Result<Vec<_>, InvalidCedar>>()?;
        let targets = mappings.iter().map(|target| &target.entity).chain([&path_type]);
        let slices = Slices::cut(&policies, &actions, targets)?;
        // This takes longest, and its time grows with what the slices bound.
        source::validate(&cedar.policies, &policies, &schema)?;
        let names = policies.iter().map(|policy| policy.id().clone()).collect();
        // More than there are: what is not asked for at all is told from the text, in which a name can be escaped.
        let may_ask = |name: &str| cedar.policies.contains(name) || cedar.policies.contains('\\');
        let (needs_address, needs_time) = (may_ask("address"), may_ask("time"));
        let authorizer = Authorizer::new();
        Ok(Self { mappings, path_type, actions, names, slices, store, authorizer, needs_address, needs_time })
    }

    /// Whether a policy may ask where the client is.
    pub fn needs_address(&self) -> bool {
        self.needs_address
    }

    /// Whether a policy may ask when a request came.
    pub fn needs_time(&self) -> bool {
        self.needs_time
    }

    /// Decides one request.
    pub fn decide(&self, request: &Request<'_>) -> Verdict<'_> {
        self.decide_among(request, |at| self.slices.get(at))
    }

    /// How many policies are looked at for such a request: what its cost grows with.
    pub fn policies_for(&self, method: &str, path: RequestPath<'_>) -> usize {
        let path = DecodedPath::from(path);
        let place = self.place(method, &path).map(|(place, _)| place);
        place.and_then(|place| self.slices.get(place)).map_or(0, PolicySet::num_of_policies)
    }

    fn decide_among<'s>(
        &'s self,
        request: &Request<'_>,
        policies: impl FnOnce(Place) -> Option<&'s PolicySet>,
    ) -> Verdict<'s> {
        let failed = |cause: String| Verdict::Failed { policy: REQUEST, cause };
        if request.path.as_str().len() > MAX_PATH_BYTES {
            return failed(format!(
                "path: at most {MAX_PATH_BYTES} bytes, got {}",
                request.path.as_str().len()
            ));
        }
        let path = DecodedPath::from(request.path);
        let Some((place, found)) = self.place(request.method, &path) else {
            return failed(format!("method: one of {}, got {:?}", METHODS.join(", "), request.method));
        };
        let Some(policies) = policies(place) else { return failed("no policies were cut for it".into()) };
        match self.ask(request, &path, place, found, policies) {
            Ok(response) => self.verdict(&response),
            Err(cause) => failed(cause),
        }
    }

    /// Which slice a request belongs to, and the entity that it is about where that is no `Path`.
    fn place<'a>(&'a self, method: &str, path: &'a DecodedPath<'_>) -> Option<(Place, Option<Found<'a>>)> {
        let action = METHODS.iter().position(|known| *known == method)?;
        let found = (self.mappings.iter().enumerate())
            .find_map(|(at, target)| target.mapping.find(path).map(|found| (at, found)));
        Some(match found {
            Some((target, found)) => (Place { target, action }, Some(found)),
            None => (Place { target: self.mappings.len(), action }, None),
        })
    }

    fn ask(
        &self,
        request: &Request<'_>,
        path: &DecodedPath<'_>,
        place: Place,
        found: Option<Found<'_>>,
        policies: &PolicySet,
    ) -> Result<Response, String> {
        let (entity, id, captures) = match (self.mappings.get(place.target), found) {
            (Some(target), Some(Found { id, captures })) => (&target.entity, id, captures),
            _ => (&self.path_type, path.as_str().to_owned(), Vec::new()),
        };
        let resource = EntityUid::from_type_name_and_id(entity.clone(), EntityId::new(id));
        let (principal, entities) = self.store.around(&request.identity, &resource)?;
        let context = context(request, path, &captures)?;
        let action = self.actions.get(place.action).cloned().ok_or("method: without an action")?;
        let asked = cedar_policy::Request::new(principal, action, resource, context, None)
            .map_err(|error| error.to_string())?;
        Ok(self.authorizer.is_authorized(&asked, policies, &entities))
    }

    fn verdict(&self, response: &Response) -> Verdict<'_> {
        let diagnostics = response.diagnostics();
        if let Some(error) = diagnostics.errors().next() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(inner) = error;
            let policy = self.first(|name| name == inner.policy_id());
            return Verdict::Failed { policy, cause: error.to_string() };
        }
        let is_reason = |name: &PolicyId| diagnostics.reason().any(|reason| reason == name);
        match response.decision() {
            Decision::Allow => Verdict::Permit(self.first(is_reason)),
            Decision::Deny if diagnostics.reason().next().is_some() => Verdict::Forbid(self.first(is_reason)),
            Decision::Deny => Verdict::Neither,
        }
    }

    /// Several policies can be the reason; the one that stands first is told.
    fn first(&self, is_it: impl Fn(&PolicyId) -> bool) -> &str {
        self.names.iter().find(|name| is_it(name)).map_or(REQUEST, AsRef::as_ref)
    }
}

/// Which slice of the policies: by the mapping, where the last stands for `Path`, and the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    target: usize,
    action: usize,
}

fn context(
    request: &Request<'_>,
    path: &DecodedPath<'_>,
    captures: &[(&str, &str)],
) -> Result<Context, String> {
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let captures = captures.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
    let captures = RestrictedExpression::new_record(captures).map_err(|error| error.to_string())?;
    let fields = [
        // A name is the same however it is written, and Cedar compares texts.
        ("host", RestrictedExpression::new_string(request.host.to_ascii_lowercase())),
        ("path", text(path.as_str())),
        ("captures", captures),
    ];
    let address = request.address.map(|address| RestrictedExpression::new_ip(address.to_string()));
    let time = request.time.map(|time| RestrictedExpression::new_datetime(written(time)));
    let known = [("address", address), ("time", time)];
    let known = known.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let fields = fields.into_iter().chain(known).map(|(name, value)| (name.to_owned(), value));
    Context::from_pairs(fields).map_err(|error| error.to_string())
}

/// As Cedar reads it: `2026-01-02T03:04:05Z`.
fn written(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (date, (hour, minute, second)) = (time.date(), time.to_hms());
    format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
}
