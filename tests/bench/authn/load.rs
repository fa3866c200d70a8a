//! Asks as Envoy does: a few connections, many requests on each, one for each token of a list.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use envoy_types::pb::envoy::{
    config::core::v3::{HeaderMap, HeaderValue},
    service::auth::v3::{
        AttributeContext, CheckRequest,
        attribute_context::{HttpRequest, Request as Facts},
        authorization_client::AuthorizationClient,
    },
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, task::JoinSet};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// The argument by which this program is the load.
pub(crate) const AS_LOAD: &str = "--load";

const CONNECTIONS: usize = 4;
/// On each of them at the same time.
const IN_FLIGHT: usize = 16;

/// Sends a request for each line of the list; all must be allowed.
pub(crate) async fn run(socket: &Path, list: &Path) -> anyhow::Result<()> {
    let tokens: Arc<Vec<String>> = Arc::new(fs::read_to_string(list)?.lines().map(str::to_owned).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let mut all = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let channel = connect(socket).await?;
        for _ in 0..IN_FLIGHT {
            let (mut client, tokens, next) =
                (AuthorizationClient::new(channel.clone()), tokens.clone(), next.clone());
            all.spawn(async move {
                while let Some(token) = tokens.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let answer = client.check(request(token)).await?.into_inner();
                    let code = answer.status.context("an answer says what it is")?.code;
                    ensure!(code == 0, "refused: {:?}", answer.http_response);
                }
                Ok(())
            });
        }
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(())
}

async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    let socket = socket.to_owned();
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The name is not looked up.
    Ok(Endpoint::from_static("http://sidecar").connect_with_connector(connector).await?)
}

/// What Envoy 1.40 sends of a browser's request: about 1.5 KB.
fn request(token: &str) -> CheckRequest {
    let authorization = format!("Bearer {token}");
    let headers = [
        (":authority", "hello.example.test"),
        (":path", "/rest/api/2/issue/HELLO-1?fields=summary"),
        (":method", "GET"),
        (":scheme", "https"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36",
        ),
        ("accept", "application/json, text/plain, */*"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "0f6a2f6e-7d1c-4f7e-9a55-1d5d0c7d4b11"),
        ("authorization", authorization.as_str()),
    ];
    let header = |(name, value): &(&str, &str)| HeaderValue {
        key: (*name).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..Default::default()
    };
    let http = HttpRequest {
        id: "1234567890".into(),
        method: "GET".into(),
        path: "/rest/api/2/issue/HELLO-1?fields=summary".into(),
        host: "hello.example.test".into(),
        scheme: "https".into(),
        protocol: "HTTP/1.1".into(),
        header_map: Some(HeaderMap { headers: headers.iter().map(header).collect() }),
        ..Default::default()
    };
    let extensions = [("policy", "i-1"), ("rev", "1")];
    let context_extensions: HashMap<_, _> =
        extensions.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Facts { http: Some(http), ..Default::default() }),
            context_extensions,
            ..Default::default()
        }),
    }
}
