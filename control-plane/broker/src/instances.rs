//! Service instances (OSB "Provisioning", "Updating", "Deprovisioning", "Polling Last Operation").

use axum::{
    Extension,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
};
use model::{
    InstanceId, ServiceFile,
    audit::{Entry, Event, State as Known},
    auth::{AuthMethod, IdentityForm},
    instance::{Instance, OperationKind, OperationState, Request},
    plan::Plan,
};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Put, Write};
use uuid::Uuid;

use crate::{
    Broker, SERVICE_ID, answer::Answer, catalog::MAINTENANCE_VERSION, cedar, guard::Asking,
    tenants::over_quota,
};

/// Query parameters of all calls; each uses some.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    accepts_incomplete: Option<String>,
    service_id: Option<String>,
    plan_id: Option<String>,
    operation: Option<String>,
}

impl Parameters {
    pub(crate) fn needs_async(&self) -> Result<(), Answer> {
        if self.accepts_incomplete.as_deref() == Some("true") {
            Ok(())
        } else {
            Err(Answer::async_required())
        }
    }

    /// As whoever deletes has to.
    pub(crate) fn names_service_and_plan(&self) -> Result<(), Answer> {
        known_service(self.service_id.as_deref())?;
        known_plan(self.plan_id.as_deref(), &Plan::ALL)?;
        Ok(())
    }

    /// Nothing, or the newest operation of what is polled.
    pub(crate) fn names(&self, operation: &str, of: &str) -> Result<(), Answer> {
        match &self.operation {
            Some(asked) if asked != operation => {
                Err(Answer::bad_request(format!("operation: not the newest one of this {of}")))
            }
            _ => Ok(()),
        }
    }
}

/// The body of a provision. Fields that we do not know are ignored, as the spec demands.
#[derive(Debug, Deserialize)]
struct ProvisionBody {
    service_id: Option<String>,
    plan_id: Option<String>,
    organization_guid: Option<String>,
    space_guid: Option<String>,
    maintenance_info: Option<MaintenanceInfo>,
    parameters: Option<Value>,
}

/// The body of an update.
#[derive(Debug, Deserialize)]
struct UpdateBody {
    service_id: Option<String>,
    plan_id: Option<String>,
    maintenance_info: Option<MaintenanceInfo>,
    parameters: Option<Value>,
}

/// Which version of the catalog's plan the platform means.
#[derive(Debug, Deserialize)]
struct MaintenanceInfo {
    version: String,
}

/// A row of `DynamoDB` has 400 KB, and holds what was asked for, what is published and what is proven, with keys and
/// certificates beside them. Some 800 rules of `authz` are as much.
const MAX_PARAMETERS_BYTES: usize = 80_000;
/// Tries of a conditional write that somebody else's write can undo.
pub(crate) const MAX_TRIES: usize = 5;

pub(crate) type Reply = Result<Answer, Answer>;

pub(crate) async fn provision(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path(id): Path<String>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Reply {
    let id = instance_id(&id)?;
    let (request, service, plan) = broker.checked(&asking, parse(&body)?)?;
    query.needs_async()?;
    for _ in 0..MAX_TRIES {
        let operation = Uuid::new_v4().to_string();
        let (before, instance) = match broker.store.get(&id).await? {
            None => (None, Instance::provision(id.clone(), request.clone(), operation)),
            Some(known) => match repeated(&known, &request) {
                Some(answer) => return Ok(answer),
                None => (Known::of(&known), anew(known, &request, operation)),
            },
        };
        broker.may_have(&service.hosts, &id, &request.owner, plan).await?;
        if let Some(answer) = broker.begin(&asking, before, &instance).await? {
            return Ok(answer);
        }
    }
    Err(Answer::concurrency())
}

/// What a PUT means for an instance that is there: the same again, or a conflict. `None`: it may begin anew.
fn repeated(known: &Instance, request: &Request) -> Option<Answer> {
    let same = known.request == *request;
    let operation = known.own_operation();
    let anothers = known.request.owner != request.owner;
    if known.gone && !anothers {
        return None;
    }
    if !same {
        let description = "this instance exists with other attributes; if it is yours, change it with PATCH";
        return Some(Answer::refused(StatusCode::CONFLICT, description));
    }
    match (operation.kind, operation.state) {
        (OperationKind::Deprovision, OperationState::InProgress) => Some(Answer::concurrency()),
        (_, OperationState::InProgress) => Some(Answer::accepted(&operation.id)),
        (_, OperationState::Succeeded) => Some(Answer::ok(json!({}))),
        // A failed change leaves what was live, and what the instance is said to be is that. Where nothing ever was
        // live, try again.
        (_, OperationState::Failed) => known.proven.as_ref().map(|_| Answer::ok(json!({}))),
    }
}

fn anew(mut known: Instance, request: &Request, operation: String) -> Instance {
    known.begin(OperationKind::Provision, Some(request.clone()), operation);
    known
}

pub(crate) async fn update(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path(id): Path<String>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Reply {
    let id = instance_id(&id)?;
    let body: UpdateBody = parse(&body)?;
    known_service(body.service_id.as_deref())?;
    let wanted = body.plan_id.as_deref().map(|plan| broker.offered(Some(plan))).transpose()?;
    maintained(body.maintenance_info.as_ref())?;
    query.needs_async()?;
    for _ in 0..MAX_TRIES {
        let mut instance = broker.present(&asking, &id).await?;
        // OSB: parameters that are left out stay as they are.
        let parameters = body.parameters.clone().unwrap_or_else(|| instance.request.parameters.clone());
        let plan = wanted.unwrap_or_else(|| instance.plan());
        if instance.operation.in_progress() {
            let same = parameters == instance.request.parameters && plan == instance.plan();
            // OSB: the same request again is the operation that it began.
            return match instance.operation.kind {
                OperationKind::Update if same => Ok(Answer::accepted(&instance.operation.id)),
                _ => Err(Answer::concurrency()),
            };
        }
        let service = broker.check_parameters(&parameters, plan)?;
        let unchanged = parameters == instance.request.parameters && plan == instance.plan();
        if unchanged && instance.operation.state == OperationState::Succeeded {
            return Ok(Answer::ok(json!({})));
        }
        broker.may_have(&service.hosts, &id, &instance.request.owner, plan).await?;
        let before = Known::of(&instance);
        let request = Request { parameters, plan_id: plan.id().into(), ..instance.request.clone() };
        instance.begin(OperationKind::Update, Some(request), Uuid::new_v4().to_string());
        if let Some(answer) = broker.begin(&asking, before, &instance).await? {
            return Ok(answer);
        }
    }
    Err(Answer::concurrency())
}

pub(crate) async fn deprovision(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path(id): Path<String>,
    Query(query): Query<Parameters>,
) -> Reply {
    let id = instance_id(&id)?;
    query.names_service_and_plan()?;
    query.needs_async()?;
    for _ in 0..MAX_TRIES {
        let Some(mut instance) = broker.owned(&asking, &id).await?.filter(|instance| !instance.gone) else {
            return Ok(Answer::Body(StatusCode::GONE, json!({})));
        };
        let operation = &instance.operation;
        match (operation.kind, operation.in_progress()) {
            (OperationKind::Deprovision, true) => return Ok(Answer::accepted(&operation.id)),
            (_, true) => return Err(Answer::concurrency()),
            (_, false) => {}
        }
        let before = Known::of(&instance);
        instance.begin(OperationKind::Deprovision, None, Uuid::new_v4().to_string());
        if let Some(answer) = broker.begin(&asking, before, &instance).await? {
            return Ok(answer);
        }
    }
    Err(Answer::concurrency())
}

pub(crate) async fn fetch(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path(id): Path<String>,
) -> Reply {
    let instance = broker.present(&asking, &instance_id(&id)?).await?;
    let operation = instance.own_operation();
    match (operation.kind, operation.in_progress()) {
        (OperationKind::Provision, true) => Err(unknown()),
        (_, true) => Err(Answer::concurrency()),
        (_, false) => Ok(Answer::ok(json!({
            "service_id": instance.request.service_id,
            "plan_id": instance.request.plan_id,
            "parameters": instance.request.parameters,
            "maintenance_info": { "version": MAINTENANCE_VERSION },
            // Beside what the spec defines: for our own client.
            "bindings": bindings(&instance),
        }))),
    }
}

pub(crate) async fn last_operation(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path(id): Path<String>,
    Query(query): Query<Parameters>,
) -> Reply {
    let instance = broker.owned(&asking, &instance_id(&id)?).await?.ok_or_else(unknown)?;
    let operation = instance.own_operation();
    query.names(&operation.id, "instance")?;
    if instance.gone {
        return Ok(Answer::Body(StatusCode::GONE, json!({})));
    }
    let mut status = json!({
        "state": operation.state,
        "description": operation.description,
        // Beside what the spec defines: for our own client.
        "steps": operation.steps,
        "revision": instance.revision,
    });
    if operation.state == OperationState::Failed && operation.kind != OperationKind::Provision {
        status["instance_usable"] = json!(instance.published.is_some());
        if operation.kind == OperationKind::Update {
            status["update_repeatable"] = json!(true);
        }
    }
    Ok(Answer::ok(status))
}

fn bindings(instance: &Instance) -> Vec<Value> {
    let bindings = instance.bindings.iter().map(|(id, binding)| {
        json!({
            "id": id, "api_key_id": binding.key.id, "subject": binding.key.subject, "scopes": binding.key.scopes,
            "kind": binding.kind, "state": binding.state,
        })
    });
    bindings.collect()
}

impl Broker {
    /// Writes an instance whose operation has just begun. `None`: somebody else wrote first.
    pub(crate) async fn begin(
        &self,
        asking: &Asking,
        before: Option<Known>,
        instance: &Instance,
    ) -> Result<Option<Answer>, Answer> {
        let kind = instance.operation.kind;
        let is_left = matches!(kind, OperationKind::Provision | OperationKind::Update);
        let after = Known::of(instance).filter(|_| is_left);
        let entry = Entry::of(instance, Event::Asked { kind, by: asking.caller.clone(), before, after });
        let owner = &instance.request.owner;
        let most = self.most_instances(owner);
        let write = Write { job: Some(&instance.job()), entry: Some(&entry), most, ..Write::of(instance) };
        match self.store.put(write).await? {
            Put::OverQuota => Err(over_quota(owner, most)),
            Put::Stored(stored) => {
                let operation = &stored.operation;
                tracing::info!(instance = %stored.id, operation = operation.id, kind = ?operation.kind, "begun");
                Ok(Some(Answer::accepted(&operation.id)))
            }
            Put::Conflict => Ok(None),
        }
    }

    /// Other platforms' instances do not exist for this one, nor do other tenants' for one that its token names.
    pub(crate) async fn owned(&self, asking: &Asking, id: &InstanceId) -> Result<Option<Instance>, Answer> {
        let found = self.store.get(id).await?;
        let is_its = |instance: &Instance| {
            let owner = &instance.request.owner;
            owner.platform == asking.platform && asking.tenants.hold(&owner.tenant)
        };
        Ok(found.filter(is_its))
    }

    pub(crate) async fn present(&self, asking: &Asking, id: &InstanceId) -> Result<Instance, Answer> {
        self.owned(asking, id).await?.filter(|instance| !instance.gone).ok_or_else(unknown)
    }

    fn checked(&self, asking: &Asking, body: ProvisionBody) -> Result<(Request, ServiceFile, Plan), Answer> {
        known_service(body.service_id.as_deref())?;
        let plan = self.offered(body.plan_id.as_deref())?;
        maintained(body.maintenance_info.as_ref())?;
        let parameters = body
            .parameters
            .ok_or_else(|| Answer::bad_request("parameters: the service file, got nothing"))?;
        let service = self.check_parameters(&parameters, plan)?;
        let organization_guid = needed("organization_guid", body.organization_guid)?;
        let space_guid = needed("space_guid", body.space_guid)?;
        let request = Request {
            owner: self.owner(asking, &organization_guid, &space_guid)?,
            service_id: SERVICE_ID.into(),
            plan_id: plan.id().into(),
            organization_guid,
            space_guid,
            parameters,
        };
        Ok((request, service, plan))
    }

    fn offered(&self, plan_id: Option<&str>) -> Result<Plan, Answer> {
        known_plan(plan_id, &self.plans)
    }

    fn check_parameters(&self, parameters: &Value, plan: Plan) -> Result<ServiceFile, Answer> {
        let refused = |why: String| Err(Answer::bad_request(format!("parameters: {why}")));
        let size = written(parameters);
        if size > MAX_PARAMETERS_BYTES {
            return refused(format!("at most {MAX_PARAMETERS_BYTES} bytes of JSON, got {size}"));
        }
        let service = ServiceFile::parse(parameters, self.upstreams)
            .map_err(|error| Answer::bad_request(format!("parameters: {error}")))?;
        if let Some(other) = service.plan.filter(|other| *other != plan) {
            return refused(format!("plan: {plan}, which is what is ordered, got {other}"));
        }
        let limits = self.platforms.borrow().limits(plan);
        for (what, most, has) in
            [("hosts", limits.hosts, service.hosts.len()), ("routes", limits.routes, service.routes.len())]
        {
            if has > most {
                return refused(format!("{what}: at most {most} with the plan {plan}, got {has}"));
            }
        }
        if service.auth.identity == IdentityForm::Token && !self.edge.signs_identities {
            return refused("auth.identity: this edge signs no identity tokens, got \"token\"".to_owned());
        }
        for (place, method) in service.auth_methods() {
            self.check_method(&place, method)
                .map_err(|why| Answer::bad_request(format!("parameters: {why}")))?;
        }
        if let Some(cedar) = &service.authz.cedar {
            cedar::check(cedar).map_err(|why| Answer::bad_request(format!("parameters: {why}")))?;
        }
        Ok(service)
    }

    /// What could never let anybody in here is refused.
    fn check_method(&self, place: &str, method: &AuthMethod) -> Result<(), String> {
        let one_of = |known: Vec<&str>, field: &str, what: &str, got: &str| {
            if known.contains(&got) {
                return Ok(());
            }
            Err(format!("{place}.{field}: one {what} ({}), got {got:?}", known.join(", ")))
        };
        let with_keys = |field: &str, got: &str| {
            one_of(self.issuers.borrow().names().collect(), field, "that operators have configured", got)
        };
        match method {
            AuthMethod::Jwt { token, sender_constrained } => {
                with_keys("jwt.issuer", &token.issuer)?;
                match sender_constrained.as_deref() {
                    Some("mtls") => self.needs_certificates(place, "jwt.sender_constrained"),
                    _ => Ok(()),
                }
            }
            AuthMethod::Session { token, .. } => with_keys("session.issuer", &token.issuer),
            AuthMethod::Asap { key_server, .. } => {
                let known = self.issuers.borrow();
                let known = known.key_servers().collect();
                one_of(known, "asap.key_server", "that operators have configured", key_server)
            }
            AuthMethod::Introspection { provider, .. } => {
                let known = self.edge.introspection.iter().map(String::as_str).collect();
                one_of(known, "introspection.provider", "that the edge asks", provider)
            }
            AuthMethod::Mtls { .. } => self.needs_certificates(place, "mtls"),
            AuthMethod::ApiKey { .. } | AuthMethod::Basic { .. } => Ok(()),
        }
    }

    fn needs_certificates(&self, place: &str, field: &str) -> Result<(), String> {
        if self.edge.asks_for_certificates {
            return Ok(());
        }
        Err(format!("{place}.{field}: this edge has no listener that asks clients for certificates"))
    }
}

/// Bytes of JSON, as it lies in the store.
pub(crate) fn written(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

fn maintained(info: Option<&MaintenanceInfo>) -> Result<(), Answer> {
    match info {
        Some(info) if info.version != MAINTENANCE_VERSION => {
            Err(Answer::maintenance_info(MAINTENANCE_VERSION, &info.version))
        }
        _ => Ok(()),
    }
}

fn unknown() -> Answer {
    Answer::refused(StatusCode::NOT_FOUND, "no such service instance")
}

pub(crate) fn instance_id(text: &str) -> Result<InstanceId, Answer> {
    text.parse().map_err(|error: model::InvalidInstanceId| Answer::bad_request(error.to_string()))
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Answer> {
    serde_json::from_slice(body)
        .map_err(|error| Answer::bad_request(format!("the body must be JSON: {error}")))
}

fn needed(field: &str, value: Option<String>) -> Result<String, Answer> {
    value
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Answer::bad_request(format!("{field}: must be there")))
}

pub(crate) fn known_service(id: Option<&str>) -> Result<(), Answer> {
    match id {
        Some(SERVICE_ID) => Ok(()),
        other => Err(Answer::bad_request(format!(
            "service_id: must be {SERVICE_ID}, got {:?}",
            other.unwrap_or("")
        ))),
    }
}

fn known_plan(id: Option<&str>, known: &[Plan]) -> Result<Plan, Answer> {
    let id = id.unwrap_or_default();
    let found = Plan::of_id(id).filter(|plan| known.contains(plan));
    found.ok_or_else(|| {
        let known: Vec<_> = known.iter().map(|plan| format!("{} ({plan})", plan.id())).collect();
        Answer::bad_request(format!("plan_id: must be one of {}, got {id:?}", known.join(", ")))
    })
}
