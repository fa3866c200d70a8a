//! The discovery services of Envoy over gRPC: which method is which variant and type, and how messages travel as
//! bytes.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use api::ResourceType;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tonic::Status;
use xds::stream::Variant;

use crate::{frame::Frame, undelivered::Ticket};

/// 15,000 names with versions, as a reconnecting Envoy sends them, are about 1 MiB.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// A method of a discovery service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    pub(crate) variant: Variant,
    /// The type of a service for a single one; requests to it may leave it out.
    pub(crate) implied: Option<ResourceType>,
}

/// Package and service below `envoy.service`, the ending of both methods, and the type.
const SERVICES: [(&str, &str, Option<ResourceType>); 10] = [
    ("discovery.v3.AggregatedDiscoveryService", "AggregatedResources", None),
    ("cluster.v3.ClusterDiscoveryService", "Clusters", Some(ResourceType::Cluster)),
    ("endpoint.v3.EndpointDiscoveryService", "Endpoints", Some(ResourceType::Endpoints)),
    ("listener.v3.ListenerDiscoveryService", "Listeners", Some(ResourceType::Listener)),
    ("route.v3.RouteDiscoveryService", "Routes", Some(ResourceType::RouteConfig)),
    ("route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes", Some(ResourceType::ScopedRoutes)),
    ("route.v3.VirtualHostDiscoveryService", "VirtualHosts", Some(ResourceType::VirtualHost)),
    ("secret.v3.SecretDiscoveryService", "Secrets", Some(ResourceType::Secret)),
    ("runtime.v3.RuntimeDiscoveryService", "Runtime", Some(ResourceType::Runtime)),
    ("extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs", Some(ResourceType::ExtensionConfig)),
];

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let mut methods = HashMap::new();
    for (service, ending, implied) in SERVICES {
        for (start, variant) in [("Stream", Variant::Sotw), ("Delta", Variant::Delta)] {
            // Virtual hosts are delta only.
            if implied != Some(ResourceType::VirtualHost) || variant == Variant::Delta {
                let path = format!("/envoy.service.{service}/{start}{ending}");
                methods.insert(path, Method { variant, implied });
            }
        }
    }
    methods
});

impl Method {
    /// The method of this HTTP path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        METHODS.get(path).copied()
    }
}

/// The messages of a request, as the bytes that they are: names are read in place.
pub(crate) struct Messages {
    body: tonic::body::Body,
    buffer: BytesMut,
}

/// One byte that says whether it is compressed, and four of length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;

impl Messages {
    pub(crate) fn of(body: tonic::body::Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// Waits for the first bytes. `false` when there are none.
    pub(crate) async fn has_begun(&mut self) -> bool {
        while self.buffer.is_empty() {
            match self.body.frame().await {
                None | Some(Err(_)) => return false,
                Some(Ok(frame)) => self.keep(frame),
            }
        }
        true
    }

    fn keep(&mut self, frame: http_body::Frame<Bytes>) {
        if let Ok(data) = frame.into_data() {
            self.buffer.extend_from_slice(&data);
        }
    }

    /// The next one, if it is here already.
    pub(crate) fn ready(&mut self) -> Result<Option<Bytes>, Status> {
        self.take()
    }

    /// The next one; `None` when there is no other. What was read stays when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(status)) => {
                    tracing::debug!(error = status.message(), "the client is gone");
                    return Ok(None);
                }
                Some(Ok(frame)) => self.keep(frame),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, rest)) = self.buffer.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not read"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_REQUEST_BYTES {
            let why = format!("a request of {length} bytes; at most {MAX_REQUEST_BYTES} are read");
            return Err(Status::out_of_range(why));
        }
        if rest.len() < length {
            self.buffer.reserve(PREFIX_BYTES + length - self.buffer.len());
            return Ok(None);
        }
        let mut message = self.buffer.split_to(PREFIX_BYTES + length);
        if self.buffer.is_empty() {
            // An empty rest would keep the memory of the largest message for as long as the stream lives.
            self.buffer = BytesMut::new();
        }
        message.advance(PREFIX_BYTES);
        Ok(Some(message.freeze()))
    }
}

/// A stream's session and what it has for its client. The session runs where its responses are asked for, in the task
/// of its connection: an exchange wakes one task. Frames are encoded when their turn comes, into memory that is gone
/// once it was sent.
pub(crate) struct Responses<S> {
    /// `None` when it has ended.
    session: Option<Pin<Box<S>>>,
    outbox: Outbox,
    end: Option<Status>,
    undelivered: Ticket,
}

impl<S: Future<Output = Result<(), Status>> + Send + 'static> Responses<S> {
    /// The HTTP response around them.
    pub(crate) fn over(session: S, outbox: Outbox, undelivered: Ticket) -> http::Response<tonic::body::Body> {
        let session = Some(Box::pin(session));
        let body = tonic::body::Body::new(Self { session, outbox, end: None, undelivered });
        let mut response = http::Response::new(body);
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
        response
    }
}

/// What a session hands over to be sent: one group of frames at a time.
#[derive(Clone, Default)]
pub(crate) struct Outbox(Arc<Mutex<Option<Vec<Frame>>>>);

impl Outbox {
    /// Waits until there is room, which is when what was put before is on its way.
    pub(crate) async fn put(&self, frames: Vec<Frame>) {
        let mut frames = Some(frames);
        // Whoever takes them asks the session again: nobody has to be woken.
        std::future::poll_fn(|_| {
            let mut waiting = self.waiting();
            if waiting.is_some() {
                return Poll::Pending;
            }
            *waiting = frames.take();
            Poll::Ready(())
        })
        .await;
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Frame>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one content type of gRPC.
const GRPC: http::HeaderValue = http::HeaderValue::from_static("application/grpc");

fn trailers(status: &Status) -> http_body::Frame<Bytes> {
    let mut trailers = http::HeaderMap::new();
    // What cannot be a header is left out; the code never is.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
    }
    http_body::Frame::trailers(trailers)
}

impl<S: Future<Output = Result<(), Status>>> http_body::Body for Responses<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = &mut *self;
        // What was handed out before is on its way, or this would not be asked for more.
        this.undelivered.clear();
        if let Some(session) = &mut this.session
            && let Poll::Ready(end) = session.as_mut().poll(context)
        {
            this.session = None;
            this.end = Some(end.err().unwrap_or_else(|| Status::ok("")));
        }
        if let Some(frames) = this.outbox.waiting().take() {
            this.undelivered.set();
            return Poll::Ready(Some(Ok(http_body::Frame::data(encoded(&frames)))));
        }
        match (&this.session, this.end.take()) {
            (Some(_), _) => Poll::Pending,
            (None, Some(status)) => Poll::Ready(Some(Ok(trailers(&status)))),
            (None, None) => Poll::Ready(None),
        }
    }
}

/// What is sent at the same time travels together.
fn encoded(frames: &[Frame]) -> Bytes {
    let size: usize = frames.iter().map(|frame| PREFIX_BYTES + frame.size_hint()).sum();
    let mut bytes = BytesMut::with_capacity(size);
    for frame in frames {
        let begin = bytes.len();
        bytes.put_bytes(0, PREFIX_BYTES);
        frame.encode(&mut bytes);
        let length = u32::try_from(bytes.len() - begin - PREFIX_BYTES).unwrap_or(u32::MAX);
        bytes[begin + 1..begin + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_03_a_service_for_one_type_implies_it_and_the_aggregated_one_does_not() {
        let method = |path: &str| Method::of(path).map(|method| (method.variant, method.implied));
        assert_eq!(
            method("/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"),
            Some((Variant::Sotw, Some(ResourceType::Cluster)))
        );
        assert_eq!(
            method("/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts"),
            Some((Variant::Delta, Some(ResourceType::VirtualHost)))
        );
        assert_eq!(
            method("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"),
            Some((Variant::Delta, None))
        );
        assert_eq!(method("/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts"), None);
    }

    async fn read(bytes: &[u8]) -> Result<Vec<Bytes>, tonic::Code> {
        let body = http_body_util::Full::new(Bytes::copy_from_slice(bytes));
        let mut messages = Messages::of(tonic::body::Body::new(body));
        let mut read = Vec::new();
        while let Some(message) = messages.next().await.map_err(|status| status.code())? {
            read.push(message);
        }
        Ok(read)
    }

    #[tokio::test]
    async fn messages_are_read_as_they_lie_one_behind_the_other() {
        assert_eq!(read(&[0, 0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0]).await.unwrap(), ["ab", ""]);
        // One that is cut short is none.
        assert_eq!(read(&[0, 0, 0, 0, 2, b'a']).await.unwrap(), Vec::<Bytes>::new());
    }

    #[tokio::test]
    async fn what_is_compressed_or_too_large_is_refused() {
        assert_eq!(read(&[1, 0, 0, 0, 0]).await, Err(tonic::Code::Unimplemented));
        assert_eq!(read(&[0, 0xff, 0xff, 0xff, 0xff]).await, Err(tonic::Code::OutOfRange));
    }
}
