//! Keeps one versioned [`Context`] that follows the store. Only what was written since is read again; of revocations all,
//! but only when they changed.

mod sources;

use std::{sync::Arc, time::Duration};

use model::{
    context::{Context, Service, Values},
    instance::Instance,
    revocation::{LIST, Revocation},
};
use serde_json::Value;
use store::{Store, StoreError};
use tokio::sync::watch;

pub use sources::{Freshness, InvalidSources, Source, SourceState, Sources, read};

/// After a failed read of the store; what was read before stays in force.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the store. The first value is there when this returns.
///
/// # Errors
/// When the store cannot be read at the start; later failures are logged and tried again.
pub async fn follow(
    store: Arc<dyn Store>,
    group: String,
    mut values: watch::Receiver<Arc<Values>>,
) -> Result<(watch::Receiver<Arc<Context>>, impl Future<Output = ()>), StoreError> {
    let mut changes = store.changes();
    changes.mark_unchanged();
    let (instances, mut position) = store.changed_since(0).await?;
    let controls = store.controls(&group).await?;
    let mut revoked = Revoked::default();
    revoked.read(&*store).await?;
    let seen = revoked.beside(&values.borrow_and_update());
    let mut context = Context { controls, values: seen, ..Context::default() };
    apply(&mut context, instances);
    let (sender, receiver) = watch::channel(Arc::new(context.clone()));
    let task = async move {
        loop {
            let is_written = tokio::select! {
                written = changes.changed() => match written {
                    Ok(()) => true,
                    Err(_) => return,
                },
                // Without sources there is nobody who would say so.
                Ok(()) = values.changed() => false,
            };
            if !is_written {
                context.values = revoked.beside(&values.borrow_and_update());
                sender.send_replace(Arc::new(context.clone()));
                continue;
            }
            let read = async {
                let changed = (store.changed_since(position).await?, store.controls(&group).await?);
                Ok((changed, revoked.read(&*store).await?))
            };
            match read.await {
                Ok((((instances, next), controls), is_revoked)) => {
                    position = next;
                    if is_revoked {
                        context.values = revoked.beside(&values.borrow());
                    }
                    if is_revoked || !instances.is_empty() || controls != context.controls {
                        context.controls = controls;
                        apply(&mut context, instances);
                        sender.send_replace(Arc::new(context.clone()));
                    }
                }
                Err(error) => {
                    let error: StoreError = error;
                    tracing::error!(error = %error, cause = ?error.source, "the context stays as it is");
                    tokio::time::sleep(RETRY).await;
                    changes.mark_changed();
                }
            }
        }
    };
    Ok((receiver, task))
}

/// What operators revoked, as templates see it beside what the sources say.
#[derive(Default)]
struct Revoked {
    list: Arc<Value>,
    version: Option<u64>,
}

impl Revoked {
    /// Whether it is another list now.
    async fn read(&mut self, store: &dyn Store) -> Result<bool, StoreError> {
        let Some((entries, version)) = store.revocations(self.version).await? else { return Ok(false) };
        self.list = Arc::new(Value::Array(entries.iter().map(Revocation::shown).collect()));
        self.version = Some(version);
        Ok(true)
    }

    fn beside(&self, sources: &Values) -> Arc<Values> {
        let mut values = sources.clone();
        values.insert(LIST.to_owned(), self.list.clone());
        Arc::new(values)
    }
}

fn apply(context: &mut Context, instances: Vec<Instance>) {
    for instance in instances {
        if instance.operation.in_progress() {
            context.unsettled.insert(instance.id.clone(), instance.revision);
        } else {
            context.unsettled.remove(&instance.id);
        }
        // Needed only while they differ: the published one is not proven yet.
        match instance.proven.as_ref().filter(|proven| Some(*proven) != instance.published.as_ref()) {
            Some(proven) => {
                context.proven.insert(instance.id.clone(), Arc::new(Service::of(&instance, proven)))
            }
            None => context.proven.remove(&instance.id),
        };
        match instance.published.as_ref().map(|published| Service::of(&instance, published)) {
            // An operation's progress is written often, and changes nothing that is rendered.
            Some(service) if context.services.get(&instance.id).is_some_and(|known| **known == service) => {}
            Some(service) => {
                context.services.insert(instance.id, Arc::new(service));
            }
            None => {
                context.services.remove(&instance.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{
        controls::Controls,
        instance::{OperationState, Published, Request},
        revocation::{ApiKeyId, What},
    };
    use serde_json::json;
    use store::{Keys, Put, SqliteStore, Write};

    use super::*;

    fn instance(id: &str) -> Instance {
        let parameters = json!({
            "service": "s", "hosts": [format!("{id}.test.test")], "auth": {}, "authz": {},
            "routes": [{"path": "/", "upstream": {"urls": ["http://10.0.0.1:80"]}}]
        });
        let request = Request::offline(parameters);
        let mut instance = Instance::provision(id.parse().unwrap(), request, "op".into());
        instance.published = Some(Published::wanted_of(&instance).unwrap());
        instance
    }

    async fn put(store: &SqliteStore, instance: &Instance) -> Instance {
        let Put::Stored(stored) = store.put(Write::of(instance)).await.unwrap() else { panic!("a conflict") };
        *stored
    }

    #[tokio::test]
    async fn the_context_follows_the_store_and_shares_what_did_not_change() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Arc::new(SqliteStore::open(&folder.path().join("gatehouse.db"), Keys::default()).unwrap());
        put(&store, &instance("a")).await;
        let sender = watch::Sender::new(Arc::new(Values::new()));
        let (mut contexts, task) = follow(store.clone(), "edge".into(), sender.subscribe()).await.unwrap();
        tokio::spawn(task);
        let first = contexts.borrow_and_update().clone();
        assert_eq!((first.services.len(), first.unsettled.len()), (1, 1));

        let b = put(&store, &instance("b")).await;
        contexts.changed().await.unwrap();
        let second = contexts.borrow_and_update().clone();
        assert_eq!(second.services.len(), 2);
        let a: model::InstanceId = "a".parse().unwrap();
        assert!(Arc::ptr_eq(&first.services[&a], &second.services[&a]));

        let mut gone = b.clone();
        gone.published = None;
        gone.operation.state = OperationState::Succeeded;
        put(&store, &gone).await;
        contexts.changed().await.unwrap();
        let third = contexts.borrow_and_update().clone();
        assert_eq!((third.services.len(), third.unsettled.len()), (1, 1));

        let confirmed = Controls { confirmed: Some("abc".into()), ..Controls::default() };
        assert!(store.decide("edge", &Controls::default(), &confirmed).await.unwrap());
        contexts.changed().await.unwrap();
        assert_eq!(contexts.borrow_and_update().controls, confirmed);

        sender.send_replace(Arc::new([("x".to_owned(), Arc::new(json!({})))].into()));
        contexts.changed().await.unwrap();
        assert_eq!(contexts.borrow_and_update().values.keys().collect::<Vec<_>>(), ["revocations", "x"]);
    }

    #[tokio::test]
    async fn revocations_are_a_list_beside_the_sources_that_only_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Arc::new(SqliteStore::open(&folder.path().join("gatehouse.db"), Keys::default()).unwrap());
        let sources = watch::Sender::new(Arc::new(Values::new()));
        let (mut contexts, task) = follow(store.clone(), "edge".into(), sources.subscribe()).await.unwrap();
        tokio::spawn(task);
        let list = |context: &Context| context.values[LIST].clone();
        let none = list(&contexts.borrow_and_update());
        assert_eq!(*none, json!([]));
        put(&store, &instance("a")).await;
        contexts.changed().await.unwrap();
        assert!(Arc::ptr_eq(&none, &list(&contexts.borrow_and_update())));
        let what = What::ApiKey(ApiKeyId { id: "0a".into() });
        let revocation = Revocation { name: what.name(), what, expires: 0, at: 1, by: "ann".into() };
        store.revoke(&revocation).await.unwrap();
        contexts.changed().await.unwrap();
        let one = list(&contexts.borrow_and_update());
        assert_eq!(*one, json!([{"name": revocation.name, "api_key": {"id": "0a"}, "expires": 0}]));
        sources.send_replace(Arc::new([("x".to_owned(), Arc::new(json!({})))].into()));
        contexts.changed().await.unwrap();
        assert!(Arc::ptr_eq(&one, &list(&contexts.borrow_and_update())));
        store.take_back(&revocation.name, "ann").await.unwrap();
        contexts.changed().await.unwrap();
        assert_eq!(*list(&contexts.borrow_and_update()), json!([]));
    }
}
