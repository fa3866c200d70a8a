//! How the two engines of a service decide together.

use api::authz::Effect;

use super::Verdict;

/// What the rules say of a request, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A deny that nothing changes: by a guardrail, a deny rule, an ambiguous path, or for want of an identity.
    Denied,
    /// It needs no identity: the path is one of the anonymous ones. Cedar, which would have nobody to ask about, is not
    /// asked.
    Open,
    /// A rule allows it.
    Allowed,
    /// No rule is about it.
    Nothing,
}

/// Whose word it is, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// What the rules say stands, their default too.
    Rules(Effect),
    /// What Cedar says.
    Cedar(Effect),
}

impl Said {
    /// Whether Cedar can still change it.
    pub fn asks_cedar(self) -> bool {
        matches!(self, Self::Allowed | Self::Nothing)
    }
}

/// Both engines' word together. A deny of either stands, and either can allow:
///
/// | rules ↓ Cedar → | permit | forbid | neither | error |
/// |---|---|---|---|---|
/// | a deny | deny (rules) | deny (rules) | deny (rules) | deny (rules) |
/// | an anonymous path | allow (rules) | allow (rules) | allow (rules) | allow (rules) |
/// | an allow | allow (rules) | **deny** (Cedar) | allow (rules) | **deny** (Cedar) |
/// | nothing | allow (Cedar) | deny (Cedar) | deny (rules) | deny (Cedar) |
///
/// In the first two rows Cedar is not asked ([`Said::asks_cedar`]). A service with Cedar has `default: deny`.
pub fn combine(said: Said, verdict: &Verdict<'_>) -> Stands {
    match (said, verdict) {
        (Said::Denied, _) | (Said::Nothing, Verdict::Neither) => Stands::Rules(Effect::Deny),
        (Said::Open, _) | (Said::Allowed, Verdict::Permit(_) | Verdict::Neither) => {
            Stands::Rules(Effect::Allow)
        }
        (_, Verdict::Forbid(_) | Verdict::Failed { .. }) => Stands::Cedar(Effect::Deny),
        (Said::Nothing, Verdict::Permit(_)) => Stands::Cedar(Effect::Allow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deny_of_either_engine_stands_and_either_can_allow() {
        use Effect::{Allow, Deny};
        use Stands::{Cedar, Rules};
        let failed = Verdict::Failed { policy: "p", cause: String::new() };
        let verdicts = [Verdict::Permit("p"), Verdict::Forbid("p"), Verdict::Neither, failed];
        for (said, expected) in [
            (Said::Denied, [Rules(Deny); 4]),
            (Said::Open, [Rules(Allow); 4]),
            (Said::Allowed, [Rules(Allow), Cedar(Deny), Rules(Allow), Cedar(Deny)]),
            (Said::Nothing, [Cedar(Allow), Cedar(Deny), Rules(Deny), Cedar(Deny)]),
        ] {
            assert_eq!(verdicts.each_ref().map(|verdict| combine(said, verdict)), expected, "{said:?}");
        }
    }
}
