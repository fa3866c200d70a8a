//! The streams of one replica: carries messages between a client and its session.

use std::{pin::pin, sync::Arc, time::Duration};

use api::{ResourceType, Role};
use bytes::Bytes;
use model::node::{NodeFacts, Selection, Transport};
use resources::Snapshot;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, watch},
    time::Instant,
};
use tonic::Status;
use xds::{DeltaRequest, MalformedRequest, SotwRequest, stream::Variant};

use crate::{
    Peer,
    asker::Asker,
    grpc::{Messages, Method, Outbox, Responses},
    hub::{Entered, Hub},
    metrics::WhyLabel,
    node::Node,
    served::{Selector, Served},
    session::Session,
    undelivered::Undelivered,
};

/// The discovery services of one replica.
#[derive(Debug, Clone)]
pub struct Discovery {
    pub(crate) hub: Arc<Hub>,
    /// Turns true when the replica drains.
    stopping: watch::Receiver<bool>,
}

/// A client opens the stream to say who it is.
const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// A client that takes longer to come up to date does so beside those that come after it.
const ADMISSION_HELD: Duration = Duration::from_secs(2);

impl Discovery {
    /// `stopping` turns true when the replica drains.
    pub fn new(hub: Arc<Hub>, stopping: watch::Receiver<bool>) -> Self {
        let (all, mut stop) = (hub.clone(), stopping.clone());
        tokio::spawn(async move {
            stopped(&mut stop).await;
            all.wake_all();
        });
        Self { hub, stopping }
    }

    /// Answers a gRPC request, of whatever discovery service. The first message may come after the response's
    /// headers, so the stream is opened at once.
    pub(crate) fn grpc(self, request: http::Request<tonic::body::Body>) -> http::Response<tonic::body::Body> {
        let Some(method) = Method::of(request.uri().path()) else {
            return Status::unimplemented("not a method that is served here").into_http();
        };
        let peer = peer_of(request.extensions());
        let undelivered = request.extensions().get::<Undelivered>().cloned();
        let ticket = undelivered.unwrap_or_else(|| self.undelivered()).ticket();
        let (inbound, outbox) = (Messages::of(request.into_body()), Outbox::default());
        let ours = outbox.clone();
        let session = async move {
            let end = self.stream(method, peer, inbound, &ours).await;
            if let Err(status) = &end {
                tracing::warn!(code = ?status.code(), error = status.message(), "a stream was ended");
            }
            end
        };
        Responses::over(session, outbox, ticket)
    }

    /// How long the streams of a new connection wait for their client to read.
    pub fn undelivered(&self) -> Undelivered {
        Undelivered::new(self.hub.clone())
    }

    async fn stream(
        self,
        method: Method,
        peer: Peer,
        mut inbound: Messages,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        if !matches!(tokio::time::timeout(FIRST_REQUEST_DEADLINE, inbound.has_begun()).await, Ok(true)) {
            return Ok(());
        }
        // To read what a client brings along, and to bring it up to date, takes memory and time: a fleet that
        // comes at once takes turns, and its requests wait where they are bounded.
        let mut stopping = self.stopping.clone();
        let admission = tokio::select! {
            permit = self.hub.admission.clone().acquire_owned() => Admission::begin(permit.ok()),
            () = stopped(&mut stopping) => return Err(drains()),
        };
        let Ok(first) = tokio::time::timeout_at(admission.until, inbound.next()).await else { return Ok(()) };
        let Some(first) = first? else { return Ok(()) };
        match Open::accept(&self, method, &first, &peer) {
            Ok(open) => open.serve(first, inbound, outbox, stopping, admission).await,
            Err((why, status)) => {
                self.hub.metrics.refused_streams.get_or_create(&WhyLabel { why }).inc();
                Err(status)
            }
        }
    }
}

/// A stream that has said who it is.
struct Open {
    hub: Arc<Hub>,
    node: Arc<Node>,
    role: Role,
    number: u64,
    waker: Arc<Notify>,
    method: Method,
    session: Session,
    chosen: Chosen,
}

/// Which snapshots the stream follows, and why.
struct Chosen {
    facts: NodeFacts,
    selection: Selection,
    choices: watch::Receiver<Option<Selector>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Chosen {
    /// The templates have changed: other ones may be meant for this node now. What it has stays until they are
    /// rendered.
    fn choose_again(&mut self, served: &Served) {
        let Some(selection) = served.selection(&self.facts).filter(|chosen| *chosen != self.selection) else {
            return;
        };
        let Some(mut snapshots) = served.follow(&selection) else {
            tracing::error!(node = self.facts.id, %selection, "too many selections of templates");
            return;
        };
        snapshots.mark_changed();
        tracing::info!(node = self.facts.id, %selection, "other templates");
        (self.selection, self.snapshots) = (selection, snapshots);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        tracing::info!(node = self.node.id, role = %self.role, "disconnected");
        self.hub.leave(&self.node, self.role, self.number);
    }
}

impl Open {
    fn accept(
        discovery: &Discovery,
        method: Method,
        first: &Bytes,
        peer: &Peer,
    ) -> Result<Self, (&'static str, Status)> {
        let hub = &discovery.hub;
        let malformed = |error: MalformedRequest| ("malformed", Status::invalid_argument(error.to_string()));
        let node = xds::node_of(first, method.variant).map_err(malformed)?;
        let asker = Asker::of(hub, node.as_ref(), Transport::Stream, peer)
            .map_err(|refused| (refused.why(), refused.into()))?;
        let unready = || ("unready", Status::unavailable("no snapshot for this node yet; try again"));
        let full = |what: String| ("full", Status::resource_exhausted(what));
        if hub.stream_count() >= hub.limits.streams {
            let limit = hub.limits.streams;
            return Err(full(format!("this replica carries at most {limit} streams; use another one")));
        }
        let choices = asker.served.choices();
        let selection = asker.served.selection(&asker.facts).ok_or_else(unready)?;
        let snapshots = asker.served.follow(&selection);
        let snapshots =
            snapshots.ok_or_else(|| full(format!("too many selections of templates: {selection}")))?;
        let snapshot = snapshots.borrow().clone();
        if snapshot.generation() == 0 {
            return Err(unready());
        }
        let Asker { facts, role, served, user_agent } = asker;
        let Entered { node, stream: number, waker } =
            hub.enter(&facts.id, &served.group.name, role, user_agent);
        tracing::info!(node = node.id, %role, variant = ?method.variant, %selection, "connected");
        let session =
            Session::new(hub.clone(), node.clone(), role, number, method.variant, &served.group, snapshot);
        let chosen = Chosen { facts, selection, choices, snapshots };
        Ok(Self { hub: hub.clone(), node, role, number, waker, method, session, chosen })
    }

    async fn serve(
        mut self,
        first: Bytes,
        mut inbound: Messages,
        outbox: &Outbox,
        stopping: watch::Receiver<bool>,
        mut admission: Admission,
    ) -> Result<(), Status> {
        self.receive(&first)?;
        drop(first);
        let mut alarm = pin!(tokio::time::sleep_until(Instant::now()));
        let mut is_set_for = None;
        loop {
            if *stopping.borrow() {
                return Err(drains());
            }
            self.look();
            let now = Instant::now();
            let frames = self.session.responses(now);
            admission.end_if(frames.is_empty() && self.session.is_idle(), now);
            if !frames.is_empty() {
                outbox.put(frames).await;
            }
            let deadline = self.session.deadline(now);
            let deadline = deadline.into_iter().chain(admission.ends()).min();
            if deadline != is_set_for {
                if let Some(at) = deadline {
                    alarm.as_mut().reset(at);
                }
                is_set_for = deadline;
            }
            tokio::select! {
                request = inbound.next() => match request {
                    Ok(Some(request)) => {
                        self.receive(&request)?;
                        // An ACK and the subscription that follows from it come together, and are answered together.
                        while let Some(request) = inbound.ready()? {
                            self.receive(&request)?;
                        }
                    }
                    Ok(None) => break,
                    Err(status) => return Err(status),
                },
                // Another snapshot; or another stream of this node acknowledged something, and a gate may open.
                () = self.waker.notified() => {}
                () = &mut alarm, if is_set_for.is_some() => is_set_for = None,
            }
        }
        Ok(())
    }

    /// Whether there is another snapshot for this stream.
    fn look(&mut self) {
        if self.chosen.choices.has_changed().unwrap_or(false) {
            self.chosen.choices.mark_unchanged();
            if let Some(served) = self.hub.group(&self.node.group) {
                self.chosen.choose_again(served);
            }
        }
        if self.chosen.snapshots.has_changed().unwrap_or(false) {
            let snapshot = self.chosen.snapshots.borrow_and_update().clone();
            if snapshot.generation() > 0 {
                self.session.update(snapshot);
            }
        }
    }

    fn receive(&mut self, request: &Bytes) -> Result<(), Status> {
        let malformed = |error: MalformedRequest| Status::invalid_argument(error.to_string());
        match self.method.variant {
            Variant::Delta => {
                let mut request = DeltaRequest::decode(request).map_err(malformed)?;
                request.type_url = type_url(self.method, request.type_url)?;
                self.session.receive(&request);
            }
            Variant::Sotw => {
                let mut request = SotwRequest::decode(request).map_err(malformed)?;
                request.type_url = type_url(self.method, request.type_url)?;
                self.session.receive_sotw(&request);
            }
        }
        Ok(())
    }
}

/// Who is at the other end. Whoever accepts connections says it; without that nobody is trusted.
pub(crate) fn peer_of(extensions: &http::Extensions) -> Peer {
    extensions.get::<Peer>().cloned().unwrap_or_else(|| Peer::Certified(Arc::from([])))
}

/// The type that a method implies where the request names none. The aggregated service implies nothing, and a
/// service for one type serves no other.
fn type_url(method: Method, given: &str) -> Result<&str, Status> {
    match method.implied.map(ResourceType::url) {
        None if given.is_empty() => {
            Err(Status::invalid_argument("type_url: each request to the aggregated service must carry it"))
        }
        None => Ok(given),
        Some(implied) if given.is_empty() || given == implied => Ok(implied),
        Some(implied) => {
            Err(Status::invalid_argument(format!("type_url: this service is for {implied}, got {given:?}")))
        }
    }
}

/// A place among the streams that are brought up to date.
struct Admission {
    permit: Option<OwnedSemaphorePermit>,
    until: Instant,
}

impl Admission {
    fn begin(permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { permit, until: Instant::now() + ADMISSION_HELD }
    }

    fn ends(&self) -> Option<Instant> {
        self.permit.as_ref().map(|_| self.until)
    }

    fn end_if(&mut self, is_up_to_date: bool, now: Instant) {
        if is_up_to_date || now >= self.until {
            self.permit = None;
        }
    }
}

fn drains() -> Status {
    Status::unavailable("this replica drains; use another one")
}

/// Resolves when the replica drains.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that whoever could say so is gone: the replica is ending.
    let _stopped_or_gone = stopping.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests;
