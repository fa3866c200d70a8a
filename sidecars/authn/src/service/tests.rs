//! What a collector of spans is told.

use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext,
    attribute_context::{HttpRequest, Request as Asked},
};
use fetch::{Allowed, Fetcher};
use runtime::SystemClock;
use sidecar::{
    testing::{Collector, attribute, hex},
    traces::Traces,
};
use tonic::Request;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn check(traceparent: Option<&str>) -> CheckRequest {
    let mut headers: std::collections::HashMap<String, String> = [
        ("authorization".to_owned(), "Bearer secret-of-a-client".to_owned()),
        ("x-request-id".to_owned(), "r-1".to_owned()),
    ]
    .into();
    headers.extend(traceparent.map(|text| ("traceparent".to_owned(), text.to_owned())));
    let http = HttpRequest { path: "/?token=hidden".into(), headers, ..Default::default() };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Asked { http: Some(http), ..Default::default() }),
            context_extensions: [("policy".into(), "i-1".into()), ("rev".into(), "3".into())].into(),
            ..Default::default()
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_continues_the_sampled_trace_and_tells_no_secret() {
    let mut collector = Collector::serve().await;
    let traces = Traces::begin(&collector.url, "gatehouse-authn", "edge/1/authn").unwrap();
    let fetcher = Fetcher::new(Allowed::new(Vec::new()), None).unwrap();
    let (state, clock) = (Arc::new(State::default()), Arc::new(SystemClock));
    let service = AuthnService::new(state, Tokens::new([1; 32]), fetcher, clock, Metrics::default())
        .with_observers(Observers::new(None, Some(traces.clone())));
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    // Not sampled, not valid, not there; then by the request, and by the call, which is closer.
    for text in [Some(sampled.replace("-01", "-00")), Some("00-x".into()), None, Some(sampled.clone())] {
        service.check(Request::new(check(text.as_deref()))).await.unwrap();
    }
    let mut call = Request::new(check(Some(&sampled)));
    let closer = sampled.replace(SPAN, "1111111111111111");
    call.metadata_mut().insert("traceparent", closer.parse().unwrap());
    service.check(call).await.unwrap();

    let spans = collector.spans(2).await;
    let all = format!("{spans:?}");
    assert!(!all.contains("secret-of-a-client") && !all.contains("hidden"), "{all}");
    traces.end().await;
    assert_eq!(spans.len(), 2);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE && span.name == "authn check"));
    let parents: Vec<_> = spans.iter().map(|span| hex(&span.parent_span_id)).collect();
    assert_eq!(parents, [SPAN, "1111111111111111"]);
    for (name, value) in [
        ("gatehouse.policy", "i-1@3"),
        ("gatehouse.method", "none"),
        ("gatehouse.result", "unknown_policy"),
        ("gatehouse.status", "503"),
        ("gatehouse.id", "r-1"),
    ] {
        assert_eq!(attribute(&spans[0], name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(spans[0].attributes.len(), 5);
}
