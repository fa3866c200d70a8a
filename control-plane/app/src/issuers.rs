//! The keys of issuers, as the parts of this process want them: the broker to sign platforms in, templates as values of the
//! context.

use std::sync::Arc;

use ::keys::{KeySets, Keys};
use anyhow::Context as _;
use broker::Issuers;
use model::context::Values;
use prometheus_client::registry::Registry;
use runtime::SystemClock;
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    config::{Config, Roles},
    identity::IDENTITY_KEYS,
};

/// What follows them. Every process has its own: a broker alone signs platforms in, and none depends on another for that.
pub(crate) struct FollowedKeys(pub(crate) Keys);

impl FollowedKeys {
    /// Returns when all keys that can be there soon are there.
    pub(crate) async fn start(
        config: &Config,
        registry: &mut Registry,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Self> {
        let folder = config.data_dir.join(folder(config.roles));
        let clock = Arc::new(SystemClock);
        let started = Keys::start(config.issuers.clone(), &folder, clock, registry).await;
        let (keys, follow) = started.context("the keys of issuers")?;
        tasks.spawn(follow);
        Ok(Self(keys))
    }

    /// As the broker knows them.
    pub(crate) fn issuers(&self, tasks: &mut JoinSet<()>) -> watch::Receiver<Arc<Issuers>> {
        let known = |sets: &KeySets| {
            let issuers = sets.issuers().map(|(issuer, keys)| (issuer, keys.cloned())).collect::<Issuers>();
            Arc::new(issuers.with_key_servers(sets.key_servers()))
        };
        let mut sets = self.0.sets();
        let (sender, receiver) = watch::channel(known(&sets.borrow_and_update()));
        tasks.spawn(async move {
            while sets.changed().await.is_ok() {
                sender.send_replace(known(&sets.borrow_and_update()));
            }
        });
        receiver
    }

    /// What the sources say, with the keys beside it: no source has their names.
    pub(crate) fn values(
        &self,
        mut sources: watch::Receiver<Arc<Values>>,
        mut own: watch::Receiver<Arc<Value>>,
        tasks: &mut JoinSet<()>,
    ) -> watch::Receiver<Arc<Values>> {
        let mut sets = self.0.sets();
        let all = |sources: &Values, sets: &KeySets, own: &Arc<Value>| {
            let mut values = with_keys(sources.clone(), sets);
            values.insert(IDENTITY_KEYS.to_owned(), own.clone());
            Arc::new(values)
        };
        let (sender, receiver) = watch::channel(all(
            &sources.borrow_and_update(),
            &sets.borrow_and_update(),
            &own.borrow_and_update(),
        ));
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    // Without sources there is nobody who would say so.
                    Ok(()) = sources.changed() => {}
                    Ok(()) = own.changed() => {}
                    changed = sets.changed() => if changed.is_err() { return },
                }
                sender.send_replace(all(
                    &sources.borrow_and_update(),
                    &sets.borrow_and_update(),
                    &own.borrow_and_update(),
                ));
            }
        });
        receiver
    }
}

/// The values of the context that are keys go before any other of their names.
pub(crate) fn with_keys(mut values: Values, sets: &KeySets) -> Values {
    values.extend(sets.context());
    values
}

/// Processes that share a data folder have other roles, and write files of their own.
fn folder(roles: Roles) -> &'static str {
    match (roles.broker, roles.worker, roles.ads) {
        (true, false, false) => "keys-broker",
        (false, true, false) => "keys-worker",
        (false, false, true) => "keys-ads",
        _ => "keys",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    /// A JWK Set with one key of this id.
    fn jwks(kid: &str) -> String {
        let (x, y) =
            ("WKn-ZIGevcwGIyyrzFoZNBdaq9_TsqzGl96oc0CWuis", "y77t-RvAHRKTsSGdIYUfweuOvwrvDD-Q3Hv5J0fSKbE");
        json!({"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid}]}).to_string()
    }

    #[tokio::test]
    async fn templates_see_keys_beside_the_sources_and_changes_of_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, jwks("a")).unwrap();
        let flag = format!("https://id.example.test/={}", path.display());
        let settings = ::keys::Settings::read(&[flag], None).unwrap();
        let clock = Arc::new(SystemClock);
        let kept = folder.path().join("keys");
        let (keys, follow) = Keys::start(settings, &kept, clock, &mut Registry::default()).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow);
        let sources = watch::Sender::new(Arc::new(Values::new()));
        let own = watch::Sender::new(Arc::new(json!([])));
        let mut values = FollowedKeys(keys).values(sources.subscribe(), own.subscribe(), &mut tasks);
        let first = values.borrow_and_update().clone();
        assert_eq!(first["issuers"][0]["issuer"], "https://id.example.test/");
        assert_eq!((&first["issuers"][0]["uri"], &*first["key_servers"]), (&json!(null), &json!([])));

        sources.send_replace(Arc::new([("x".to_owned(), Arc::new(json!(1)))].into()));
        values.changed().await.unwrap();
        let second = values.borrow_and_update().clone();
        assert_eq!(*second["x"], json!(1));
        // The same piece of memory, so nothing that reads it is rendered.
        assert!(Arc::ptr_eq(&first["issuers"], &second["issuers"]));

        std::fs::write(&path, jwks("b")).unwrap();
        tokio::time::timeout(Duration::from_secs(10), values.changed()).await.unwrap().unwrap();
        let third = values.borrow_and_update().clone();
        assert!(third["issuers"][0]["jwks"].as_str().unwrap().contains("\"kid\":\"b\""));
        assert!(Arc::ptr_eq(&second["x"], &third["x"]));
    }
}
