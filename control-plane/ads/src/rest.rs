//! REST-JSON: `POST /v3/discovery:<type>`, for fleets that poll. A poll that finds nothing new compares two hashes and
//! touches no body.
//!
//! Envoy never says over REST that it refused something (rule 61): it goes on polling with the version that it
//! accepted last. So that is what is kept of each node.

use std::{sync::Arc, time::Duration};

use api::{ResourceType, Role};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use envoy_types::pb::{
    envoy::{
        config::core::v3::{BuildVersion, Locality, Node as WireNode, node::UserAgentVersionType},
        r#type::v3::SemanticVersion,
    },
    google::protobuf::{Struct, Value as WireValue, value::Kind},
};
use model::node::Transport;
use resources::{Resource, Snapshot, response_of, version_of};
use serde::Deserialize;
use serde_json::{Map, Value};
use xds::stream::{Desired as _, Version};

use crate::{
    Discovery, Peer,
    asker::{self, Asker},
    metrics::RestLabel,
    pollers::Poll,
    service::peer_of,
};

/// 10,000 names of endpoints are about 1 MB.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;
/// A header is no place for more.
const MAX_NAMES_IN_HEADER: usize = 16;
/// A client that comes before its selection is rendered waits for it so long: less than Envoy's time-out of 1 s.
const RENDER_DEADLINE: Duration = Duration::from_millis(800);

pub(crate) fn router(discovery: Discovery) -> Router {
    Router::new()
        .route("/v3/{discovery}", post(poll))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(discovery)
}

/// A `DiscoveryRequest` as proto3 JSON, in either spelling of its names; unknown fields are those of newer Envoys.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestRequest {
    #[serde(alias = "versionInfo")]
    version_info: String,
    node: Option<RestNode>,
    #[serde(alias = "resourceNames")]
    resource_names: Vec<String>,
    #[serde(alias = "typeUrl")]
    type_url: String,
    #[serde(alias = "errorDetail")]
    error_detail: Option<RestStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestStatus {
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestNode {
    id: String,
    cluster: String,
    metadata: Map<String, Value>,
    locality: RestLocality,
    #[serde(alias = "userAgentName")]
    user_agent_name: String,
    #[serde(alias = "userAgentVersion")]
    user_agent_version: String,
    #[serde(alias = "userAgentBuildVersion")]
    user_agent_build_version: RestBuild,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestLocality {
    region: String,
    zone: String,
    #[serde(alias = "subZone")]
    sub_zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestBuild {
    version: RestVersion,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestVersion {
    #[serde(alias = "majorNumber")]
    major_number: u32,
    #[serde(alias = "minorNumber")]
    minor_number: u32,
    patch: u32,
}

impl From<RestNode> for WireNode {
    fn from(node: RestNode) -> Self {
        let RestVersion { major_number, minor_number, patch } = node.user_agent_build_version.version;
        let version = if node.user_agent_version.is_empty() {
            let version = Some(SemanticVersion { major_number, minor_number, patch });
            UserAgentVersionType::UserAgentBuildVersion(BuildVersion { version, metadata: None })
        } else {
            UserAgentVersionType::UserAgentVersion(node.user_agent_version)
        };
        let RestLocality { region, zone, sub_zone } = node.locality;
        Self {
            id: node.id,
            cluster: node.cluster,
            metadata: Some(wire_struct(node.metadata)),
            locality: Some(Locality { region, zone, sub_zone }),
            user_agent_name: node.user_agent_name,
            user_agent_version_type: Some(version),
            ..Self::default()
        }
    }
}

fn wire_struct(fields: Map<String, Value>) -> Struct {
    let value = |value| {
        let kind = match value {
            Value::String(text) => Kind::StringValue(text),
            Value::Bool(is) => Kind::BoolValue(is),
            Value::Number(number) => Kind::NumberValue(number.as_f64()?),
            Value::Object(fields) => Kind::StructValue(wire_struct(fields)),
            Value::Array(_) | Value::Null => return None,
        };
        Some(WireValue { kind: Some(kind) })
    };
    let fields = fields.into_iter().filter_map(|(name, field)| Some((name, value(field)?)));
    Struct { fields: fields.collect() }
}

/// What is wrong with a poll, for whoever reads Envoy's log.
struct Refused(StatusCode, String);

impl From<asker::Refused> for Refused {
    fn from(refused: asker::Refused) -> Self {
        match refused {
            asker::Refused::Malformed(why) => Self(StatusCode::BAD_REQUEST, why),
            asker::Refused::Forbidden(why) => Self(StatusCode::FORBIDDEN, why),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "description": self.1 });
        (self.0, axum::Json(body)).into_response()
    }
}

/// The type behind the last part of the path: `discovery:clusters`, and `scoped-routes` for `scoped_routes`.
fn kind_of(path: &str) -> Result<ResourceType, Refused> {
    let label = path.strip_prefix("discovery:").unwrap_or_default().replace('-', "_");
    let kind = ResourceType::from_label(&label)
        .filter(|kind| kind.role() == Role::Envoy && *kind != ResourceType::VirtualHost);
    kind.ok_or_else(|| {
        Refused(StatusCode::NOT_FOUND, format!("path: not a type that is served over REST, got {path:?}"))
    })
}

async fn poll(
    State(discovery): State<Discovery>,
    Path(path): Path<String>,
    extensions: Extensions,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answered = answer(&discovery, &path, &peer_of(&extensions), &headers, &body).await;
    let kind = kind_of(&path).map_or("unknown", ResourceType::label);
    let response = answered.unwrap_or_else(IntoResponse::into_response);
    let label = RestLabel { kind, status: response.status().as_u16() };
    discovery.hub.metrics.rest_requests.get_or_create(&label).inc();
    response
}

async fn answer(
    discovery: &Discovery,
    path: &str,
    peer: &Peer,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, Refused> {
    let bad = |why: String| Refused(StatusCode::BAD_REQUEST, why);
    let kind = kind_of(path)?;
    let request: RestRequest = serde_json::from_slice(body).map_err(|error| bad(format!("body: {error}")))?;
    if !request.type_url.is_empty() && request.type_url != kind.url() {
        return Err(bad(format!("type_url: must be {:?} here, got {:?}", kind.url(), request.type_url)));
    }
    let node = request.node.map(WireNode::from);
    let hub = &discovery.hub;
    let asker = Asker::of(hub, node.as_ref(), Transport::Rest, peer)?;
    let snapshot = rendered(&asker).await?;
    let table = match kind {
        ResourceType::RouteConfig => hub.routes_for_poller(&asker, &snapshot),
        kind => snapshot.table(kind).clone(),
    };
    let found: Option<Vec<Arc<Resource>>> = (!request.resource_names.is_empty())
        .then(|| request.resource_names.iter().filter_map(|name| table.find(name).cloned()).collect());
    let version = found.as_ref().map_or_else(|| table.version(), |found| version_of(found.iter()));
    let news = hub.pollers.note(
        &asker,
        Poll {
            kind,
            asked: &request.version_info,
            error: request.error_detail.map(|status| status.message),
            served: version.clone(),
            table: table.clone(),
            snapshot,
        },
    );
    if news {
        hub.announce();
    }
    let mut response = if *version == *request.version_info {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let body =
            found.map_or_else(|| table.response(kind), |found| response_of(kind, &version, found.iter()));
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    let about = About { asker: &asker, asked: &request.version_info, names: &request.resource_names };
    about.put_headers(path, &version, headers, response.headers_mut());
    Ok(response)
}

/// The snapshot of a node that polls. The first one of its kind waits a moment for it.
async fn rendered(asker: &Asker<'_>) -> Result<Arc<Snapshot>, Refused> {
    let unready =
        || Refused(StatusCode::SERVICE_UNAVAILABLE, "no snapshot for this node yet; try again".to_owned());
    let selection = asker.served.selection(&asker.facts).ok_or_else(unready)?;
    let mut snapshots = asker.served.follow(&selection).ok_or_else(|| {
        Refused(StatusCode::SERVICE_UNAVAILABLE, format!("too many selections of templates: {selection}"))
    })?;
    let is_there = |snapshot: &Arc<Snapshot>| snapshot.generation() > 0;
    let waited = tokio::time::timeout(RENDER_DEADLINE, snapshots.wait_for(is_there)).await;
    match waited {
        Ok(Ok(snapshot)) => Ok(snapshot.clone()),
        _ => Err(unready()),
    }
}

/// What the predecessor told in headers, for whoever still reads them.
struct About<'a> {
    asker: &'a Asker<'a>,
    asked: &'a str,
    names: &'a [String],
}

impl About<'_> {
    fn put_headers(&self, path: &str, version: &Version, given: &HeaderMap, headers: &mut HeaderMap) {
        let names = match self.names {
            [] => "all".to_owned(),
            names => names[..names.len().min(MAX_NAMES_IN_HEADER)].join(","),
        };
        let told = [
            ("x-sovereign-client-build", self.asker.facts.version.as_str()),
            ("x-sovereign-client-version", self.asked),
            ("x-sovereign-requested-resources", &names),
            ("x-sovereign-requested-type", path.trim_start_matches("discovery:")),
            ("x-sovereign-response-version", version),
        ];
        for (name, value) in told {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        let request_id = HeaderName::from_static("x-request-id");
        if let Some(id) = given.get(&request_id) {
            headers.insert(request_id, id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_63_both_spellings_are_read_and_newer_fields_are_skipped() {
        let node = r#""id": "edge/i-1", "cluster": "edge", "extensions": [{"name": "x"}], "new_in_1_99": 7"#;
        for text in [
            format!(
                r#"{{"version_info": "v", "type_url": "t", "resource_names": ["a"], "node": {{{node},
                "user_agent_build_version": {{"version": {{"major_number": 1, "minor_number": 40}}}}}}}}"#
            ),
            format!(
                r#"{{"versionInfo": "v", "typeUrl": "t", "resourceNames": ["a"], "newer": [1], "node": {{{node},
                "userAgentBuildVersion": {{"version": {{"majorNumber": 1, "minorNumber": 40}}}}}}}}"#
            ),
        ] {
            let request: RestRequest = serde_json::from_str(&text).unwrap();
            assert_eq!((request.version_info.as_str(), request.type_url.as_str()), ("v", "t"));
            assert_eq!(request.resource_names, ["a"]);
            let version = request.node.unwrap().user_agent_build_version.version;
            assert_eq!((version.major_number, version.minor_number, version.patch), (1, 40, 0));
        }
    }

    #[test]
    fn rule_62_the_paths_are_those_of_the_annotations_and_no_other_type_is_served() {
        for (path, kind) in [
            ("discovery:clusters", ResourceType::Cluster),
            ("discovery:endpoints", ResourceType::Endpoints),
            ("discovery:listeners", ResourceType::Listener),
            ("discovery:routes", ResourceType::RouteConfig),
            ("discovery:scoped-routes", ResourceType::ScopedRoutes),
            ("discovery:secrets", ResourceType::Secret),
            ("discovery:runtime", ResourceType::Runtime),
            ("discovery:extension_configs", ResourceType::ExtensionConfig),
        ] {
            assert!(kind_of(path).is_ok_and(|found| found == kind), "{path}");
        }
        for path in
            ["clusters", "discovery:virtual_hosts", "discovery:authn_policies", "discovery:", "x:clusters"]
        {
            assert!(kind_of(path).is_err(), "{path}");
        }
    }
}
