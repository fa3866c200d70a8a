//! The audit log: who changed what, when, and what became of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{
    BindingId, InstanceId,
    instance::{Instance, OperationKind, OperationState},
    platforms::Owner,
    revocation::Revocation,
};

/// One line of the log. It is written in the same transaction as what it tells of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The store's: later entries have larger ones. 0 before it is written.
    #[serde(default)]
    pub position: u64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Whose instance it is.
    pub owner: Owner,
    /// Which.
    pub instance: InstanceId,
    /// By which operation, for all entries of one change.
    pub operation: String,
    /// To which binding, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingId>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A platform asked for something, and it was begun.
    Asked {
        /// For what.
        kind: OperationKind,
        /// By whom.
        by: Caller,
        /// What the instance was; nothing, when there was none.
        before: Option<State>,
        /// What it is to be; nothing, when it is to go.
        after: Option<State>,
    },
    /// The secret of a binding was shown, which happens once.
    Shown {
        /// To whom.
        by: Caller,
    },
    /// An operator revoked something.
    Revoked {
        /// What, and by whom.
        revocation: Revocation,
        /// Entries that a full table was widened to for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        widened: Vec<Revocation>,
    },
    /// An operator took a revocation back.
    Restored {
        /// Who.
        operator: String,
        /// What was revoked.
        revocation: Revocation,
    },
    /// The operation ended.
    Ended {
        /// How.
        state: OperationState,
        /// For people.
        description: String,
    },
}

/// Who asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// Of `X-Broker-API-Originating-Identity`: whom the platform acted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Value>,
    /// Of the token that the platform signed in with: its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `X-Broker-API-Request-Identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// What an instance is said to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of the catalog.
    pub plan_id: String,
    /// The service file.
    pub parameters: Value,
}

impl State {
    /// Of an instance that is there.
    pub fn of(instance: &Instance) -> Option<Self> {
        (!instance.gone).then(|| Self {
            plan_id: instance.request.plan_id.clone(),
            parameters: instance.request.parameters.clone(),
        })
    }
}

/// In the place of a platform and of an instance, where operators did something that concerns all of them.
const OPERATORS: &str = "operators";
const REVOCATIONS: &str = "revocations";

impl Entry {
    /// Something about a revocation, by an operator, now.
    pub fn of_revocation(revocation: &Revocation, by: &str, event: Event) -> Self {
        Self {
            position: 0,
            at: OffsetDateTime::now_utc(),
            owner: Owner { platform: OPERATORS.into(), tenant: by.to_owned() },
            instance: InstanceId::of_all(REVOCATIONS),
            operation: revocation.name.clone(),
            binding: None,
            event,
        }
    }

    /// Something of an instance's newest operation, now.
    pub fn of(instance: &Instance, event: Event) -> Self {
        Self {
            position: 0,
            at: OffsetDateTime::now_utc(),
            owner: instance.request.owner.clone(),
            instance: instance.id.clone(),
            operation: instance.operation.id.clone(),
            binding: instance.operation.binding.clone(),
            event,
        }
    }

    /// The instance's operation has ended.
    pub fn ended(instance: &Instance) -> Self {
        let Instance { operation, .. } = instance;
        Self::of(
            instance,
            Event::Ended { state: operation.state, description: operation.description.clone() },
        )
    }
}

/// Which entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Query {
    /// Of one instance only.
    pub instance: Option<InstanceId>,
    /// Of one platform only.
    pub platform: Option<String>,
    /// Older than the one at this position: the next page.
    pub before: Option<u64>,
}
