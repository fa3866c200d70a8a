//! A client, as a sequence of requests, and what it is sent. Numbers are those of the conformance list in
//! `docs/xds-conformance.md`.

use super::*;
use crate::{DeltaRequest, SotwRequest};

mod delta;
mod sotw;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Thing {
    name: Name,
    version: Version,
    aliases: Vec<Name>,
}

impl Item for Thing {
    fn name(&self) -> &Name {
        &self.name
    }
    fn version(&self) -> &Version {
        &self.version
    }
    fn bytes(&self) -> usize {
        if self.name.starts_with("big") { MAX_BATCH_BYTES / 2 + 1 } else { 500 }
    }
    fn aliases(&self) -> &[Name] {
        &self.aliases
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct World(BTreeMap<Name, Thing>);

impl World {
    /// `name@version`, and after a `=` another name.
    fn of(things: &str) -> Self {
        let thing = |text: &str| {
            let (text, alias) = text.split_once('=').unwrap_or((text, ""));
            let (name, version) = text.split_once('@').unwrap();
            let aliases = Some(alias).filter(|alias| !alias.is_empty()).map(Name::from).into_iter().collect();
            (Name::from(name), Thing { name: name.into(), version: version.into(), aliases })
        };
        Self(things.split_whitespace().map(thing).collect())
    }

    fn many(count: usize) -> Self {
        Self::of(&(0..count).map(|at| format!("r{at:05}@1 ")).collect::<String>())
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(|name| &**name).collect()
    }
}

impl Desired for World {
    type Item = Thing;
    fn get(&self, name: &str) -> Option<&Thing> {
        self.0.get(name)
    }
    fn by_alias(&self, alias: &str) -> Option<&Thing> {
        self.0.values().find(|thing| thing.aliases.iter().any(|own| **own == *alias))
    }
    fn iter(&self) -> impl Iterator<Item = &Thing> {
        self.0.values()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn version(&self) -> Version {
        self.0.values().map(|thing| format!("{}@{} ", thing.name, thing.version)).collect::<String>().into()
    }
}

/// A stream and its world.
pub(super) struct Client {
    stream: TypeStream<World>,
    first: bool,
    nonce: u64,
}

impl Client {
    fn new(kind: ResourceType, variant: Variant, world: &str) -> Self {
        Self { stream: TypeStream::new(kind, variant, World::of(world)), first: true, nonce: 0 }
    }

    /// The world is another one now.
    fn world(&mut self, world: &str) {
        self.stream.update(World::of(world), None);
        // Telling what changed must be the same as finding it out.
        let changed = differences(&self.stream.desired, &World::of(world));
        assert_eq!(changed, Vec::<Name>::new());
    }

    fn delta(&mut self, request: &DeltaRequest<'_>) -> Received<Thing> {
        self.stream.receive(request, std::mem::replace(&mut self.first, false))
    }

    fn sotw(&mut self, request: &SotwRequest<'_>) -> Received<Thing> {
        self.stream.receive_sotw(request, std::mem::replace(&mut self.first, false))
    }

    /// The next response as text, unanswered: `+name@version`, `-name`.
    fn sent(&mut self) -> Option<String> {
        let batch = self.stream.next(|_| Gate::Open)?;
        self.nonce = batch.nonce;
        Some(shown(&batch.changes))
    }

    /// The same, and accepted.
    fn accepted(&mut self) -> Option<String> {
        let text = self.sent()?;
        self.delta(&answer(&self.nonce.to_string(), None));
        Some(text)
    }

    /// Everything that comes, accepted.
    fn all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.accepted()).take(1_000).collect()
    }
}

fn shown(changes: &[Change<Thing>]) -> String {
    let one = |change: &Change<Thing>| match &change.item {
        Some(item) => format!("+{}@{}", change.name, item.version),
        None => format!("-{}", change.name),
    };
    changes.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn subscribe<'a>(names: &[&'a str]) -> DeltaRequest<'a> {
    DeltaRequest { subscribe: names.to_vec(), ..DeltaRequest::default() }
}

fn unsubscribe<'a>(names: &[&'a str]) -> DeltaRequest<'a> {
    DeltaRequest { unsubscribe: names.to_vec(), ..DeltaRequest::default() }
}

fn answer<'a>(nonce: &'a str, error: Option<&str>) -> DeltaRequest<'a> {
    DeltaRequest { nonce, error: error.map(str::to_owned), ..DeltaRequest::default() }
}

#[test]
fn what_is_told_to_have_changed_and_what_is_found_out_are_the_same() {
    for worlds in [["a@1 b@1", "a@2 b@1"], ["a@1", "a@1 b@1"], ["a@1 b@1", "b@1"], ["", "a@1"]] {
        let [before, after] = worlds.map(World::of);
        let changed = differences(&before, &after);
        let sent = |changed: Option<&[Name]>| {
            let mut client = Client::new(ResourceType::Cluster, Variant::Delta, worlds[0]);
            client.delta(&subscribe(&[]));
            client.all();
            client.stream.update(after.clone(), changed);
            client.all()
        };
        assert_eq!(sent(None), sent(Some(&changed)), "{worlds:?}");
    }
}

#[test]
fn a_client_that_has_everything_costs_no_names() {
    let mut client = Client::new(ResourceType::Cluster, Variant::Delta, "");
    client.stream.update(World::many(5_000), None);
    client.delta(&subscribe(&[]));
    client.all();
    assert_eq!((client.stream.differences(), client.stream.held_count()), (0, 5_000));

    let world = World::many(5_000);
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut client = Client::new(ResourceType::Endpoints, variant, "");
        client.stream.update(world.clone(), None);
        match variant {
            Variant::Delta => client.delta(&subscribe(&world.names())),
            Variant::Sotw => client.sotw(&SotwRequest { names: world.names(), ..SotwRequest::default() }),
        };
        while let Some(batch) = client.stream.next(|_| Gate::Open) {
            client.stream.settle(&batch.nonce.to_string(), None);
        }
        assert_eq!((client.stream.differences(), client.stream.held_count()), (0, 5_000), "{variant:?}");
    }
}

#[test]
fn a_client_that_names_most_of_what_there_is_is_served_like_any_other() {
    let mut client = Client::new(ResourceType::Endpoints, Variant::Delta, "");
    client.stream.update(World::many(200), None);
    let world = World::many(200);
    let names = world.names();
    client.delta(&subscribe(&names[..100]));
    client.delta(&subscribe(&names[100..150]));
    let sent = client.all().join(" ");
    assert_eq!(sent.split(' ').count(), 150);
    // One that it did not name is not sent when it changes, one that it named is, and gone ones are told.
    let mut next = World::many(200);
    for name in ["r00199", "r00100"] {
        next.0.get_mut(name).unwrap().version = "2".into();
    }
    next.0.remove("r00003");
    client.stream.update(next, None);
    assert_eq!(client.all(), ["-r00003 +r00100@2"]);
    // It watches the gone one, and no longer what it gives up.
    client.delta(&unsubscribe(&["r00004"]));
    let mut next = World::many(200);
    next.0.get_mut("r00004").unwrap().version = "2".into();
    client.stream.update(next, None);
    assert_eq!(client.all(), ["+r00003@1 +r00100@1"]);
}
