//! What flows through the control plane: service file, instance, job, context, document. No IO, no async.

pub mod auth;
pub mod authz;
pub mod rate_limits;
pub mod service_file;

pub mod audit;
pub mod binding;
pub mod cedar;
pub mod instance;
pub mod job;
pub mod plan;
pub mod platforms;

pub mod controls;
pub mod drift;
pub mod faults;
pub mod fleet;
pub mod guardrail;
pub mod revocation;

pub mod context;
pub mod document;
pub mod node;

mod host;
mod id;
mod secret;
mod upstream;

pub use host::{Host, InvalidHost};
pub use id::{BindingId, InstanceId, InvalidBindingId, InvalidInstanceId};
pub use secret::SecretHash;
pub use service_file::{InvalidService, ServiceFile, UpstreamRule, service_schema};
pub use upstream::{InvalidUpstream, UpstreamUrl};
