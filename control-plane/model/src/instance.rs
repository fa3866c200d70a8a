//! A service instance, as the store keeps it: what was asked for, what is published, and what the fleet has
//! proven to run.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    BindingId, Host, InstanceId, InvalidService, ServiceFile, UpstreamRule,
    binding::{ApiKey, Binding},
    job::Job,
    plan::{Limits, Plan},
    platforms::Owner,
};

/// A service instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// From the platform.
    pub id: InstanceId,
    /// What the platform asked for, kept as it came, to tell a repeat from a conflict.
    pub request: Request,
    /// Counts the changes of the parameters; named by routes and policies, so never used twice,
    /// not even after the instance was deleted and made again.
    pub revision: u64,
    /// What the control plane renders.
    pub published: Option<Published>,
    /// The newest of `published` that the fleet has acknowledged: where a refused change returns to.
    pub proven: Option<Published>,
    /// Served to the hosts' clients by SDS.
    pub certificate: Option<Certificate>,
    /// What stands in front of the edge for it.
    #[serde(default)]
    pub distribution: Option<Distribution>,
    /// Certificates that are served no more, by their issuer's names for them: to be discarded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// Given to its clients.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bindings: BTreeMap<BindingId, Binding>,
    /// Those that were taken away last, so that their platforms can be told so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unbound: Vec<BindingId>,
    /// The newest operation.
    pub operation: Operation,
    /// The instance's own newest operation, while `operation` is one of a binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Box<Operation>>,
    /// Set when the instance was deprovisioned; the row stays, for its revision and its last operation.
    pub gone: bool,
    /// The store's, for conditional writes: 0 before the first.
    #[serde(default)]
    pub version: u64,
}

/// What a platform asks for in a provision or update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Who asked: the instance is this platform's, and counts for this tenant.
    pub owner: Owner,
    /// Of the catalog.
    pub service_id: String,
    /// Of the catalog.
    pub plan_id: String,
    /// OSB requires it; opaque to us.
    pub organization_guid: String,
    /// OSB requires it; opaque to us.
    pub space_guid: String,
    /// The service file.
    pub parameters: Value,
}

impl Request {
    /// These parameters, asked for by nobody: to render them offline, or to test.
    pub fn offline(parameters: Value) -> Self {
        Self {
            owner: Owner { platform: String::new(), tenant: String::new() },
            service_id: String::new(),
            plan_id: String::new(),
            organization_guid: String::new(),
            space_guid: String::new(),
            parameters,
        }
    }
}

/// A revision that is (or was) rendered. The checked parameters are not written: they are read from the others again, so
/// that a large service file is kept once and not twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredPublished")]
pub struct Published {
    /// The instance's revision at that time.
    pub rev: u64,
    /// What it gets.
    pub plan: Plan,
    /// Requests that a node takes for it in a second.
    pub requests_per_second: u32,
    /// As they came: what the instance is said to be while this is the proven revision.
    pub parameters: Value,
    /// The checked parameters.
    #[serde(skip_serializing)]
    pub service: ServiceFile,
    /// Keys that its clients may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ApiKey>,
}

/// As it is written.
#[derive(Deserialize)]
struct StoredPublished {
    rev: u64,
    #[serde(default)]
    plan: Plan,
    #[serde(default = "requests_per_second")]
    requests_per_second: u32,
    parameters: Value,
    #[serde(default)]
    keys: Vec<ApiKey>,
}

impl TryFrom<StoredPublished> for Published {
    type Error = serde_json::Error;

    fn try_from(stored: StoredPublished) -> Result<Self, Self::Error> {
        let StoredPublished { rev, plan, requests_per_second, parameters, keys } = stored;
        let service = ServiceFile::deserialize(&parameters)?;
        Ok(Self { rev, plan, requests_per_second, parameters, service, keys })
    }
}

fn requests_per_second() -> u32 {
    Limits::default().requests_per_second
}

/// A distribution of a CDN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// The CDN's name for it.
    pub id: String,
    /// The name that hosts lead to.
    pub domain: String,
    /// The names that it answers to.
    pub hosts: Vec<Host>,
    /// The certificate that it shows for them, by its issuer's name.
    pub certificate: String,
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The names that it stands for.
    pub hosts: Vec<Host>,
    /// PEM, leaf first.
    pub chain: String,
    /// PEM.
    pub key: String,
    /// After this moment it is worth nothing.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// As its issuer knows it, where it has to be told when it is served no more.
    #[serde(default)]
    pub name: Option<String>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("hosts", &self.hosts)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A change under way, or the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// What `last_operation` is asked with; also the id of the job.
    pub id: String,
    /// What is being done.
    pub kind: OperationKind,
    /// Upon which binding, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingId>,
    /// How far it is.
    pub state: OperationState,
    /// For people.
    pub description: String,
    /// In order.
    pub steps: Vec<Step>,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum OperationKind {
    Provision,
    Update,
    Deprovision,
    Bind,
    Unbind,
}

/// The states of OSB's `last_operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum OperationState {
    #[serde(rename = "in progress")]
    InProgress,
    #[serde(rename = "succeeded")]
    Succeeded,
    #[serde(rename = "failed")]
    Failed,
}

/// One step of an operation. Each can be done again without harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// How far.
    pub state: StepState,
    /// For people: `acknowledged by 1/1 nodes`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The steps, in the order in which an onboarding takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// The hosts belong to this instance.
    Claim,
    /// There is a certificate for them.
    Certificate,
    /// A distribution answers for them, or no longer does.
    Cdn,
    /// They resolve to the edge.
    Dns,
    /// The control plane renders the revision (or, when leaving, no longer does).
    Publish,
    /// Envoy and the sidecars have acknowledged it.
    Fleet,
    /// The hosts are free again.
    Release,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum StepState {
    Pending,
    Active,
    Done,
    Failed,
}

impl Published {
    /// The wanted revision of an instance. The broker has checked the parameters; here the rule that allows most
    /// holds.
    pub fn wanted_of(instance: &Instance) -> Result<Self, InvalidService> {
        let parameters = instance.request.parameters.clone();
        let service = ServiceFile::parse(&parameters, UpstreamRule::LoopbackAllowed)?;
        let (plan, requests_per_second) = (instance.plan(), requests_per_second());
        let wanted = instance.bindings.values().filter(|binding| binding.is_wanted());
        let keys = wanted.map(|binding| binding.key.clone()).collect();
        Ok(Self { rev: instance.revision, plan, requests_per_second, parameters, service, keys })
    }
}

/// A platform asks for a binding that it took away within minutes, or never.
const MAX_UNBOUND: usize = 20;

/// What an operation has to do with a CDN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CdnUse {
    None,
    /// The names are to lead to it.
    Wanted,
    /// There is one, and the plan has none.
    Left,
}

impl OperationKind {
    /// A distribution has to be there before names lead to it, and is taken away when they do no longer.
    fn steps(self, cdn: CdnUse) -> &'static [StepName] {
        use StepName::{Cdn, Certificate, Claim, Dns, Fleet, Publish, Release};
        match (self, cdn) {
            (Self::Provision | Self::Update, CdnUse::None) => &[Claim, Certificate, Dns, Publish, Fleet],
            (Self::Provision | Self::Update, CdnUse::Wanted) => {
                &[Claim, Certificate, Cdn, Dns, Publish, Fleet]
            }
            (Self::Provision | Self::Update, CdnUse::Left) => &[Claim, Certificate, Dns, Publish, Fleet, Cdn],
            (Self::Deprovision, CdnUse::None) => &[Publish, Fleet, Dns, Certificate, Release],
            (Self::Deprovision, _) => &[Publish, Fleet, Dns, Cdn, Certificate, Release],
            (Self::Bind | Self::Unbind, _) => &[Publish, Fleet],
        }
    }
}

impl Operation {
    /// An operation that has not begun.
    fn new(id: String, kind: OperationKind, cdn: CdnUse) -> Self {
        let step = |name: &StepName| Step { name: *name, state: StepState::Pending, detail: String::new() };
        Self {
            id,
            kind,
            binding: None,
            state: OperationState::InProgress,
            description: "queued".into(),
            steps: kind.steps(cdn).iter().map(step).collect(),
        }
    }

    /// The first step that is not done.
    pub fn next_step(&self) -> Option<StepName> {
        self.steps.iter().find(|step| step.state != StepState::Done).map(|step| step.name)
    }

    /// Notes how far a step is; unknown names are ignored.
    pub fn note(&mut self, name: StepName, state: StepState, detail: impl Into<String>) {
        let detail = detail.into();
        if let Some(step) = self.steps.iter_mut().find(|step| step.name == name) {
            step.state = state;
            step.detail.clone_from(&detail);
        }
        if !detail.is_empty() {
            self.description = detail;
        }
    }

    /// Whether a worker still has to do something.
    pub fn in_progress(&self) -> bool {
        self.state == OperationState::InProgress
    }
}

impl Instance {
    /// A new instance with its first operation under way.
    pub fn provision(id: InstanceId, request: Request, operation: String) -> Self {
        let mut made = Self {
            id,
            request,
            revision: 1,
            published: None,
            proven: None,
            certificate: None,
            distribution: None,
            replaced: Vec::new(),
            bindings: BTreeMap::new(),
            unbound: Vec::new(),
            settled: None,
            operation: Operation::new(String::new(), OperationKind::Provision, CdnUse::None),
            gone: false,
            version: 0,
        };
        made.operation = Operation::new(operation, OperationKind::Provision, made.cdn_use());
        made
    }

    /// What it is to get.
    pub fn plan(&self) -> Plan {
        // Offline there is no catalog.
        Plan::of_id(&self.request.plan_id).unwrap_or_default()
    }

    fn cdn_use(&self) -> CdnUse {
        match (self.plan(), &self.distribution) {
            (Plan::Edge, _) => CdnUse::Wanted,
            (_, Some(_)) => CdnUse::Left,
            (_, None) => CdnUse::None,
        }
    }

    /// Begins an operation upon this instance. A change of what is asked for is a new revision.
    pub fn begin(&mut self, kind: OperationKind, request: Option<Request>, operation: String) {
        if let Some(request) = request {
            self.request = request;
            self.revision += 1;
        }
        self.gone = false;
        self.operation = Operation::new(operation, kind, self.cdn_use());
    }

    /// What the platform asked for the instance itself last; operations of its bindings have their own standing.
    pub fn own_operation(&self) -> &Operation {
        self.settled.as_deref().unwrap_or(&self.operation)
    }

    /// Begins to make this binding. The keys are part of a revision, so this is a new one.
    pub fn bind(&mut self, id: BindingId, binding: Binding) {
        self.begin_of_binding(&id, OperationKind::Bind, binding.operation.clone());
        self.unbound.retain(|gone| *gone != id);
        self.bindings.insert(id, binding);
    }

    /// Begins to take a binding away; nothing happens when it is not there.
    pub fn unbind(&mut self, id: &BindingId, operation: String) {
        let Some(binding) = self.bindings.get_mut(id) else { return };
        // From now on, whatever becomes of the operation: nothing returns to a key that was to go.
        for revision in self.published.iter_mut().chain(&mut self.proven) {
            revision.keys.retain(|key| key.id != binding.key.id);
        }
        binding.kind = OperationKind::Unbind;
        binding.state = OperationState::InProgress;
        binding.operation.clone_from(&operation);
        binding.description = "queued".into();
        binding.secret = None;
        self.begin_of_binding(id, OperationKind::Unbind, operation);
    }

    fn begin_of_binding(&mut self, id: &BindingId, kind: OperationKind, operation: String) {
        self.revision += 1;
        let binding =
            Operation { binding: Some(id.clone()), ..Operation::new(operation, kind, CdnUse::None) };
        self.settled = Some(Box::new(std::mem::replace(&mut self.operation, binding)));
    }

    /// An operation of a binding has ended: that stands with the binding, and the instance's own operation is the newest
    /// one again.
    pub fn settle(&mut self) {
        let Some(settled) = self.settled.take() else { return };
        let ended = std::mem::replace(&mut self.operation, *settled);
        let Some(id) = ended.binding else { return };
        if (ended.kind, ended.state) == (OperationKind::Unbind, OperationState::Succeeded) {
            self.forget_binding(&id);
        } else if let Some(binding) = self.bindings.get_mut(&id) {
            binding.state = ended.state;
            binding.description = ended.description;
            if ended.state == OperationState::Failed {
                binding.secret = None;
            }
        }
    }

    /// Without a trace but that it was there.
    pub fn forget_binding(&mut self, id: &BindingId) {
        if self.bindings.remove(id).is_some() {
            let most = MAX_UNBOUND.saturating_sub(1);
            self.unbound.drain(..self.unbound.len().saturating_sub(most));
            self.unbound.push(id.clone());
        }
    }

    /// The instance is there no more, nor is what it gave to others.
    pub fn leave(&mut self) {
        self.published = None;
        self.proven = None;
        self.bindings.clear();
        self.unbound.clear();
        self.settled = None;
        self.gone = true;
    }

    /// The operation under way has failed, and the last good state stays: what the fleet has proven to run is published,
    /// and is what the instance is said to be, so that a repeat of the refused change is a change.
    pub fn fail(&mut self, step: Option<StepName>, cause: impl Into<String>) {
        if self.operation.kind != OperationKind::Deprovision {
            self.published.clone_from(&self.proven);
            if let Some(proven) = &self.proven {
                self.request.parameters.clone_from(&proven.parameters);
                proven.plan.id().clone_into(&mut self.request.plan_id);
            }
        }
        match step {
            Some(step) => self.operation.note(step, StepState::Failed, cause),
            None => self.operation.description = cause.into(),
        }
        self.operation.state = OperationState::Failed;
    }

    /// Forgets all but the revision, which is never used twice.
    pub fn purge(&mut self, operation: String, why: &str) {
        self.leave();
        self.certificate = None;
        self.distribution = None;
        self.replaced.clear();
        self.operation = Operation::new(operation, OperationKind::Deprovision, CdnUse::None);
        self.operation.state = OperationState::Succeeded;
        why.clone_into(&mut self.operation.description);
    }

    /// The job for the operation under way.
    pub fn job(&self) -> Job {
        Job { id: self.operation.id.clone(), instance: self.id.clone() }
    }

    /// The group of nodes that serves it: each plan maps to one.
    pub fn group(&self) -> &'static str {
        crate::fleet::EDGE_GROUP
    }
}
