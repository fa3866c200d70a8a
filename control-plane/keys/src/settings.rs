//! Whose keys are followed, and from where, as operators say it in flags and in a file.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use api::key_set::MAX_KEYS;
use fetch::{Allowed, Network, Url};
use serde::Deserialize;

use crate::record::Ages;

/// What operators say.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub(crate) sources: Vec<Source>,
    pub(crate) allowed: Allowed,
    pub(crate) ca: Option<PathBuf>,
}

/// One set, and where it is.
#[derive(Debug, Clone)]
pub struct Source {
    /// The issuer, or the name of the key server.
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) ages: Ages,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    File(PathBuf),
    Url(Url),
    /// The document that says where.
    Discovery(Url),
    /// `GET {url}/{kid}` answers one key; the first of these that can say is asked.
    Servers {
        urls: Vec<Url>,
        kids: Vec<String>,
    },
}

/// Settings that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}, got {value:?}")]
pub struct InvalidSettings {
    field: String,
    value: String,
    rule: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    issuers: Vec<RawIssuer>,
    key_servers: Vec<RawServer>,
    allow_networks: Vec<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIssuer {
    issuer: String,
    jwks: Option<RawJwks>,
    #[serde(default)]
    discovery: bool,
    soft_age: Option<String>,
    hard_age: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwks {
    file: Option<PathBuf>,
    url: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    name: String,
    urls: Vec<String>,
    kids: Vec<String>,
    soft_age: Option<String>,
    hard_age: Option<String>,
}

/// Each is asked every few minutes; more would have a registry of their own.
const MAX_SOURCES: usize = 128;
const MAX_NETWORKS: usize = 64;
/// A primary and a fallback; more only make an outage slower.
const MAX_URLS: usize = 4;
/// Longer than any URL that servers take.
const MAX_NAME_BYTES: usize = 2048;
const MAX_KID_BYTES: usize = 256;
const SOFT_AGE: Duration = Duration::from_secs(300);
const HARD_AGE: Duration = Duration::from_secs(24 * 3600);
/// A source that is asked more often is asked for nothing but load.
const MIN_SOFT: Duration = Duration::from_secs(10);
/// A key that was taken back is good for at most this long on a day without failures.
const MAX_SOFT: Duration = Duration::from_secs(24 * 3600);
/// And on other days: the sidecars keep keys for three days.
const MAX_HARD: Duration = Duration::from_secs(7 * 24 * 3600);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Url(url) => write!(f, "url {}", shown(url)),
            Self::Discovery(url) => write!(f, "discovery {}", shown(url)),
            Self::Servers { urls, .. } => {
                let urls: Vec<_> = urls.iter().map(shown).collect();
                write!(f, "key server {}", urls.join(", "))
            }
        }
    }
}

/// A query may hold a key of the caller.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.to_string()
}

impl Origin {
    /// What it is, as a whole: two that differ in anything are not the same place.
    pub(crate) fn identity(&self) -> String {
        let text = match self {
            Self::File(path) => format!("file {}", path.display()),
            Self::Url(url) => format!("url {url}"),
            Self::Discovery(url) => format!("discovery {url}"),
            Self::Servers { urls, kids } => {
                let urls: Vec<_> = urls.iter().map(Url::as_str).collect();
                format!("servers {} {}", urls.join(" "), kids.join(" "))
            }
        };
        // A query may be a secret.
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// All URLs that are known before anything is asked.
    pub(crate) fn urls(&self) -> &[Url] {
        match self {
            Self::File(_) => &[],
            Self::Url(url) | Self::Discovery(url) => std::slice::from_ref(url),
            Self::Servers { urls, .. } => urls,
        }
    }
}

fn refuse(field: impl Into<String>, value: impl fmt::Display, rule: impl Into<String>) -> InvalidSettings {
    InvalidSettings { field: field.into(), value: value.to_string(), rule: rule.into() }
}

impl Settings {
    /// Of flags `URL`, `URL=FILE` or `URL=https://…`, and of the text of a file.
    ///
    /// # Errors
    /// Field, rule and value.
    pub fn read(flags: &[String], file: Option<&str>) -> Result<Self, InvalidSettings> {
        let file: File = match file.filter(|text| !text.trim().is_empty()) {
            None => File::default(),
            Some(text) => serde_norway::from_str(text).map_err(|error| {
                refuse("--issuers", error, "YAML with issuers, key_servers, allow_networks, ca")
            })?,
        };
        let mut sources: Vec<_> = flags.iter().map(|flag| of_flag(flag)).collect::<Result<_, _>>()?;
        for (at, raw) in file.issuers.into_iter().enumerate() {
            sources.push(of_issuer(&format!("issuers[{at}]"), raw)?);
        }
        for (at, raw) in file.key_servers.into_iter().enumerate() {
            sources.push(of_server(&format!("key_servers[{at}]"), raw)?);
        }
        if sources.len() > MAX_SOURCES {
            return Err(refuse(
                "issuers",
                sources.len(),
                format!("at most {MAX_SOURCES} issuers and key servers"),
            ));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = sources.iter().find(|source| !names.insert(source.name.as_str())) {
            return Err(refuse("issuers", &twice.name, "each issuer and key server once"));
        }
        if file.allow_networks.len() > MAX_NETWORKS {
            return Err(refuse(
                "allow_networks",
                file.allow_networks.len(),
                format!("at most {MAX_NETWORKS}"),
            ));
        }
        let network = |(at, text): (usize, &String)| {
            let parsed = text.parse::<Network>();
            parsed.map_err(|error| refuse(format!("allow_networks[{at}]"), text, error.to_string()))
        };
        let networks = file.allow_networks.iter().enumerate().map(network).collect::<Result<_, _>>()?;
        Ok(Self { sources, allowed: Allowed::new(networks), ca: file.ca })
    }

    /// The same with an issuer whose keys are in a file, unless these settings say otherwise about it.
    #[must_use]
    pub fn with_file(mut self, issuer: &str, path: PathBuf) -> Self {
        if self.sources.iter().all(|source| source.name != issuer) {
            let ages = Ages { soft: SOFT_AGE, hard: HARD_AGE };
            self.sources.push(Source { name: issuer.to_owned(), origin: Origin::File(path), ages });
        }
        self
    }
}

fn of_flag(flag: &str) -> Result<Source, InvalidSettings> {
    let ages = Ages { soft: SOFT_AGE, hard: HARD_AGE };
    // A URL may hold a = as well, so the last one counts, unless another URL begins behind one.
    let at = ["=https://", "=http://"].iter().find_map(|mark| flag.find(mark)).or_else(|| flag.rfind('='));
    let (issuer, place) = at.map_or((flag, None), |at| (&flag[..at], Some(&flag[at + 1..])));
    let name = issuer_of("--issuer", issuer)?;
    let origin = match place {
        None => discovery("--issuer", issuer)?,
        Some("") => return Err(refuse("--issuer", flag, "a file or a URL behind the =")),
        Some(place) if place.starts_with("https://") || place.starts_with("http://") => {
            Origin::Url(url("--issuer", place)?)
        }
        Some(path) => Origin::File(path.into()),
    };
    Ok(Source { name, origin, ages })
}

fn of_issuer(field: &str, raw: RawIssuer) -> Result<Source, InvalidSettings> {
    let name = issuer_of(&format!("{field}.issuer"), &raw.issuer)?;
    let at = format!("{field}.jwks");
    let origin = match (raw.jwks, raw.discovery) {
        (None, true) => discovery(&format!("{field}.issuer"), &name)?,
        (Some(RawJwks { file: Some(path), url: None }), false) => Origin::File(path),
        (Some(RawJwks { file: None, url: Some(text) }), false) => {
            Origin::Url(url(&format!("{at}.url"), &text)?)
        }
        (other, _) => {
            let rule = "exactly one of jwks.file, jwks.url and discovery: true";
            return Err(refuse(at, other.map_or("nothing", |_| "several"), rule));
        }
    };
    Ok(Source { name, origin, ages: ages(field, raw.soft_age.as_deref(), raw.hard_age.as_deref())? })
}

fn of_server(field: &str, raw: RawServer) -> Result<Source, InvalidSettings> {
    let name = issuer_of(&format!("{field}.name"), &raw.name)?;
    if raw.urls.is_empty() || raw.urls.len() > MAX_URLS {
        let rule = format!("from 1 to {MAX_URLS}, the primary first");
        return Err(refuse(format!("{field}.urls"), raw.urls.len(), rule));
    }
    let mut urls = Vec::with_capacity(raw.urls.len());
    for (at, text) in raw.urls.iter().enumerate() {
        let field = format!("{field}.urls[{at}]");
        let base = url(&field, text)?;
        if base.query().is_some() {
            return Err(refuse(field, text, "without a query, since key ids follow it"));
        }
        urls.push(base);
    }
    if raw.kids.is_empty() || raw.kids.len() > MAX_KEYS {
        return Err(refuse(format!("{field}.kids"), raw.kids.len(), format!("from 1 to {MAX_KEYS}")));
    }
    let mut known = BTreeSet::new();
    for (at, kid) in raw.kids.iter().enumerate() {
        if let Some(rule) = kid_fault(kid) {
            return Err(refuse(format!("{field}.kids[{at}]"), kid, rule));
        }
        if !known.insert(kid) {
            return Err(refuse(format!("{field}.kids[{at}]"), kid, "each id once"));
        }
    }
    let ages = ages(field, raw.soft_age.as_deref(), raw.hard_age.as_deref())?;
    Ok(Source { name, origin: Origin::Servers { urls, kids: raw.kids }, ages })
}

/// Why an id cannot stand behind the URL of a key server.
fn kid_fault(kid: &str) -> Option<&'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._+/=-".contains(&byte);
    if kid.is_empty() || kid.len() > MAX_KID_BYTES || !kid.bytes().all(is_word) {
        return Some("1 to 256 characters of A-Z, a-z, 0-9 and ._+/=-");
    }
    // An empty segment is also what a leading slash makes.
    let is_walk = kid.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    (is_walk || kid.contains("..")).then_some("a path without empty segments, without . and without ..")
}

/// Issuers are compared byte for byte, so the text stays as it is.
fn issuer_of(field: &str, text: &str) -> Result<String, InvalidSettings> {
    let rule = "an https URL without user, query and fragment";
    let is_good = text.len() <= MAX_NAME_BYTES
        && text.starts_with("https://")
        && Url::parse(text).is_ok_and(|url| {
            url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
    if is_good { Ok(text.to_owned()) } else { Err(refuse(field, text, rule)) }
}

fn url(field: &str, text: &str) -> Result<Url, InvalidSettings> {
    let parsed = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
    let parsed = parsed.filter(|url| url.username().is_empty() && url.password().is_none());
    // A user may be in it, who is a secret.
    parsed.ok_or_else(|| {
        let shown = if text.contains('@') { "a URL with @" } else { text };
        refuse(field, shown, "an https URL without a user (http to an allowed network)")
    })
}

/// OpenID Connect Discovery 1.0 section 4: a slash at the end is removed, and the rest of the path stays.
fn discovery(field: &str, issuer: &str) -> Result<Origin, InvalidSettings> {
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    url(field, &format!("{base}/.well-known/openid-configuration")).map(Origin::Discovery)
}

fn ages(field: &str, soft: Option<&str>, hard: Option<&str>) -> Result<Ages, InvalidSettings> {
    let soft_age = age(&format!("{field}.soft_age"), soft, SOFT_AGE, MIN_SOFT, MAX_SOFT)?;
    let hard_age =
        age(&format!("{field}.hard_age"), hard, HARD_AGE.max(soft_age * 2), soft_age * 2, MAX_HARD)?;
    Ok(Ages { soft: soft_age, hard: hard_age })
}

fn age(
    field: &str,
    text: Option<&str>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, InvalidSettings> {
    let Some(text) = text else { return Ok(default) };
    let found = duration(text).filter(|age| (least..=most).contains(age));
    found.ok_or_else(|| {
        let rule = format!("such as 90s, 5m or 24h, from {} s to {} s", least.as_secs(), most.as_secs());
        refuse(field, text, rule)
    })
}

fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let secs = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    number.checked_mul(secs).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(text: &str) -> Result<Source, InvalidSettings> {
        Settings::read(&[text.to_owned()], None).map(|settings| settings.sources[0].clone())
    }

    fn file(text: &str) -> Result<Settings, InvalidSettings> {
        Settings::read(&[], Some(text))
    }

    #[test]
    fn a_flag_is_an_issuer_and_where_its_keys_are() {
        for (text, name, origin) in [
            ("https://id.test/=/etc/jwks.json", "https://id.test/", "file /etc/jwks.json"),
            ("https://id.test/a=b/=jwks.json", "https://id.test/a=b/", "file jwks.json"),
            ("https://id.test=https://id.test/jwks?a=b", "https://id.test", "url https://id.test/jwks"),
            ("https://id.test=http://10.0.0.1/jwks", "https://id.test", "url http://10.0.0.1/jwks"),
            (
                "https://id.test",
                "https://id.test",
                "discovery https://id.test/.well-known/openid-configuration",
            ),
            (
                "https://id.test/",
                "https://id.test/",
                "discovery https://id.test/.well-known/openid-configuration",
            ),
            (
                "https://id.test/realms/one/",
                "https://id.test/realms/one/",
                "discovery https://id.test/realms/one/.well-known/openid-configuration",
            ),
        ] {
            let source = flag(text).unwrap();
            assert_eq!((source.name.as_str(), source.origin.to_string().as_str()), (name, origin), "{text}");
            assert_eq!(
                source.ages,
                Ages { soft: Duration::from_secs(300), hard: Duration::from_secs(86_400) }
            );
        }
        for bad in [
            "http://id.test/=f",
            "id.test=f",
            "https://u@id.test/",
            "https://id.test/?x",
            "https://id.test/=",
            "",
        ] {
            assert!(flag(bad).unwrap_err().to_string().starts_with("--issuer: "), "{bad}");
        }
    }

    #[test]
    fn a_file_says_more() {
        let settings = file(
            "issuers:\n\
             - {issuer: 'https://a.test/', jwks: {file: /a.json}, soft_age: 1m, hard_age: 2h}\n\
             - {issuer: 'https://b.test/', jwks: {url: 'https://b.test/jwks'}}\n\
             - {issuer: 'https://c.test/', discovery: true}\n\
             key_servers:\n\
             - {name: 'https://keys.test/', urls: ['https://one.test/k', 'https://two.test/'], kids: [micros/a/1, b]}\n\
             allow_networks: [10.0.0.0/8]\nca: /ca.pem",
        )
        .unwrap();
        assert_eq!(settings.sources.len(), 4);
        assert_eq!(
            settings.sources[0].ages,
            Ages { soft: Duration::from_secs(60), hard: Duration::from_secs(7200) }
        );
        assert_eq!(
            settings.sources[3].origin.to_string(),
            "key server https://one.test/k, https://two.test/"
        );
        assert!(settings.allowed.lists([10, 0, 0, 1].into()));
        assert!(file("").unwrap().sources.is_empty());
    }

    #[track_caller]
    fn refused(text: &str, told: &str) {
        let error = file(text).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }

    #[test]
    fn a_mistake_is_told_with_field_rule_and_value() {
        refused("issuer: []", "--issuers: YAML with issuers");
        refused("issuers: [{issuer: 'https://a.test/', more: 1}]", "--issuers: YAML");
        refused("issuers: [{issuer: 'http://a.test/', discovery: true}]", "issuers[0].issuer: an https URL");
        let one = "exactly one of jwks.file, jwks.url and discovery: true";
        refused(
            "issuers: [{issuer: 'https://a.test/'}]",
            &format!("issuers[0].jwks: {one}, got \"nothing\""),
        );
        refused(
            "issuers: [{issuer: 'https://a.test/', jwks: {file: f}, discovery: true}]",
            &format!("issuers[0].jwks: {one}, got \"several\""),
        );
        refused(
            "issuers: [{issuer: 'https://a.test/', jwks: {url: 'ftp://a'}}]",
            "issuers[0].jwks.url: an https URL",
        );
        let aged = |ages: &str| format!("issuers: [{{issuer: 'https://a.test/', discovery: true, {ages}}}]");
        refused(
            &aged("soft_age: 1s"),
            "issuers[0].soft_age: such as 90s, 5m or 24h, from 10 s to 86400 s, got \"1s\"",
        );
        refused(&aged("soft_age: 5"), "issuers[0].soft_age: ");
        refused(&aged("soft_age: 99999999999999999999d"), "issuers[0].soft_age: ");
        refused(&aged("hard_age: 5m"), "issuers[0].hard_age: such as 90s, 5m or 24h, from 600 s to 604800 s");
        refused(&aged("hard_age: 8d"), "issuers[0].hard_age: ");
        refused("allow_networks: [10.0.0.1/8]", "allow_networks[0]: a network such as 10.0.0.0/8");
        let twice = "{issuer: 'https://a.test/', discovery: true}";
        refused(
            &format!("issuers: [{twice}, {twice}]"),
            "issuers: each issuer and key server once, got \"https://a.test/\"",
        );
    }

    #[test]
    fn ids_of_keys_walk_nowhere() {
        let server = |urls: &str, kids: &str| {
            format!("key_servers: [{{name: 'https://k.test/', urls: [{urls}], kids: [{kids}]}}]")
        };
        let one = "'https://k.test/'";
        for good in ["a", "micros/issuer/key-1.pem", "a+b=c_d", "a.b/c.d"] {
            assert!(file(&server(one, &format!("'{good}'"))).is_ok(), "{good}");
        }
        for bad in [
            "", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a..b", "a b", "a%2e", "a?b", "a#b", "ä",
            "a\\\\b",
        ] {
            refused(&server(one, &format!("\"{bad}\"")), "key_servers[0].kids[0]: ");
        }
        refused(&server(one, &"x".repeat(257)), "key_servers[0].kids[0]: 1 to 256 characters");
        refused(&server(one, "a, a"), "key_servers[0].kids[1]: each id once");
        refused(&server(one, ""), "key_servers[0].kids: from 1 to 64");
        refused(&server("", "a"), "key_servers[0].urls: from 1 to 4");
        refused(&server("'https://k.test/?a'", "a"), "key_servers[0].urls[0]: without a query");
    }
}
