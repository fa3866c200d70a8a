//! Service bindings (OSB "Binding", "Unbinding"): an API key for each client of a service. The secret is shown once.

use aws_lc_rs::rand;
use axum::{
    Extension,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use model::{
    BindingId, SecretHash, ServiceFile,
    audit::{Entry, Event},
    auth::AuthMethod,
    binding::{ApiKey, BindParameters, BindRequest, Binding, KEY_PREFIX},
    instance::{Instance, OperationKind, OperationState},
};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Put, Write};
use uuid::Uuid;

use crate::{
    Broker,
    answer::Answer,
    guard::Asking,
    instances::{MAX_TRIES, Parameters, Reply, instance_id, known_service, parse, written},
};

/// The body of a bind. Fields that we do not know are ignored, as the spec demands.
#[derive(Debug, Deserialize)]
struct BindBody {
    service_id: Option<String>,
    plan_id: Option<String>,
    /// Deprecated by OSB for the one in `bind_resource`.
    app_guid: Option<String>,
    bind_resource: Option<Value>,
    predecessor_binding_id: Option<BindingId>,
    parameters: Option<Value>,
}

/// What platforms send is an id or two.
const MAX_BIND_BYTES: usize = 4_096;
/// They lie in the instance's row, of which `DynamoDB` takes 400 KB.
const MAX_BINDINGS_BYTES: usize = 120_000;

pub(crate) async fn bind(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path((id, binding)): Path<(String, String)>,
    Query(query): Query<Parameters>,
    body: Bytes,
) -> Reply {
    let (id, binding_id) = (instance_id(&id)?, binding_id(&binding)?);
    let body: BindBody = parse(&body)?;
    known_service(body.service_id.as_deref())?;
    let app = body.app_guid.map(|app| json!({ "app_guid": app }));
    let request = BindRequest {
        service_id: body.service_id.unwrap_or_default(),
        plan_id: body.plan_id.unwrap_or_default(),
        bind_resource: body.bind_resource.or(app),
        predecessor: body.predecessor_binding_id,
        parameters: body.parameters,
    };
    let parameters = BindParameters::parse(request.parameters.as_ref())
        .map_err(|why| Answer::bad_request(format!("parameters: {why}")))?;
    let size = written(&request);
    if size > MAX_BIND_BYTES {
        let why = format!("bind_resource and parameters: at most {MAX_BIND_BYTES} bytes of JSON, got {size}");
        return Err(Answer::bad_request(why));
    }
    for _ in 0..MAX_TRIES {
        let mut instance = broker.present(&asking, &id).await?;
        same_plan(&instance, &request.plan_id)?;
        query.needs_async()?;
        if let Some(known) = instance.bindings.get(&binding_id)
            && let Some(answer) = repeated(&instance, known, &request)
        {
            return Ok(answer);
        }
        if instance.operation.in_progress() {
            return Err(Answer::concurrency());
        }
        broker.may_bind(&instance, &binding_id)?;
        let made = made(&instance, &binding_id, request.clone(), parameters.clone())?;
        // With a key in what is published and in what is proven beside it.
        let size = instance.bindings.values().chain([&made]).map(|one| written(one) + 2 * written(&one.key));
        let size: usize = size.sum();
        if size > MAX_BINDINGS_BYTES {
            return Err(Answer::unprocessable(format!(
                "the bindings of an instance: at most {MAX_BINDINGS_BYTES} bytes, got {size}; take one away first"
            )));
        }
        instance.bind(binding_id.clone(), made);
        if let Some(answer) = broker.begin(&asking, None, &instance).await? {
            return Ok(answer);
        }
    }
    Err(Answer::concurrency())
}

/// What a PUT means for a binding that is there: the same again, or a conflict. `None`: it may begin anew.
fn repeated(instance: &Instance, known: &Binding, request: &BindRequest) -> Option<Answer> {
    if known.request != *request {
        let description = "this binding exists with other attributes; take it away, or choose another id";
        return Some(Answer::refused(StatusCode::CONFLICT, description));
    }
    match (known.kind, known.state) {
        (OperationKind::Bind, OperationState::InProgress) => Some(Answer::accepted(&known.operation)),
        (OperationKind::Bind, OperationState::Succeeded) => Some(Answer::ok(given(instance, known, None))),
        // What never came, and what could not be taken away in whole: a new key.
        (_, OperationState::Failed) => None,
        _ => Some(Answer::concurrency()),
    }
}

pub(crate) async fn fetch(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path((id, binding)): Path<(String, String)>,
) -> Reply {
    let (id, binding_id) = (instance_id(&id)?, binding_id(&binding)?);
    for _ in 0..MAX_TRIES {
        let mut instance = broker.present(&asking, &id).await?;
        let known = instance.bindings.get_mut(&binding_id).filter(|known| known.is_made());
        let Some(known) = known else { return Err(unknown()) };
        let Some(secret) = known.secret.take() else {
            return Ok(Answer::ok(given(&instance, &instance.bindings[&binding_id], None)));
        };
        // It is gone from here before anybody sees it, so nobody else can.
        let entry = Entry {
            operation: known.operation.clone(),
            binding: Some(binding_id.clone()),
            ..Entry::of(&instance, Event::Shown { by: asking.caller.clone() })
        };
        match broker.store.put(Write { entry: Some(&entry), ..Write::of(&instance) }).await? {
            Put::Conflict => {}
            _ => {
                return Ok(Answer::ok(given(&instance, &instance.bindings[&binding_id], Some(&secret))));
            }
        }
    }
    Err(Answer::concurrency())
}

pub(crate) async fn last_operation(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path((id, binding)): Path<(String, String)>,
    Query(query): Query<Parameters>,
) -> Reply {
    let (id, binding_id) = (instance_id(&id)?, binding_id(&binding)?);
    let instance = broker.present(&asking, &id).await?;
    let Some(known) = instance.bindings.get(&binding_id) else {
        let was_there = instance.unbound.contains(&binding_id);
        return if was_there { Ok(Answer::Body(StatusCode::GONE, json!({}))) } else { Err(unknown()) };
    };
    query.names(&known.operation, "binding")?;
    let mut status = json!({ "state": known.state, "description": known.description });
    if known.in_progress() && instance.operation.id == known.operation {
        status["description"] = json!(instance.operation.description);
        status["steps"] = json!(instance.operation.steps);
    }
    Ok(Answer::ok(status))
}

pub(crate) async fn unbind(
    State(broker): State<Broker>,
    Extension(asking): Extension<Asking>,
    Path((id, binding)): Path<(String, String)>,
    Query(query): Query<Parameters>,
) -> Reply {
    let (id, binding_id) = (instance_id(&id)?, binding_id(&binding)?);
    query.names_service_and_plan()?;
    query.needs_async()?;
    for _ in 0..MAX_TRIES {
        let gone = || Ok(Answer::Body(StatusCode::GONE, json!({})));
        let Some(mut instance) = broker.owned(&asking, &id).await?.filter(|instance| !instance.gone) else {
            return gone();
        };
        let Some(known) = instance.bindings.get(&binding_id) else { return gone() };
        match (known.kind, known.in_progress()) {
            (OperationKind::Unbind, true) => return Ok(Answer::accepted(&known.operation)),
            _ if instance.operation.in_progress() => return Err(Answer::concurrency()),
            _ => {}
        }
        instance.unbind(&binding_id, Uuid::new_v4().to_string());
        if let Some(answer) = broker.begin(&asking, None, &instance).await? {
            return Ok(answer);
        }
    }
    Err(Answer::concurrency())
}

impl Broker {
    /// Whether the service can give a key now.
    fn may_bind(&self, instance: &Instance, id: &BindingId) -> Result<(), Answer> {
        let Some(published) = &instance.published else {
            return Err(Answer::unprocessable("the service is not live; there is nothing to bind to"));
        };
        if header(&published.service).is_none() {
            return Err(Answer::unprocessable(
                "the service takes no API keys: add `- api_key: {}` to auth.any of its service file",
            ));
        }
        let most = self.platforms.borrow().limits(instance.plan()).bindings;
        if !instance.bindings.contains_key(id) && instance.bindings.len() >= most {
            let plan = instance.plan();
            return Err(Answer::unprocessable(format!(
                "at most {most} bindings with the plan {plan}; take one away first"
            )));
        }
        Ok(())
    }
}

/// A binding with a new key.
fn made(
    instance: &Instance,
    id: &BindingId,
    request: BindRequest,
    parameters: BindParameters,
) -> Result<Binding, Answer> {
    let predecessor = match &request.predecessor {
        None => None,
        Some(before) => {
            let known = instance.bindings.get(before).filter(|known| known.is_made());
            let unknown = || format!("predecessor_binding_id: a binding of this instance, got {before:?}");
            Some(known.ok_or_else(|| Answer::bad_request(unknown()))?)
        }
    };
    // A key that takes another one's place is for the same client, where nothing else is said.
    let (subject, scopes) = match predecessor.filter(|_| request.parameters.is_none()) {
        Some(known) => (known.key.subject.clone(), known.key.scopes.clone()),
        None => (subject(id, &request, parameters.name), parameters.scopes),
    };
    let random = |_| Answer::refused(StatusCode::SERVICE_UNAVAILABLE, "the system gives no random bytes");
    let (mut key_id, mut secret, mut salt) = ([0; 8], [0; 32], [0; 32]);
    for bytes in [&mut key_id[..], &mut secret, &mut salt] {
        rand::fill(bytes).map_err(random)?;
    }
    let key_id = key_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let secret = BASE64_URL_SAFE_NO_PAD.encode(secret);
    let key = ApiKey { id: key_id, hash: SecretHash::of(&secret, salt), subject, scopes };
    Ok(Binding {
        request,
        key,
        secret: Some(secret),
        operation: Uuid::new_v4().to_string(),
        kind: OperationKind::Bind,
        state: OperationState::InProgress,
        description: "queued".into(),
    })
}

/// Who has the key: as is said, or what the platform binds, or the binding itself.
fn subject(id: &BindingId, request: &BindRequest, name: Option<String>) -> String {
    let app = request.bind_resource.as_ref().and_then(|resource| resource["app_guid"].as_str());
    let is_plain =
        |text: &&str| (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    name.or_else(|| app.filter(is_plain).map(str::to_owned)).unwrap_or_else(|| id.to_string())
}

/// What the platform gets: with the secret, or without it when it was shown before.
fn given(instance: &Instance, binding: &Binding, secret: Option<&str>) -> Value {
    let service = instance.published.as_ref().map(|published| &published.service);
    let hosts: Vec<String> =
        service.iter().flat_map(|service| &service.hosts).map(ToString::to_string).collect();
    let uris: Vec<_> = hosts.iter().map(|host| format!("https://{host}/")).collect();
    let mut credentials = json!({
        "api_key_id": binding.key.id,
        "header": service.and_then(header),
        "subject": binding.key.subject,
        "scopes": binding.key.scopes,
        "uris": uris,
    });
    if let Some(secret) = secret {
        credentials["api_key_secret"] = json!(secret);
        credentials["api_key"] = json!(format!("{KEY_PREFIX}{}_{secret}", binding.key.id));
    }
    let endpoint = |host: &String| json!({ "host": host, "ports": ["443"], "protocol": "tcp" });
    json!({
        "credentials": credentials,
        "endpoints": hosts.iter().map(endpoint).collect::<Vec<_>>(),
        "parameters": binding.request.parameters.clone().unwrap_or_else(|| json!({})),
    })
}

/// Where requests to the service carry a key; nothing, when it takes none.
fn header(service: &ServiceFile) -> Option<&str> {
    service.auth_methods().into_iter().find_map(|(_, method)| match method {
        AuthMethod::ApiKey { header } => Some(header.as_str()),
        _ => None,
    })
}

fn unknown() -> Answer {
    Answer::refused(StatusCode::NOT_FOUND, "no such binding, or it is being made or taken away")
}

fn binding_id(text: &str) -> Result<BindingId, Answer> {
    text.parse().map_err(|error: model::InvalidBindingId| Answer::bad_request(error.to_string()))
}

fn same_plan(instance: &Instance, plan_id: &str) -> Result<(), Answer> {
    if plan_id == instance.request.plan_id {
        return Ok(());
    }
    let ours = &instance.request.plan_id;
    Err(Answer::bad_request(format!("plan_id: must be {ours}, as the instance's, got {plan_id:?}")))
}
