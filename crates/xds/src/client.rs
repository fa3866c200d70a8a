//! The delta ADS client of the sidecars: one stream, everything by wildcard, an answer to each response, and
//! nothing acknowledged that is not on disk.

use std::{collections::HashMap, time::Duration};

use crate::{
    Server,
    contact::{Contact, Now},
    disk::LastGood,
    server::ConnectError,
};
use api::ResourceType;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status,
};
use runtime::telemetry::chain;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// What a sidecar does with its resources.
pub trait Handler: Send {
    /// Checks and takes in one resource; it need not be in force yet. The error goes back to the control
    /// plane, so it names field, value and rule.
    fn upsert(&mut self, kind: ResourceType, name: &str, body: &[u8]) -> Result<(), String>;
    /// Takes one out.
    fn remove(&mut self, kind: ResourceType, name: &str);
    /// Puts in force what came since the last call.
    fn commit(&mut self);
    /// Told once, before anything else: by this it knows how old what it knows can be.
    fn follows(&mut self, _contact: &Contact) {}
}

/// A sidecar's subscription.
pub struct Client<H> {
    server: Server,
    node: Node,
    kinds: Vec<ResourceType>,
    disk: LastGood,
    contact: Contact,
    handler: H,
    versions: HashMap<ResourceType, HashMap<String, String>>,
    /// Types that were answered on this or an earlier stream, or loaded from disk.
    on_loaded: Option<Box<dyn FnOnce() + Send>>,
    answered: Vec<ResourceType>,
}

/// Between two tries to connect: short enough for a restarted control plane, long enough for a herd.
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(5);
/// An open stream is contact: its connection is asked for a sign of life every few seconds.
const LOOK_AT_STREAM: Duration = Duration::from_secs(20);
/// A response that is larger is a fault of the control plane, which sends at most 1,000 small resources.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("connecting to the control plane")]
    Connect(#[source] ConnectError),
    #[error("the control plane ended the stream")]
    Status(#[source] tonic::Status),
    #[error("the control plane closed the stream")]
    Closed,
}

impl<H: Handler> Client<H> {
    /// Loads from disk what was last accepted. `on_loaded` is called once, when each type is known: from
    /// disk, or because the control plane has answered.
    pub fn load(
        server: Server,
        node_id: &str,
        kinds: &[ResourceType],
        disk: LastGood,
        mut handler: H,
        on_loaded: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let contact = disk.contact()?;
        handler.follows(&contact);
        let cluster = node_id.split('/').next().unwrap_or_default().to_owned();
        let mut client = Self {
            server,
            node: Node { id: node_id.to_owned(), cluster, ..Default::default() },
            kinds: kinds.to_vec(),
            disk,
            contact,
            handler,
            versions: HashMap::new(),
            on_loaded: Some(Box::new(on_loaded)),
            answered: Vec::new(),
        };
        client.load_from_disk()?;
        Ok(client)
    }

    fn load_from_disk(&mut self) -> std::io::Result<()> {
        for kind in self.kinds.clone() {
            let resources = self.disk.load(kind)?;
            // Of what takes something away, a part is worse than nothing, and nothing is as good as any.
            let is_known = self.disk.is_whole(kind)? || (!kind.takes_away() && !resources.is_empty());
            if is_known {
                self.note_answered(kind);
            }
            for resource in resources {
                let body = resource.resource.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
                match self.handler.upsert(kind, &resource.name, body) {
                    Ok(()) => {
                        self.versions.entry(kind).or_default().insert(resource.name, resource.version);
                    }
                    // Kept by an older release that read it in another way; the control plane sends it anew.
                    Err(error) => {
                        tracing::warn!(%kind, name = resource.name, error, "a kept resource is not valid");
                    }
                }
            }
        }
        self.handler.commit();
        Ok(())
    }

    /// Follows the control plane until the future is dropped. Never gives up.
    pub async fn run(mut self) {
        let mut pause = *BACKOFF.start();
        loop {
            let (served, end) = self.stream().await;
            // An age is written down too, so that no clock can take it back.
            self.note_contact(false);
            if served {
                pause = *BACKOFF.start();
            }
            tracing::warn!(
                error = chain(&end),
                retry_ms = pause.as_millis(),
                "no control plane; what was last accepted stays in force"
            );
            tokio::time::sleep(runtime::jitter::jittered(pause)).await;
            pause = (pause * 2).min(*BACKOFF.end());
        }
    }

    /// One stream, from connection to end; says whether anything was served on it.
    async fn stream(&mut self) -> (bool, StreamEnd) {
        let channel = match self.server.connect().await {
            Ok(channel) => channel,
            Err(error) => return (false, StreamEnd::Connect(error)),
        };
        let mut ads =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
        let (requests, outbound) = mpsc::channel(self.kinds.len() * 2);
        for (at, kind) in self.kinds.iter().enumerate() {
            // The channel has room for these: its size is twice their number.
            let _ = requests.try_send(self.first_request(*kind, at == 0));
        }
        let mut inbound = match ads.delta_aggregated_resources(ReceiverStream::new(outbound)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return (false, StreamEnd::Status(status)),
        };
        let (mut served, mut told) = (false, Vec::new());
        let mut look = tokio::time::interval(LOOK_AT_STREAM);
        loop {
            let message = tokio::select! {
                message = inbound.message() => message,
                _ = look.tick() => {
                    self.note_contact(self.is_heard(&told));
                    continue;
                }
            };
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => return (served, StreamEnd::Closed),
                Err(status) => return (served, StreamEnd::Status(status)),
            };
            served = true;
            told.extend(ResourceType::from_url(&response.type_url).filter(|kind| !told.contains(kind)));
            // Syncs files before it acknowledges.
            let answer = tokio::task::block_in_place(|| self.answer(response));
            // What was withdrawn meanwhile is in force by now.
            self.note_contact(self.is_heard(&told));
            if requests.send(answer).await.is_err() {
                return (served, StreamEnd::Closed);
            }
        }
    }

    /// Whether a stream on which these were answered counts as contact: what takes something away has been told of.
    fn is_heard(&self, told: &[ResourceType]) -> bool {
        let mut needed = self.kinds.iter().filter(|kind| kind.takes_away());
        !told.is_empty() && needed.all(|kind| told.contains(kind))
    }

    fn note_contact(&self, is_there: bool) {
        let now = Now::read();
        if is_there {
            self.contact.heard(now);
        }
        if let Err(error) = tokio::task::block_in_place(|| self.contact.keep(now)) {
            tracing::error!(error = chain(&error), "keeping the time of the last contact on disk");
        }
    }

    fn first_request(&self, kind: ResourceType, with_node: bool) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: with_node.then(|| self.node.clone()),
            type_url: kind.url().into(),
            resource_names_subscribe: vec!["*".into()],
            initial_resource_versions: self.versions.get(&kind).cloned().unwrap_or_default(),
            ..Default::default()
        }
    }

    /// Takes in a response: the good resources count even where others are refused.
    fn answer(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let mut refusals = Vec::new();
        match ResourceType::from_url(&response.type_url).filter(|kind| self.kinds.contains(kind)) {
            None => refusals.push(format!("type {:?} was not asked for", response.type_url)),
            Some(kind) => {
                for resource in response.resources {
                    refusals.extend(self.take_in(kind, resource).err());
                }
                for name in response.removed_resources {
                    refusals.extend(self.take_out(kind, &name).err());
                }
                self.handler.commit();
                match self.disk.note_answered(kind) {
                    Ok(()) => self.note_answered(kind),
                    Err(error) => refusals.push(format!("{kind}: keeping them on disk: {error}")),
                }
            }
        }
        let error_detail = (!refusals.is_empty()).then(|| {
            let message = refusals.join("; ");
            tracing::error!(
                error = message,
                type_url = response.type_url,
                "refusing what the control plane sent"
            );
            Status { code: tonic::Code::InvalidArgument.into(), message, ..Default::default() }
        });
        DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail,
            ..Default::default()
        }
    }

    fn take_in(&mut self, kind: ResourceType, resource: Resource) -> Result<(), String> {
        let name = &resource.name;
        let any = resource.resource.as_ref().ok_or_else(|| format!("{name}: a resource without a body"))?;
        if any.type_url != kind.url() {
            return Err(format!(
                "{name}: a body of type {:?} in a response of {:?}",
                any.type_url,
                kind.url()
            ));
        }
        self.handler.upsert(kind, name, &any.value).map_err(|why| format!("{name}: {why}"))?;
        self.disk.keep(kind, &resource).map_err(|error| format!("{name}: keeping it on disk: {error}"))?;
        self.versions.entry(kind).or_default().insert(resource.name, resource.version);
        Ok(())
    }

    fn take_out(&mut self, kind: ResourceType, name: &str) -> Result<(), String> {
        self.handler.remove(kind, name);
        self.disk.forget(kind, name).map_err(|error| format!("{name}: forgetting it on disk: {error}"))?;
        self.versions.entry(kind).or_default().remove(name);
        Ok(())
    }

    fn note_answered(&mut self, kind: ResourceType) {
        if !self.answered.contains(&kind) {
            self.answered.push(kind);
        }
        if self.answered.len() == self.kinds.len()
            && let Some(on_loaded) = self.on_loaded.take()
        {
            on_loaded();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use envoy_types::pb::google::protobuf::Any;

    use super::*;

    #[derive(Default, Clone)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Handler for Seen {
        fn upsert(&mut self, _: ResourceType, name: &str, body: &[u8]) -> Result<(), String> {
            if body == b"bad" {
                return Err("field: rule, got \"bad\"".into());
            }
            self.0.lock().unwrap().push(format!("+{name}"));
            Ok(())
        }
        fn remove(&mut self, _: ResourceType, name: &str) {
            self.0.lock().unwrap().push(format!("-{name}"));
        }
        fn commit(&mut self) {
            self.0.lock().unwrap().push("!".into());
        }
    }

    const KIND: ResourceType = ResourceType::AuthzPolicy;

    fn client(folder: &std::path::Path, loaded: Arc<Mutex<bool>>) -> (Client<Seen>, Seen) {
        client_of(KIND, folder, loaded)
    }

    fn client_of(
        kind: ResourceType,
        folder: &std::path::Path,
        loaded: Arc<Mutex<bool>>,
    ) -> (Client<Seen>, Seen) {
        let seen = Seen::default();
        let disk = LastGood::open(folder).unwrap();
        let server = Server::new("http://127.0.0.1:1", None).unwrap();
        let on_loaded = move || *loaded.lock().unwrap() = true;
        (Client::load(server, "edge/i-1/authz", &[kind], disk, seen.clone(), on_loaded).unwrap(), seen)
    }

    fn response(resources: &[(&str, &str)], removed: &[&str]) -> DeltaDiscoveryResponse {
        let resource = |(name, body): &(&str, &str)| Resource {
            name: (*name).into(),
            version: "v".into(),
            resource: Some(Any { type_url: KIND.url().into(), value: body.as_bytes().to_vec() }),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            type_url: KIND.url().into(),
            nonce: "n".into(),
            resources: resources.iter().map(resource).collect(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn what_was_acknowledged_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let loaded = Arc::default();
        let (mut first, _) = client(folder.path(), Arc::clone(&loaded));
        assert!(!*loaded.lock().unwrap());
        let ack = first.answer(response(&[("a@1", "x"), ("b@1", "x")], &[]));
        assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("n", None));
        assert!(*loaded.lock().unwrap());
        first.answer(response(&[], &["b@1"]));
        let (second, seen) = client(folder.path(), Arc::default());
        assert_eq!(*seen.0.lock().unwrap(), ["+a@1", "!"]);
        let request = second.first_request(KIND, true);
        assert_eq!(request.initial_resource_versions, HashMap::from([("a@1".into(), "v".into())]));
    }

    #[test]
    fn a_sidecar_starts_from_disk_without_revocations_only_if_it_was_told_that_there_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let kind = ResourceType::AuthnRevocations;
        let is_loaded = || {
            let loaded = Arc::default();
            let (client, _) = client_of(kind, folder.path(), Arc::clone(&loaded));
            (client, *loaded.lock().unwrap())
        };
        let (mut first, loaded) = is_loaded();
        assert!(!loaded);
        let nothing = DeltaDiscoveryResponse { type_url: kind.url().into(), ..Default::default() };
        assert_eq!(first.answer(nothing).error_detail, None);
        assert!(is_loaded().1);
        let resource = Resource { name: "a".into(), version: "v".into(), ..Default::default() };
        first.disk.keep(kind, &resource).unwrap();
        assert!(is_loaded().1);
        for entry in std::fs::read_dir(folder.path().join(kind.label())).unwrap() {
            std::fs::write(entry.unwrap().path(), b"x").unwrap();
        }
        assert!(!is_loaded().1, "one was lost, and what it withdrew would pass");
    }

    #[test]
    fn a_bad_resource_is_refused_by_name_and_the_good_ones_count() {
        let folder = tempfile::tempdir().unwrap();
        let (mut client, seen) = client(folder.path(), Arc::default());
        let nack = client.answer(response(&[("a@1", "bad"), ("b@1", "x")], &[]));
        assert_eq!(nack.error_detail.unwrap().message, "a@1: field: rule, got \"bad\"");
        assert_eq!(*seen.0.lock().unwrap(), ["!", "+b@1", "!"]);
        assert_eq!(client.disk.load(KIND).unwrap().len(), 1);
    }

    #[test]
    fn a_stream_is_contact_once_it_has_told_what_was_taken_away() {
        use ResourceType::{AuthnKeySet, AuthnPolicy, AuthnRevocations};
        let folder = tempfile::tempdir().unwrap();
        let (mut client, _) = client_of(AuthnRevocations, folder.path(), Arc::default());
        client.kinds = vec![AuthnKeySet, AuthnRevocations, AuthnPolicy];
        assert!(!client.is_heard(&[AuthnKeySet, AuthnPolicy]));
        assert!(client.is_heard(&[AuthnRevocations]));
        client.kinds = vec![ResourceType::AuthzPolicy];
        assert!(client.is_heard(&[ResourceType::AuthzPolicy]) && !client.is_heard(&[]));
    }

    #[test]
    fn a_type_that_was_not_asked_for_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (mut client, _) = client(folder.path(), Arc::default());
        let strange =
            DeltaDiscoveryResponse { type_url: ResourceType::Cluster.url().into(), ..Default::default() };
        assert!(client.answer(strange).error_detail.is_some());
    }
}
