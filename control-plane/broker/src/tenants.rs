//! Whose an instance is to be, and whether its owner may have it.

use axum::http::StatusCode;
use model::{
    Host, InstanceId,
    plan::Plan,
    platforms::{Owner, TenantBy},
};
use store::Claimant;

use crate::{
    Broker,
    answer::Answer,
    guard::{Asking, Tenants},
};

impl Broker {
    /// The tenant that a provision is for.
    pub(crate) fn owner(&self, asking: &Asking, organization: &str, space: &str) -> Result<Owner, Answer> {
        let platforms = self.platforms.borrow();
        let Some(platform) = platforms.get(&asking.platform) else {
            return Err(Answer::refused(StatusCode::UNAUTHORIZED, "this platform is gone"));
        };
        let tenant = match &platform.tenant {
            TenantBy::Organization => organization.to_owned(),
            TenantBy::Space => space.to_owned(),
            TenantBy::Identity(field) => {
                let value = asking.caller.identity.as_ref().and_then(|identity| identity[field].as_str());
                let value = value.filter(|text| !text.is_empty()).ok_or_else(|| {
                    Answer::bad_request(format!(
                        "X-Broker-API-Originating-Identity: must hold {field:?}, which names the tenant of this platform"
                    ))
                })?;
                value.to_owned()
            }
            TenantBy::Token(claim) => match &asking.tenants {
                Tenants::One(tenant) => tenant.clone(),
                Tenants::All | Tenants::Unnamed(_) => {
                    return Err(Answer::bad_request(format!(
                        "Authorization: must be a token with the claim {claim:?}, which names the tenant of this platform"
                    )));
                }
            },
        };
        Ok(Owner { platform: asking.platform.clone(), tenant })
    }

    /// Whether the hosts could be claimed now. The worker's claim decides; this is to tell at once.
    pub(crate) async fn may_have(
        &self,
        hosts: &[Host],
        id: &InstanceId,
        owner: &Owner,
        plan: Plan,
    ) -> Result<(), Answer> {
        let platforms = self.platforms.borrow().clone();
        for (at, host) in hosts.iter().enumerate() {
            platforms
                .may_claim(owner, host, plan)
                .map_err(|error| Answer::bad_request(format!("parameters: hosts[{at}]: {error}")))?;
        }
        let claimant = Claimant::of(&platforms, id, owner);
        match self.store.may_claim(hosts, &claimant).await?.refusal(hosts, &claimant) {
            Some(why) => Err(Answer::unprocessable(format!("parameters: {why}"))),
            None => Ok(()),
        }
    }

    /// At most so many instances.
    pub(crate) fn most_instances(&self, owner: &Owner) -> Option<u32> {
        self.platforms.borrow().quota(owner).instances
    }
}

pub(crate) fn over_quota(owner: &Owner, most: Option<u32>) -> Answer {
    let most = most.unwrap_or_default();
    Answer::unprocessable(format!(
        "quota: {:?} has the {most} service instances that it may have; delete one, or ask the operators for more",
        owner.tenant
    ))
}
