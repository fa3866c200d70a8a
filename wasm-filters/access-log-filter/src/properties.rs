//! Reads what Envoy knows of the request that has just ended. Whatever cannot be read is absent.
//!
//! Headers are read as properties, one by one: the ABI's header maps do not exist for a request that Envoy
//! could not parse, and the SDK panics then.

use access_log::{Authn, Authz, Facts, Flags, Lookup, Map, RateLimit, Settings, integer, text};
use proxy_wasm::hostcalls;

/// Where the control plane puts a route's settings: one JSON object as a text, so that it is one host call.
const SETTINGS: [&str; 5] = ["xds", "route_metadata", "filter_metadata", "gatehouse.access_log", "json"];

/// The namespace that authentication and authorization share; `ext_authz` gives it its name.
const EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";

/// The namespace of the rate limiter.
const RATE_LIMIT: &str = "envoy.filters.http.ratelimit";

/// The settings that the route carries.
pub(crate) fn settings() -> Option<Vec<u8>> {
    property(&SETTINGS)
}

/// What decides whether the request is written.
pub(crate) fn first_facts() -> Facts {
    Facts {
        time_ns: number(&["request", "time"]).unwrap_or_default(),
        request_id: string(&["request", "id"]),
        status: number(&["response", "code"]).and_then(|code| code.try_into().ok()).unwrap_or_default(),
        ..Facts::default()
    }
}

/// All the rest.
pub(crate) fn all_facts(first: Facts, settings: &Settings) -> Facts {
    Facts {
        duration_ns: number(&["request", "duration"]),
        method: string(&["request", "method"]),
        host: string(&["request", "host"]),
        path: string(&["request", "path"]),
        protocol: string(&["request", "protocol"]),
        client: string(&["source", "address"]),
        request_bytes: number(&["request", "size"]),
        response_bytes: number(&["response", "size"]),
        flags: Flags(number(&["response", "flags"]).unwrap_or_default()),
        details: string(&["response", "code_details"]),
        upstream: string(&["upstream", "address"]),
        upstream_duration_ns: number(&["response", "backend_latency"]),
        headers: headers(settings),
        authn: map(&["metadata", "filter_metadata", EXT_AUTHZ, "authn"], Authn::read),
        authz: map(&["metadata", "filter_metadata", EXT_AUTHZ, "authz"], Authz::read),
        rate_limit: map(&["metadata", "filter_metadata", RATE_LIMIT], RateLimit::read),
        ..first
    }
}

fn headers(settings: &Settings) -> Vec<(String, String)> {
    let present = settings.header_names().filter_map(|name| {
        let value = string(&["request", "headers", name])?;
        Some((name.to_owned(), value))
    });
    present.collect()
}

/// Once, rather than at each of its many calls: a module's size is the time that Envoy takes to load it.
#[inline(never)]
fn property(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok().flatten()
}

/// See [`property`].
#[inline(never)]
fn string(path: &[&str]) -> Option<String> {
    property(path).map(text)
}

/// See [`property`].
#[inline(never)]
fn number(path: &[&str]) -> Option<u64> {
    property(path).and_then(|bytes| integer(&bytes))
}

/// A map of the dynamic metadata, in one host call. One value that Envoy cannot serialize, such as a null,
/// spoils the whole map; then its fields are asked for one by one, since a subject is worth that.
fn map<T>(path: &[&str], read: fn(Lookup<'_>) -> T) -> Option<T> {
    match hostcalls::get_property(path.to_vec()) {
        Ok(bytes) => {
            let bytes = bytes?;
            let map = Map::read(&bytes)?;
            Some(read(&|name| map.get(name).map(<[u8]>::to_vec)))
        }
        Err(_) => Some(read(&|name| property(&[path, &[name]].concat()))),
    }
}
