//! Requests to real servers on the loopback interface, which answer whatever bytes a test wants.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{Allowed, Answer, FetchError, Fetcher, Limits, Url};

const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), max_bytes: 1000 };

fn allowed(networks: &[&str]) -> Allowed {
    Allowed::new(networks.iter().map(|text| text.parse().unwrap()).collect())
}

fn loopback() -> Fetcher {
    Fetcher::new(allowed(&["127.0.0.0/8"]), None).unwrap()
}

/// What a server says to the head of a request: bytes, and whether it hangs after them.
type Script = fn(&str) -> (Vec<u8>, bool);

/// Serves one request on each connection. The port, and how many requests came.
async fn server(script: Script) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                answer(socket, script, &counted).await;
            });
        }
    });
    (port, count)
}

async fn answer(mut socket: impl AsyncRead + AsyncWrite + Unpin, script: Script, count: &AtomicUsize) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match socket.read(&mut buffer).await {
            Ok(read) if read > 0 => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    count.fetch_add(1, Ordering::Relaxed);
    let (bytes, hangs) = script(&String::from_utf8_lossy(&head));
    let _gone = socket.write_all(&bytes).await;
    if hangs {
        std::future::pending::<()>().await;
    }
    let _gone = socket.shutdown().await;
}

fn plain(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}

async fn get(port: u16, path: &str) -> Result<Answer, FetchError> {
    get_by(&loopback(), &format!("http://127.0.0.1:{port}{path}")).await
}

async fn get_by(fetcher: &Fetcher, url: &str) -> Result<Answer, FetchError> {
    fetcher.get(&Url::parse(url).unwrap(), None, LIMITS).await
}

#[tokio::test]
async fn an_answer_has_its_body_and_what_is_said_of_its_age() {
    let script: Script = |head| {
        assert!(
            head.contains("if-none-match: \"v1\"") && head.contains("accept-encoding: identity"),
            "{head}"
        );
        let headers =
            "etag: \"v2\"\r\ncache-control: public, max-age=300\r\ncontent-type: application/json\r\n";
        (plain("200 OK", headers, "{}"), false)
    };
    let (port, _) = server(script).await;
    let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
    let answer = loopback().get(&url, Some("\"v1\""), LIMITS).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"{}".as_slice()));
    assert_eq!(answer.max_age, Some(Duration::from_secs(300)));
    assert_eq!(
        (answer.etag.as_deref(), answer.content_type.as_deref()),
        (Some("\"v2\""), Some("application/json"))
    );
}

#[tokio::test]
async fn a_form_is_posted_with_credentials() {
    let script: Script = |head| {
        let (method, rest) = head.split_at(5);
        assert_eq!(method, "POST ");
        assert!(rest.contains("authorization: Basic dTpw"), "{head}");
        (plain("200 OK", "", "{\"active\":true}"), false)
    };
    let (port, _) = server(script).await;
    let url = Url::parse(&format!("http://127.0.0.1:{port}/introspect")).unwrap();
    let answer = loopback().post_form(&url, &[("token", "a b")], Some(("u", "p")), LIMITS).await.unwrap();
    assert_eq!(answer.body, b"{\"active\":true}");
}

#[tokio::test]
async fn redirects_stay_at_their_origin_and_end() {
    let script: Script = |head| {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let location = match path.as_str() {
            "/once" => "/here",
            "/loop" => "/loop",
            "/away" => "http://127.0.0.2/here",
            "/inside" => "http://169.254.169.254/latest/meta-data/",
            "/scheme" => "https://127.0.0.1/here",
            "/file" => "file:///etc/passwd",
            _ => return (plain("200 OK", "", "here"), false),
        };
        (plain("302 Found", &format!("location: {location}\r\n"), ""), false)
    };
    let (port, count) = server(script).await;
    assert_eq!(get(port, "/once").await.unwrap().body, b"here");
    for path in ["/away", "/inside", "/scheme", "/file"] {
        let error = get(port, path).await.unwrap_err().to_string();
        assert!(error.contains("a redirect to another host"), "{path}: {error}");
    }
    let before = count.load(Ordering::Relaxed);
    let error = get(port, "/loop").await.unwrap_err().to_string();
    assert!(error.ends_with("more than 3 redirects"), "{error}");
    assert_eq!(count.load(Ordering::Relaxed) - before, 4);
    let url = Url::parse(&format!("http://127.0.0.1:{port}/once")).unwrap();
    assert_eq!(
        loopback().post_form(&url, &[], None, LIMITS).await.unwrap().status,
        302,
        "a form goes nowhere else"
    );
}

#[tokio::test]
async fn a_body_is_bounded_whatever_is_said_of_its_length() {
    let script: Script = |head| {
        let body = "x".repeat(1001);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let bytes = match path {
            "/said" => plain("200 OK", "", &body),
            "/fits" => plain("200 OK", "", &body[1..]),
            "/silent" => format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}").into_bytes(),
            "/chunks" => {
                let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                // And never an end.
                return (format!("{head}{}", chunk.repeat(3)).into_bytes(), true);
            }
            "/lies" => {
                format!("HTTP/1.1 200 OK\r\ncontent-length: 2000\r\nconnection: close\r\n\r\n{body}").into()
            }
            "/short" => b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\nconnection: close\r\n\r\nxx".to_vec(),
            _ => plain("200 OK", "content-encoding: gzip\r\n", "bomb"),
        };
        (bytes, false)
    };
    let (port, _) = server(script).await;
    assert_eq!(get(port, "/fits").await.unwrap().body.len(), 1000);
    for path in ["/said", "/silent", "/chunks", "/lies"] {
        let error = get(port, path).await.unwrap_err();
        assert!(matches!(error, FetchError::Large { max_bytes: 1000, .. }), "{path}: {error}");
    }
    assert!(matches!(get(port, "/short").await, Err(FetchError::Failed { .. })));
    assert!(get(port, "/gzip").await.unwrap_err().to_string().contains("compressed"));
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_no_longer_than_the_timeout() {
    let script: Script = |head| match head.split(' ').nth(1) {
        Some("/body") => (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nx".to_vec(), true),
        Some("/redirect") => (plain("302 Found", "location: /head\r\n", ""), false),
        _ => (Vec::new(), true),
    };
    let (port, _) = server(script).await;
    let limits = Limits { timeout: Duration::from_millis(200), ..LIMITS };
    for path in ["/head", "/body", "/redirect"] {
        let url = Url::parse(&format!("http://127.0.0.1:{port}{path}")).unwrap();
        let error = loopback().get(&url, None, limits).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{url}: no whole answer within 0.2 s"));
    }
}

#[tokio::test]
async fn nothing_inside_is_asked_by_address_or_by_name() {
    let (port, count) = server(|_| (plain("200 OK", "", "secret"), false)).await;
    let fetcher = Fetcher::new(Allowed::default(), None).unwrap();
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "0.0.0.0"]
    {
        for scheme in ["http", "https"] {
            let error =
                get_by(&fetcher, &format!("{scheme}://{host}:{port}/")).await.unwrap_err().to_string();
            assert!(error.contains(" is denied: "), "{host}: {error}");
        }
    }
    let error = get_by(&fetcher, "https://169.254.169.254/latest/").await.unwrap_err().to_string();
    assert_eq!(error, "https://169.254.169.254/latest/: 169.254.169.254 is denied: link-local");
    for other in ["ftp://example.test/", "file:///etc/passwd", "gopher://127.0.0.1/"] {
        assert!(get_by(&fetcher, other).await.unwrap_err().to_string().ends_with("an https URL"), "{other}");
    }
    // Elsewhere is allowed, which does not help.
    let other = Fetcher::new(allowed(&["10.0.0.0/8"]), None).unwrap();
    assert!(get_by(&other, &format!("http://localhost:{port}/")).await.is_err());
    // Without TLS nobody on the internet is asked: there is no packet sent to find that out.
    let error = get_by(&loopback(), "http://1.1.1.1/").await.unwrap_err().to_string();
    assert!(error.contains("http needs an allowed network"), "{error}");
    assert_eq!(count.load(Ordering::Relaxed), 0);
    assert_eq!(get_by(&loopback(), &format!("http://localhost:{port}/")).await.unwrap().body, b"secret");
}

#[tokio::test]
async fn an_error_tells_no_credentials() {
    let url = Url::parse("https://user:hush@127.0.0.1/path?token=hush#hush").unwrap();
    let error = loopback().get(&url, None, LIMITS).await.unwrap_err().to_string();
    assert_eq!(error, "https://127.0.0.1/path: a URL without a user");
    let url = Url::parse("https://127.0.0.1:1/path?token=hush").unwrap();
    let error = loopback().get(&url, None, LIMITS).await.unwrap_err().to_string();
    assert!(error.starts_with("https://127.0.0.1:1/path: ") && !error.contains("hush"), "{error}");
}

#[tokio::test]
async fn a_private_ca_is_trusted_where_it_is_given() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(socket) = acceptor.accept(socket).await else { continue };
            answer(socket, |_| (plain("200 OK", "", "safe"), false), &AtomicUsize::new(0)).await;
        }
    });
    let networks = || allowed(&["127.0.0.0/8"]);
    let knowing = Fetcher::new(networks(), Some(certificate.pem().as_bytes())).unwrap();
    assert_eq!(get_by(&knowing, &url).await.unwrap().body, b"safe");
    let stranger = get_by(&Fetcher::new(networks(), None).unwrap(), &url).await.unwrap_err().to_string();
    assert!(stranger.contains("ertificate"), "{stranger}");
    // A CA that is known opens nothing inside.
    let inside = Fetcher::new(Allowed::default(), Some(certificate.pem().as_bytes())).unwrap();
    assert!(get_by(&inside, &url).await.unwrap_err().to_string().contains("localhost is denied: loopback"));
    assert!(Fetcher::new(networks(), Some(b"no certificate")).is_err());
}
