//! An issuer and a key server that a test is itself: they sign with the keys of the tests, beside the lab's own issuer.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use lab::Layout;

/// The claim `iss`.
pub const ISSUER: &str = "https://tests.example.test/";
/// Where services' keys are.
pub const KEY_SERVER: &str = "https://keys.example.test/";
/// Of the key on the key server.
pub const KEY_ID: &str = "micros/billing/key-1";

/// The edge trusts both.
pub fn trust(layout: &mut Layout) {
    let keys = |name: &str, jwks: String| {
        let path = layout.data_dir.join(name);
        fs::write(&path, jwks).expect("a file");
        path.display().to_string()
    };
    let own = keys("tests.json", jwt::testing::jwks());
    let served = keys("served.json", jwt::testing::jwks().replace("\"rsa\"", &format!("{KEY_ID:?}")));
    layout.control_plane_args =
        vec![format!("--issuer={ISSUER}={own}"), format!("--issuer={KEY_SERVER}={served}")];
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
