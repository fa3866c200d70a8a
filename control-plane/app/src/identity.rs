//! Tokens by which upstreams are told who sends a request: the keys for the sidecars, as a value of the context, and the
//! public ones for everybody.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::keys::IdentitySecret;
use anyhow::Context as _;
use axum::{Json, Router, http::header::CACHE_CONTROL, response::IntoResponse as _, routing::get};
use runtime::files;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

/// `context.identity_keys` of templates.
pub(crate) const IDENTITY_KEYS: &str = "identity_keys";

/// Who signs for one group.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    secret: Arc<IdentitySecret>,
    group: String,
    /// The claim `iss`: an https URL, at which upstreams reach [`Identity::router`].
    issuer: String,
}

/// A clock that is set is noticed after this.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// Upstreams may keep the public keys for so long: the next one is among them for a day before it signs.
const MAX_AGE: &str = "public, max-age=3600";

impl Identity {
    /// With the secret of this file; one that is not there is made.
    pub(crate) fn read(path: &Path, group: &str, issuer: &str) -> anyhow::Result<Self> {
        if !path.exists() {
            let line = IdentitySecret::generate().map_err(anyhow::Error::msg).context("making the secret")?;
            files::replace(path, &[line.as_bytes(), b"\n"])
                .with_context(|| format!("writing {}", path.display()))?;
        }
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let secret = IdentitySecret::parse(&text).map_err(anyhow::Error::msg);
        let secret = secret.with_context(|| path.display().to_string())?;
        Ok(Self { secret: Arc::new(secret), group: group.to_owned(), issuer: issuer.to_owned() })
    }

    /// What the sidecars sign with; another value each day.
    fn keys(&self, tasks: &mut JoinSet<()>) -> watch::Receiver<Arc<Value>> {
        let own = self.clone();
        let signing = move || own.secret.signing(&own.group, &own.issuer, now());
        let (sender, receiver) = watch::channel(Arc::new(signing()));
        tasks.spawn(async move {
            loop {
                let until = Duration::from_secs(IdentitySecret::changes_in(now()));
                tokio::time::sleep(until.min(LOOK_AGAIN)).await;
                let keys = signing();
                sender.send_if_modified(|known| {
                    let is_new = **known != keys;
                    if is_new {
                        *known = Arc::new(keys);
                    }
                    is_new
                });
            }
        });
        receiver
    }

    /// What upstreams verify with, for anybody: a JWK Set, and where it is (OpenID Connect Discovery 1.0 section 4).
    fn router(&self) -> Router {
        let (own, issuer) = (self.clone(), self.issuer.clone());
        let jwks = move || {
            let keys = own.secret.public(&own.group, now());
            async move { ([(CACHE_CONTROL, MAX_AGE)], Json(keys)).into_response() }
        };
        let discovery = move || {
            let slash = if issuer.ends_with('/') { "" } else { "/" };
            let found = json!({
                "issuer": issuer,
                "jwks_uri": format!("{issuer}{slash}jwks.json"),
                "id_token_signing_alg_values_supported": ["ES256"],
                "response_types_supported": ["none"],
                "subject_types_supported": ["public"],
            });
            async move { ([(CACHE_CONTROL, MAX_AGE)], Json(found)).into_response() }
        };
        Router::new()
            .route("/identity/jwks.json", get(jwks))
            .route("/identity/.well-known/openid-configuration", get(discovery))
    }
}

/// What the sidecars sign with: nothing, where nobody signs.
pub(crate) fn keys(who: Option<&Identity>, tasks: &mut JoinSet<()>) -> watch::Receiver<Arc<Value>> {
    // Without a sender nothing changes.
    who.map_or_else(|| watch::channel(Arc::new(json!([]))).1, |identity| identity.keys(tasks))
}

/// What anybody may ask for.
pub(crate) fn router(who: Option<&Identity>) -> Router {
    who.map(Identity::router).unwrap_or_default()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
