//! Tokens in `Authorization: Bearer` that only who gave them out can read: they are asked (RFC 7662), and believed for a
//! while.

use api::authn::Introspection;
use jwt::{Confirmation, Thumbprint};
use serde::Deserialize;

use crate::{
    identity::{Identity, Kind, Texts, carried},
    jwt::bearer,
    method::{Credential, Method, Outcome, Place, Proven, Stop, boxed},
    state::Snapshot,
    work::Work,
};

/// The longest that is sent anywhere.
const MAX_TOKEN_BYTES: usize = 4 * 1024;
/// Of what becomes a header.
const MAX_TEXT_BYTES: usize = 2 * 1024;

impl Method for Introspection {
    fn place(&self) -> Place<'_> {
        Place::Authorization("bearer")
    }

    fn verify(&self, credential: &Credential<'_>, _: &Snapshot, _: f64) -> Outcome {
        let token = credential.text;
        // RFC 6750 section 2.1.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(plain) {
            return Outcome::NotMine("the token is malformed");
        }
        Outcome::Wait(Work::Introspect { by: Box::new(self.clone()), token: token.to_owned() })
    }

    fn challenge(&self, error: Option<&str>) -> String {
        bearer(error)
    }

    /// A token that others can read must not be shown to a third.
    fn is_last_resort(&self) -> bool {
        true
    }
}

/// RFC 7662 section 2.2. What is of another type than it says there makes the whole answer unreadable.
#[derive(Deserialize)]
struct Answer {
    active: bool,
    sub: Option<String>,
    client_id: Option<String>,
    scope: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    exp: Option<f64>,
    iat: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    jti: Option<String>,
    sid: Option<String>,
    cnf: Option<Cnf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Cnf {
    #[serde(rename = "x5t#S256")]
    x5t: Option<String>,
}

/// What is believed of an answer. `now` in seconds since the epoch.
pub(crate) fn read(asked: &Introspection, body: &[u8], now: f64) -> Result<Proven, Stop> {
    const UNREADABLE: Stop = Stop::Fault("the answer about the token is not readable");
    // The reader would take the fields from an array too, by their order, and pass over bytes that are no text in fields
    // that are of no interest to it.
    let text = std::str::from_utf8(body).ok().filter(|text| text.trim_ascii_start().starts_with('{'));
    let text = text.ok_or(UNREADABLE)?;
    let answer: Answer = serde_json::from_str(text).map_err(|_| UNREADABLE)?;
    if !answer.active {
        return Err(Stop::Invalid("the token is not active"));
    }
    if answer.iss.as_deref().is_some_and(|issuer| issuer != &*asked.issuer) {
        return Err(Stop::Invalid("the token's issuer is not trusted here"));
    }
    let audiences = match &answer.aud {
        None => &[],
        Some(Audience::One(one)) => std::slice::from_ref(one),
        Some(Audience::Many(many)) => many.as_slice(),
    };
    if !asked.audiences.is_empty() && !audiences.iter().any(|audience| asked.audiences.contains(audience)) {
        return Err(Stop::Invalid("the token is for another audience"));
    }
    if answer.exp.is_some_and(|exp| exp <= now) {
        return Err(Stop::Invalid("the token has expired"));
    }
    if [answer.nbf, answer.iat].into_iter().flatten().any(|from| from - jwt::LEEWAY_SECS > now) {
        return Err(Stop::Invalid("the token is not valid yet"));
    }
    // A client that acts for itself is its own subject.
    let subject = answer.sub.as_deref().or(answer.client_id.as_deref()).unwrap_or_default();
    let (tenant, groups) = (answer.tenant.as_deref().unwrap_or_default(), answer.groups.join("\n"));
    let claims = jwt::carried(text.as_bytes(), &asked.claims).map_err(|_| UNREADABLE)?;
    let claims = carried(&claims);
    let texts = Texts {
        subject,
        tenant,
        groups: &groups,
        scopes: answer.scope.as_deref().unwrap_or_default(),
        token: answer.jti.as_deref().unwrap_or_default(),
        session: answer.sid.as_deref().unwrap_or_default(),
        credential: "",
        claims: &claims,
    };
    let is_text = |text: &str| text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
    let all = [subject, tenant, texts.scopes, texts.token, texts.session];
    if subject.is_empty() || !all.into_iter().chain(answer.groups.iter().map(String::as_str)).all(is_text) {
        return Err(UNREADABLE);
    }
    let identity = Identity::new(Kind::Introspection, texts).by(asked.issuer.clone());
    let identity = identity.between(answer.iat, answer.exp);
    let until = answer.exp.unwrap_or(f64::INFINITY).min(now + asked.cache.as_secs_f64());
    let confirmation = answer.cnf.as_ref().map(confirmation).transpose()?.and_then(boxed);
    Ok(Proven { identity, keys: None, confirmation, until })
}

/// A binding that cannot be checked is none that may be passed over.
fn confirmation(cnf: &Cnf) -> Result<Confirmation, Stop> {
    let bound: Option<Thumbprint> = cnf.x5t.as_deref().and_then(jwt::thumbprint);
    match bound {
        Some(certificate) => Ok(Confirmation { key: None, certificate: Some(certificate) }),
        None => Err(Stop::Invalid("the token is bound to something that is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    const NOW: f64 = 1_000.0;

    fn asked() -> Introspection {
        Introspection {
            endpoint: "https://id.example.test/introspect".into(),
            client_id: "edge".into(),
            client_secret: "secret".into(),
            issuer: "https://id.example.test/".into(),
            audiences: vec!["hello".into()],
            cache: Duration::from_secs(30),
            claims: vec!["department".into()],
        }
    }

    fn answer() -> Value {
        json!({"active": true, "sub": "alice", "scope": "read write", "aud": ["hello"], "exp": NOW + 20.0})
    }

    #[track_caller]
    fn refused(name: &str, value: Value, expected: &Stop) {
        let mut answer = answer();
        answer[name] = value;
        assert_eq!(read(&asked(), answer.to_string().as_bytes(), NOW).unwrap_err(), *expected, "{answer}");
    }

    #[test]
    fn an_answer_tells_who_it_is_and_is_believed_for_a_while() {
        let proven = read(&asked(), answer().to_string().as_bytes(), NOW).unwrap();
        let Texts { subject, scopes, .. } = proven.identity.texts();
        assert_eq!((subject, scopes, proven.until), ("alice", "read write", NOW + 20.0));
        let mut of_department = answer();
        of_department["department"] = json!(["sales", 7]);
        let proven = read(&asked(), of_department.to_string().as_bytes(), NOW).unwrap();
        assert_eq!(proven.identity.texts().claims, "department\tsales\ndepartment\t7");
        let mut long = answer();
        long["exp"] = json!(NOW + 1_000.0);
        let until = read(&asked(), long.to_string().as_bytes(), NOW).unwrap().until;
        assert!((until - NOW - 30.0).abs() < 0.1, "{until}");
        let mut client = answer();
        (client["sub"], client["client_id"]) = (json!(null), json!("batch"));
        let proven = read(&asked(), client.to_string().as_bytes(), NOW).unwrap();
        assert_eq!(proven.identity.texts().subject, "batch");
    }

    #[test]
    fn an_answer_that_does_not_say_that_it_is_good_is_a_refusal() {
        let invalid = |why| Stop::Invalid(why);
        refused("active", json!(false), &invalid("the token is not active"));
        refused("iss", json!("https://evil.test/"), &invalid("the token's issuer is not trusted here"));
        refused("aud", json!("other"), &invalid("the token is for another audience"));
        refused("aud", json!(null), &invalid("the token is for another audience"));
        refused("exp", json!(NOW), &invalid("the token has expired"));
        refused("nbf", json!(NOW + 31.0), &invalid("the token is not valid yet"));
        let bound = invalid("the token is bound to something that is not supported");
        refused("cnf", json!({"jkt": "x"}), &bound);
        refused("cnf", json!({"x5t#S256": "x"}), &bound);
    }

    #[test]
    fn an_answer_that_is_none_is_a_fault_and_never_a_yes() {
        let fault = Stop::Fault("the answer about the token is not readable");
        for (name, value) in [
            ("active", json!("true")),
            ("active", json!(1)),
            ("active", json!(null)),
            ("sub", json!("")),
            ("sub", json!("a\nb")),
            ("sub", json!(7)),
            ("scope", json!(["a"])),
            ("exp", json!("1")),
            ("groups", json!(["a\nb"])),
            ("department", json!({"a": "b"})),
        ] {
            refused(name, value, &fault);
        }
        for body in ["", "[true]", "null", "{", "{}", "<html>"] {
            assert_eq!(read(&asked(), body.as_bytes(), NOW).unwrap_err(), fault, "{body}");
        }
        let no_text = answer().to_string().replacen('{', "{\"x\":\"?\",", 1).into_bytes();
        let no_text: Vec<u8> =
            no_text.into_iter().map(|byte| if byte == b'?' { 0xff } else { byte }).collect();
        assert_eq!(read(&asked(), &no_text, NOW).unwrap_err(), fault, "bytes that are no text");
        let twice = answer().to_string().replacen('{', "{\"active\":false,", 1);
        assert_eq!(read(&asked(), twice.as_bytes(), NOW).unwrap_err(), fault, "which of the two?");
    }
}
