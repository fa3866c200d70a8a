//! What is to go wrong on purpose, in development: so that platforms can be tested against a broker that times out, breaks
//! or never ends.

use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;

use crate::InstanceId;

/// All of them; of several that fit, the first one counts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    #[serde(default)]
    faults: Vec<Fault>,
}

/// One thing that goes wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    /// Which calls.
    on: Vec<Call>,
    /// Which instances, by the beginning of their ids; without it all.
    #[serde(default)]
    instance: String,
    then: Effect,
    /// How many times; without it for as long as it stands here.
    #[serde(default)]
    times: Option<u32>,
    #[serde(skip)]
    happened: AtomicU32,
}

/// What a platform asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Call {
    Catalog,
    Provision,
    Update,
    Deprovision,
    Fetch,
    LastOperation,
    Bind,
    Unbind,
    FetchBinding,
    LastBindingOperation,
}

/// What happens instead of the right thing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// This status, and nothing is done.
    Answer(u16),
    /// It is done, and this status is the answer.
    AnswerAfterwards(u16),
    /// It is done, and the answer comes after so many seconds.
    DelaySecs(u64),
    /// It is done, and the answer is no JSON.
    Malformed(Always),
    /// The operation is begun, and never ends.
    NeverEnds(Always),
    /// The operation is begun, and fails for this reason.
    Fails(String),
}

/// `true`, to say that it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "bool")]
pub struct Always;

impl TryFrom<bool> for Always {
    type Error = &'static str;

    fn try_from(value: bool) -> Result<Self, Self::Error> {
        if value { Ok(Self) } else { Err("true, or leave the fault out") }
    }
}

impl Effect {
    /// Whether it happens to the operation, and not to the answer.
    fn is_of_operation(&self) -> bool {
        matches!(self, Self::NeverEnds(_) | Self::Fails(_))
    }
}

impl Faults {
    /// What goes wrong with the answer to a call. It counts as having happened.
    pub fn of_answer(&self, call: Call, instance: &str) -> Option<Effect> {
        self.find(call, instance, |effect| !effect.is_of_operation())
    }

    /// What goes wrong with an operation.
    pub fn of_operation(&self, call: Call, instance: &InstanceId) -> Option<Effect> {
        self.find(call, instance.as_str(), Effect::is_of_operation)
    }

    fn find(&self, call: Call, instance: &str, fits: impl Fn(&Effect) -> bool) -> Option<Effect> {
        let mut fitting = (self.faults.iter()).filter(|fault| {
            fault.on.contains(&call) && instance.starts_with(&fault.instance) && fits(&fault.then)
        });
        let found = fitting.find(|fault| {
            let more = |happened: u32| {
                fault.times.is_none_or(|times| happened < times).then(|| happened.saturating_add(1))
            };
            fault.happened.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        });
        found.map(|fault| fault.then.clone())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_happens_to_what_it_names_as_often_as_it_says() {
        let faults: Faults = serde_json::from_value(json!({"faults": [
            {"on": ["provision"], "instance": "a", "then": {"answer": 500}, "times": 1},
            {"on": ["provision", "update"], "then": {"fails": "out of order"}},
            {"on": ["provision"], "then": {"delay_secs": 2}},
        ]}))
        .unwrap();
        let id = |text: &str| text.parse::<InstanceId>().unwrap();
        assert_eq!(faults.of_answer(Call::Provision, "a-1"), Some(Effect::Answer(500)));
        assert_eq!(faults.of_answer(Call::Provision, "a-1"), Some(Effect::DelaySecs(2)), "once was enough");
        assert_eq!(faults.of_answer(Call::Provision, "b-1"), Some(Effect::DelaySecs(2)));
        assert_eq!(faults.of_answer(Call::Update, "a-1"), None);
        let told = Some(Effect::Fails("out of order".into()));
        assert_eq!(faults.of_operation(Call::Update, &id("a-1")), told);
        assert_eq!(faults.of_operation(Call::Deprovision, &id("a-1")), None);
        for wrong in [
            json!({"faults": [{"on": ["order"], "then": {"answer": 500}}]}),
            json!({"faults": [{"on": ["bind"], "then": {"explode": true}}]}),
            json!({"faults": [{"on": ["bind"], "then": {"never_ends": false}}]}),
            json!({"fault": []}),
        ] {
            assert!(serde_json::from_value::<Faults>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
