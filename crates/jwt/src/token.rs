//! JWT access tokens (RFC 7519, RFC 7515), read more strictly than libraries do.
//!
//! A library checks the signature; header and claims are read here, so that a missing, mistyped or unknown
//! part is a refusal and never a default.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use api::authn::{Algorithm, Jwt};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value};

use crate::Keys;

/// What a token says of its bearer, proven by its issuer's signature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// `iss`
    pub issuer: String,
    /// `sub`
    pub subject: String,
    /// The claim that the method reads a tenant from.
    pub tenant: Option<String>,
    /// `scope` or `scp`, with one space between two.
    pub scopes: String,
    /// The claim that the method reads groups from.
    pub groups: Vec<String>,
    /// `exp`: seconds since the epoch.
    pub expires: f64,
    /// `iat`: seconds since the epoch.
    pub issued_at: Option<f64>,
    /// `jti`
    pub id: Option<String>,
    /// `sid`: the session that it belongs to.
    pub session: Option<String>,
    /// What its bearer has to prove beside.
    pub confirmation: Confirmation,
    /// Those that the method carries.
    pub claims: Carried,
}

/// Claims that authorization is told, with their values as texts.
pub type Carried = Vec<(String, Vec<String>)>;

/// `cnf` (RFC 7800): what only the one that a token was issued to can show. All that is here must be shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// `jkt`: the thumbprint of a key that signs a proof for each request (RFC 9449 section 6.1).
    pub key: Option<Thumbprint>,
    /// `x5t#S256`: that of the client's certificate (RFC 8705 section 3.1).
    pub certificate: Option<Thumbprint>,
}

/// SHA-256 of a key or a certificate.
pub type Thumbprint = [u8; 32];

impl Confirmation {
    /// Whether whoever has the token may use it.
    pub fn is_none(&self) -> bool {
        self.key.is_none() && self.certificate.is_none()
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum InvalidToken {
    Malformed,
    TooLong,
    Unsupported,
    Type,
    Issuer,
    Algorithm,
    Signature,
    UnknownKey,
    Audience,
    Expired,
    NotYetValid,
    Lifetime,
    Claims,
}

impl InvalidToken {
    /// For the client; tells nothing that helps to forge one.
    pub fn text(self) -> &'static str {
        match self {
            Self::Malformed => "the token is malformed",
            Self::TooLong => "the token is too long",
            Self::Unsupported => "the token needs something that is not supported",
            Self::Type => "the token is of a type that is for something else",
            Self::Issuer => "the token's issuer is not trusted here",
            Self::Algorithm => "the token's algorithm is not allowed",
            Self::Signature => "the token's signature is wrong",
            Self::UnknownKey => "the token's key is not one of its issuer's",
            Self::Audience => "the token is for another audience",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Lifetime => "the token lives longer than is allowed",
            Self::Claims => "the token lacks a claim that is required, or has it in another type",
        }
    }
}

/// Why there is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The client's fault.
    Invalid(InvalidToken),
    /// Ours: the keys of a trusted issuer are not here.
    NoKeys,
}

impl From<InvalidToken> for Refusal {
    fn from(invalid: InvalidToken) -> Self {
        Self::Invalid(invalid)
    }
}

/// Real tokens have one to four KiB; a signature check reads all of it.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// A `kid` is compared, or looked up; longer ones are no names.
const MAX_KID_BYTES: usize = 256;
/// Of a subject and the like: they become header values.
const MAX_TEXT_BYTES: usize = 2 * 1024;
/// A bearer of more is better described by a reference.
const MAX_GROUPS: usize = 256;
/// Of the values of all claims that are carried: they are remembered, and travel with each request.
const MAX_CARRIED_BYTES: usize = 2 * 1024;
/// Between the issuer's clock and ours.
pub const LEEWAY_SECS: f64 = 30.0;

/// RFC 7515 section 4. `crit` and `b64` change how a signature is read; `zip` belongs to encrypted tokens. What
/// points to keys (`jwk`, `jku`, `x5u`) is not even looked at.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    typ: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    crit: Presence,
    #[serde(default, deserialize_with = "present")]
    b64: Presence,
    #[serde(default, deserialize_with = "present")]
    zip: Presence,
    #[serde(default, deserialize_with = "present")]
    enc: Presence,
}

/// Whether a field stands there at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Presence {
    #[default]
    Absent,
    Present,
}

/// Whatever the value is, also null.
pub(crate) fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Presence, D::Error> {
    IgnoredAny::deserialize(value).map(|_| Presence::Present)
}

/// RFC 7519 section 4.1 and RFC 9068 section 2.2. A claim that stands twice is an error of the reader.
#[derive(Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: Option<String>,
    aud: OneOrMany,
    pub(crate) exp: f64,
    nbf: Option<f64>,
    pub(crate) iat: Option<f64>,
    pub(crate) jti: Option<String>,
    sid: Option<String>,
    scope: Option<String>,
    scp: Option<OneOrMany>,
    tenant: Option<Value>,
    groups: Option<Value>,
    cnf: Option<Cnf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// RFC 7800 section 3.1.
#[derive(Deserialize)]
struct Cnf {
    jkt: Option<String>,
    #[serde(rename = "x5t#S256")]
    x5t: Option<String>,
}

/// A token that was read; nothing of it is proven.
pub struct Token<'t> {
    signed: &'t str,
    signature: &'t str,
    algorithm: Option<Algorithm>,
    key_id: Option<String>,
    json: Vec<u8>,
    pub(crate) claims: Claims,
}

impl<'t> Token<'t> {
    /// Takes a compact token apart.
    ///
    /// # Errors
    /// It is none, or of a kind that no access token has.
    pub fn read(token: &'t str) -> Result<Self, InvalidToken> {
        let Parts { signed, signature, header, claims: json } = parts(token)?;
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| InvalidToken::Malformed)?;
        let unsupported = [header.crit, header.b64, header.zip, header.enc].contains(&Presence::Present);
        if unsupported || header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(InvalidToken::Unsupported);
        }
        if header.typ.as_deref().is_some_and(|typ| !is_access_token(typ)) {
            return Err(InvalidToken::Type);
        }
        let claims: Claims = serde_json::from_slice(&json).map_err(|_| InvalidToken::Claims)?;
        let algorithm = Algorithm::from_name(&header.alg);
        let key_id = header.kid.map(Cow::into_owned);
        Ok(Self { signed, signature, algorithm, key_id, json, claims })
    }

    /// `iss`: whose keys must prove the token.
    pub fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// `kid`: which of them.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Verifies the token for a method that trusts its issuer. `now` in seconds since the epoch.
    ///
    /// # Errors
    /// It is not good for it.
    pub fn verify(&self, method: &Jwt, keys: &Keys, now: f64) -> Result<Verified, InvalidToken> {
        if *method.issuer != self.claims.iss {
            return Err(InvalidToken::Issuer);
        }
        self.check_signature(keys, &method.algorithms)?;
        self.check_claims(&method.audiences, now)?;
        let subject = self.claims.sub.clone().ok_or(InvalidToken::Claims)?;
        let tenant = self.claim(method.tenant_claim.as_deref(), "tenant", self.claims.tenant.as_ref())?;
        let groups = self.claim(method.groups_claim.as_deref(), "groups", self.claims.groups.as_ref())?;
        Ok(Verified {
            tenant: tenant.map(one_text).transpose()?,
            groups: groups.map(all_texts).transpose()?.unwrap_or_default(),
            claims: carried(&self.json, &method.claims)?,
            ..self.verified(subject)?
        })
    }

    /// One of these algorithms, and a key of this id where the token names one.
    pub(crate) fn check_signature(&self, keys: &Keys, allowed: &[Algorithm]) -> Result<(), InvalidToken> {
        let algorithm = self.algorithm.filter(|named| allowed.contains(named));
        let algorithm = algorithm.ok_or(InvalidToken::Algorithm)?;
        if self.key_id().is_some_and(|id| !keys.has(id)) {
            return Err(InvalidToken::UnknownKey);
        }
        let proof = BASE64_URL_SAFE_NO_PAD.decode(self.signature).map_err(|_| InvalidToken::Signature)?;
        let mut candidates = keys.candidates(self.key_id(), algorithm);
        if candidates.any(|key| key.verify_sig(self.signed.as_bytes(), &proof).is_ok()) {
            Ok(())
        } else {
            Err(InvalidToken::Signature)
        }
    }

    /// For whom and when.
    pub(crate) fn check_claims(&self, audiences: &[String], now: f64) -> Result<(), InvalidToken> {
        let Claims { aud, exp, nbf, iat, .. } = &self.claims;
        if !aud.as_slice().iter().any(|audience| audiences.contains(audience)) {
            return Err(InvalidToken::Audience);
        }
        if !exp.is_finite() {
            return Err(InvalidToken::Claims);
        }
        if exp + LEEWAY_SECS <= now {
            return Err(InvalidToken::Expired);
        }
        if [nbf, iat].into_iter().flatten().any(|from| from - LEEWAY_SECS > now) {
            return Err(InvalidToken::NotYetValid);
        }
        Ok(())
    }

    /// What it says of this subject.
    pub(crate) fn verified(&self, subject: String) -> Result<Verified, InvalidToken> {
        let claims = &self.claims;
        let texts = [Some(&subject), claims.jti.as_ref(), claims.sid.as_ref()];
        if !texts.into_iter().flatten().all(|text| is_text(text)) {
            return Err(InvalidToken::Claims);
        }
        Ok(Verified {
            issuer: claims.iss.clone(),
            subject,
            scopes: self.scopes(),
            expires: claims.exp,
            issued_at: claims.iat,
            id: claims.jti.clone(),
            session: claims.sid.clone(),
            confirmation: self.confirmation()?,
            ..Verified::default()
        })
    }

    fn scopes(&self) -> String {
        // Some issuers say `scp`, as a list or separated by spaces.
        let others = self.claims.scp.iter().flat_map(OneOrMany::as_slice);
        let lists = self.claims.scope.iter().chain(others);
        let mut scopes = String::new();
        for scope in lists.flat_map(|list| list.split(' ')).filter(|scope| !scope.is_empty()) {
            if !scopes.is_empty() {
                scopes.push(' ');
            }
            scopes.push_str(scope);
        }
        scopes
    }

    /// A claim that a method may read under another name.
    fn claim(
        &self,
        named: Option<&str>,
        usual: &str,
        found: Option<&Value>,
    ) -> Result<Option<Value>, InvalidToken> {
        match named.filter(|named| *named != usual) {
            None => Ok(found.cloned()),
            Some(named) => {
                let OnlyOnce(mut claims) = read_json(&self.json)?;
                Ok(claims.remove(named))
            }
        }
    }

    /// A `cnf` that cannot be checked binds the token to something that nobody looks at.
    fn confirmation(&self) -> Result<Confirmation, InvalidToken> {
        let Some(cnf) = &self.claims.cnf else { return Ok(Confirmation::default()) };
        let print = |text: &str| thumbprint(text).ok_or(InvalidToken::Claims);
        let key = cnf.jkt.as_deref().map(print).transpose()?;
        let certificate = cnf.x5t.as_deref().map(print).transpose()?;
        let found = Confirmation { key, certificate };
        if found.is_none() { Err(InvalidToken::Unsupported) } else { Ok(found) }
    }
}

/// Verifies a token for whichever of the methods trusts its issuer. `now` in seconds since the epoch.
///
/// # Errors
/// The token is not good for any of them, or the keys of its issuer are not here.
pub fn verify<'k>(
    token: &str,
    methods: &[&Jwt],
    keys_of: impl Fn(&str) -> Option<&'k Keys>,
    now: f64,
) -> Result<Verified, Refusal> {
    let token = Token::read(token)?;
    // The issuer is read before it is proven, only to know whose keys must prove it.
    let method =
        methods.iter().find(|method| &*method.issuer == token.issuer()).ok_or(InvalidToken::Issuer)?;
    let keys = keys_of(&method.issuer).ok_or(Refusal::NoKeys)?;
    Ok(token.verify(method, keys, now)?)
}

/// A compact token (RFC 7515 section 7.1), decoded.
pub(crate) struct Parts<'t> {
    pub(crate) signed: &'t str,
    /// Not decoded yet.
    pub(crate) signature: &'t str,
    /// JSON.
    pub(crate) header: Vec<u8>,
    /// JSON.
    pub(crate) claims: Vec<u8>,
}

pub(crate) fn parts(token: &str) -> Result<Parts<'_>, InvalidToken> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(InvalidToken::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(InvalidToken::Malformed)?;
    let (header, claims) =
        signed.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or(InvalidToken::Malformed)?;
    Ok(Parts { signed, signature, header: decoded(header)?, claims: decoded(claims)? })
}

fn decoded(segment: &str) -> Result<Vec<u8>, InvalidToken> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(segment).map_err(|_| InvalidToken::Malformed)?;
    // The reader would take the fields from an array too, by their order.
    if json.first() == Some(&b'{') { Ok(json) } else { Err(InvalidToken::Malformed) }
}

/// RFC 9068 section 2.1, and the `JWT` of older issuers. Others are for other purposes (RFC 8725 section 3.11): a proof
/// of possession or a logout token is no access token.
fn is_access_token(typ: &str) -> bool {
    let typ =
        typ.get(..12).filter(|start| start.eq_ignore_ascii_case("application/")).map_or(typ, |_| &typ[12..]);
    ["jwt", "at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known))
}

fn read_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, InvalidToken> {
    serde_json::from_slice(json).map_err(|_| InvalidToken::Claims)
}

/// It goes into headers and logs.
fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control)
}

fn one_text(value: Value) -> Result<String, InvalidToken> {
    match value {
        Value::String(text) if is_text(&text) => Ok(text),
        _ => Err(InvalidToken::Claims),
    }
}

fn all_texts(value: Value) -> Result<Vec<String>, InvalidToken> {
    match value {
        Value::Array(values) if values.len() <= MAX_GROUPS => values.into_iter().map(one_text).collect(),
        Value::String(_) => Ok(vec![one_text(value)?]),
        _ => Err(InvalidToken::Claims),
    }
}

/// Claims of these names, of a JSON object in which no name stands twice. One that is absent, null or empty has no values.
///
/// # Errors
/// It is none, or one of them is neither a text, a number, a truth nor a list of these, or they are too long.
pub fn carried(json: &[u8], names: &[String]) -> Result<Carried, InvalidToken> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let OnlyOnce(mut claims) = read_json(json)?;
    let (mut carried, mut bytes) = (Vec::with_capacity(names.len()), 0);
    for name in names {
        let values = match claims.remove(name) {
            None => continue,
            Some(Value::Array(values)) => values,
            Some(one) => vec![one],
        };
        let values = values.into_iter().filter_map(as_text).collect::<Result<Vec<_>, _>>()?;
        bytes += values.iter().map(String::len).sum::<usize>();
        if bytes > MAX_CARRIED_BYTES || values.len() > MAX_GROUPS {
            return Err(InvalidToken::Claims);
        }
        if !values.is_empty() {
            carried.push((name.clone(), values));
        }
    }
    Ok(carried)
}

/// What rules compare; nothing of nothing.
fn as_text(value: Value) -> Option<Result<String, InvalidToken>> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Bool(truth) => Some(Ok(truth.to_string())),
        Value::Number(number) => Some(Ok(number.to_string())),
        other => Some(one_text(other)),
    }
}

/// A thumbprint as tokens have it: base64url of 32 bytes.
pub fn thumbprint(text: &str) -> Option<Thumbprint> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// All claims, of which none stands twice: a reader that takes the last one would trust another claim than one that
/// takes the first.
struct OnlyOnce(Map<String, Value>);

impl<'de> Deserialize<'de> for OnlyOnce {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = OnlyOnce;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("claims")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<OnlyOnce, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a claim stands twice"));
                    }
                }
                Ok(OnlyOnce(claims))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// All claims of a token that was verified.
pub fn claims_of(token: &str) -> Map<String, Value> {
    let claims = parts(token).and_then(|parts| read_json::<OnlyOnce>(&parts.claims)).ok();
    claims.map(|OnlyOnce(claims)| claims).unwrap_or_default()
}
