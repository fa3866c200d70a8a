//! Requests that nobody signs, to paths that need no credential.

use api::authn::PolicyId;
use sidecar::ext_authz::Decision;

use crate::identity::{OPEN, record};

/// What the upstream and the access log are told.
pub(crate) const NAME: &str = "anonymous";

/// Nobody in particular may go on.
pub(crate) fn allowed(policy: &PolicyId, request: &str, remove: Vec<String>) -> Decision {
    let headers = vec![("x-gatehouse-method", NAME.into())];
    Decision::Allow { record: record(policy, NAME, request).truth(OPEN), headers, remove }
}
