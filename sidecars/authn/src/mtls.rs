//! Client certificates, which Envoy has checked against its CAs: who of all that the CAs vouch for may come?

use api::authn::Mtls;
use aws_lc_rs::digest::{SHA256, digest};
use jwt::Thumbprint;
use x509_parser::{
    extensions::GeneralName,
    pem::Pem,
    prelude::{FromDer as _, X509Certificate},
};

use crate::{
    identity::{Identity, Kind, Texts},
    method::{Credential, Method, Outcome, Place, Proven, Stop},
    state::Snapshot,
};

/// Real ones have two KiB.
const MAX_CERTIFICATE_BYTES: usize = 32 * 1024;

impl Method for Mtls {
    fn place(&self) -> Place<'_> {
        Place::Certificate
    }

    fn verify(&self, credential: &Credential<'_>, _: &Snapshot, now: f64) -> Outcome {
        let Some(der) = der(credential.text) else {
            return Outcome::Bad(Stop::Invalid("the certificate is not readable"));
        };
        match identify(self, &der, now) {
            Ok(found) => Outcome::Good(found),
            Err(why) => Outcome::Bad(Stop::Invalid(why)),
        }
    }

    fn ages(&self) -> bool {
        false
    }

    fn challenge(&self, error: Option<&str>) -> String {
        let error = error.map(|why| format!(", error_description=\"{why}\"")).unwrap_or_default();
        format!("Certificate realm=\"gatehouse\"{error}")
    }
}

/// Whose certificate it is. It is read itself: Envoy tells only the first of several names, and does not escape them.
fn identify(trusted: &Mtls, der: &[u8], now: f64) -> Result<Proven, &'static str> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| "the certificate is not readable")?;
    if !rest.is_empty() {
        return Err("the certificate is not readable");
    }
    let names = Names::of(&certificate)?;
    // 2^53 seconds are enough.
    #[allow(clippy::cast_precision_loss)]
    let until = certificate.validity().not_after.timestamp() as f64;
    if until <= now {
        return Err("the certificate has expired");
    }
    // An X.509-SVID has exactly one URI (SPIFFE X.509-SVID section 2).
    let by_id = match names.uris.as_slice() {
        [id] => trusted.spiffe.iter().any(|pattern| pattern.matches(id)).then_some(*id),
        _ => None,
    };
    let by_name = || names.dns.iter().copied().find(|name| trusted.dns.iter().any(|known| known == name));
    let subject = by_id.or_else(by_name).ok_or("the certificate is of nobody who is trusted here")?;
    let fingerprint = hex(digest(&SHA256, der).as_ref());
    let texts = Texts { subject, credential: &fingerprint, ..Texts::default() };
    let identity = Identity::new(Kind::Mtls, texts).between(None, Some(until));
    Ok(Proven { until, ..Proven::lasting(identity) })
}

/// All alternative names that can mean somebody.
struct Names<'a> {
    uris: Vec<&'a str>,
    dns: Vec<&'a str>,
}

impl<'a> Names<'a> {
    /// Whatever is not plain text is refused: other readers might stop at a NUL, or read another type.
    fn of(certificate: &'a X509Certificate<'a>) -> Result<Self, &'static str> {
        let unreadable = "the certificate's names are not readable";
        let mut names = Self { uris: Vec::new(), dns: Vec::new() };
        // Twice the same extension is an error here (RFC 5280 section 4.2).
        let extension = certificate.subject_alternative_name().map_err(|_| unreadable)?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            let (list, text) = match name {
                GeneralName::URI(text) => (&mut names.uris, *text),
                GeneralName::DNSName(text) => (&mut names.dns, *text),
                GeneralName::Invalid(..) => return Err(unreadable),
                _ => continue,
            };
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(unreadable);
            }
            list.push(text);
        }
        Ok(names)
    }
}

/// SHA-256 of what Envoy has checked; `None` where there is no certificate.
pub(crate) fn thumbprint(certificate: &str) -> Option<Thumbprint> {
    digest(&SHA256, &der(certificate)?).as_ref().try_into().ok()
}

/// The first certificate of percent-encoded PEM.
fn der(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || text.len() > MAX_CERTIFICATE_BYTES {
        return None;
    }
    let pem = percent_decoded(text)?;
    let pem = Pem::iter_from_buffer(&pem).next()?.ok()?;
    (pem.label == "CERTIFICATE").then_some(pem.contents)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            byte => byte,
        });
    }
    Some(decoded)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
