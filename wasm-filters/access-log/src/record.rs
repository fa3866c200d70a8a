//! One line of the log: what of the facts may be seen, and in which order. Secrets end here.

use crate::{
    Facts, Settings,
    json::Object,
    redaction::{REDACTED, redacted},
    timestamp::push_rfc3339,
};

/// For names, addresses and identities. Longer than a host name (255), an issuer or a subject in use.
const SHORT_BYTES: usize = 512;

/// For paths and header values, each.
const LONG_BYTES: usize = 2 * 1024;

/// For all header values of a line together; past it only their presence is seen.
const HEADER_BYTES: usize = 8 * 1024;

/// No line is longer: 17 short texts, a path, the headers' values, and as many names as settings may hold.
/// So a client cannot keep a request out of the log by making its line too long for a batch.
pub const MAX_LINE_BYTES: usize = 32 * 1024;

/// What is written of one request: facts without secrets, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    service: String,
    instance: String,
    route: String,
    /// Only what may be seen.
    facts: Facts,
}

impl Record {
    /// `None` when the request is sampled out.
    pub fn from_facts(settings: &Settings, mut facts: Facts) -> Option<Self> {
        if !settings.keeps(&facts) {
            return None;
        }
        facts.path = facts.path.map(|path| redacted(&path).into_owned());
        facts.headers = shown_headers(settings, &facts.headers);
        hide_unverified(&mut facts);
        Some(Self {
            service: settings.service.clone(),
            instance: settings.instance.clone(),
            route: settings.route.clone(),
            facts,
        })
    }

    /// Appends one line of JSON. Its keys come in one order; a fact that Envoy did not give has no key.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut line = Object::open(out);
        self.write_request(&mut line);
        self.write_service(&mut line);
        self.write_identity(&mut line);
        self.write_rate_limit(line.object("rate_limit"));
        self.write_headers(line.object("headers"));
        line.close();
        out.push(b'\n');
    }

    fn write_request(&self, line: &mut Object<'_>) {
        let facts = &self.facts;
        line.plain("time", |out| push_rfc3339(out, facts.time_ns));
        line.number_if("duration_us", facts.duration_ns.map(micros));
        line.number_if("upstream_duration_us", facts.upstream_duration_ns.map(micros));
        line.text_if("method", facts.method.as_deref(), SHORT_BYTES);
        line.text_if("host", facts.host.as_deref(), SHORT_BYTES);
        line.text_if("path", facts.path.as_deref(), LONG_BYTES);
        line.text_if("protocol", facts.protocol.as_deref(), SHORT_BYTES);
        line.number("status", facts.status.into());
        line.text_if("flags", facts.flags.names().as_deref(), SHORT_BYTES);
        line.text_if("details", facts.details.as_deref(), SHORT_BYTES);
        line.text_if("request_id", facts.request_id.as_deref(), SHORT_BYTES);
        line.text_if("client", facts.client.as_deref(), SHORT_BYTES);
        line.text_if("upstream", facts.upstream.as_deref(), SHORT_BYTES);
        line.number_if("request_bytes", facts.request_bytes);
        line.number_if("response_bytes", facts.response_bytes);
    }

    fn write_service(&self, line: &mut Object<'_>) {
        line.text("service", &self.service, SHORT_BYTES);
        line.text_if("instance", some(&self.instance), SHORT_BYTES);
        line.text_if("route", some(&self.route), SHORT_BYTES);
    }

    fn write_identity(&self, line: &mut Object<'_>) {
        let Facts { authn, authz, .. } = &self.facts;
        if let Some(authn) = authn {
            line.text_if("subject", authn.sub.as_deref(), SHORT_BYTES);
            line.text_if("issuer", authn.iss.as_deref(), SHORT_BYTES);
            line.text_if("auth_method", authn.method.as_deref(), SHORT_BYTES);
        }
        if let Some(authz) = authz {
            line.text_if("authz_effect", authz.effect.as_deref(), SHORT_BYTES);
            line.text_if("authz_rule", authz.rule.as_deref(), SHORT_BYTES);
            line.text_if("authz_mode", authz.mode.as_deref(), SHORT_BYTES);
        }
        let rev = authz.as_ref().and_then(|authz| authz.rev);
        line.number_if("policy_rev", rev.or_else(|| authn.as_ref().and_then(|authn| authn.rev)));
    }

    fn write_rate_limit(&self, mut object: Object<'_>) {
        let said = self.facts.rate_limit.as_ref();
        let outcome = said.and_then(|limit| limit.outcome.as_deref());
        object.text("outcome", outcome.unwrap_or_else(|| self.rate_limit_outcome()), SHORT_BYTES);
        object.number_if("limit", said.and_then(|limit| limit.limit));
        object.number_if("remaining", said.and_then(|limit| limit.remaining));
        object.close();
    }

    /// Where the limiter left no metadata, a refusal still shows in what Envoy says.
    fn rate_limit_outcome(&self) -> &'static str {
        let refused = self.facts.details.as_deref() == Some("request_rate_limited");
        if refused || self.facts.flags.is_rate_limited() { "over_limit" } else { "none" }
    }

    fn write_headers(&self, mut object: Object<'_>) {
        let mut left = HEADER_BYTES;
        for (name, value) in &self.facts.headers {
            let before = object.written_bytes();
            object.text(name, value, left.min(LONG_BYTES));
            left = left.saturating_sub(object.written_bytes() - before);
        }
        object.close();
    }
}

fn micros(ns: u64) -> u64 {
    ns / 1_000
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A name that authentication did not vouch for is no subject.
fn hide_unverified(facts: &mut Facts) {
    if let Some(authn) = facts.authn.as_mut().filter(|authn| !authn.decided) {
        authn.sub = None;
        authn.iss = None;
    }
}

/// Those that the settings name, in the settings' order. Any of them may hold a URL, as `referer` does.
fn shown_headers(settings: &Settings, present: &[(String, String)]) -> Vec<(String, String)> {
    let value_of = |name: &str| {
        present.iter().find(|(present, _)| present.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let shown = settings.headers.iter().filter_map(|header| {
        let value = value_of(&header.name)?;
        let value = if header.redacted { REDACTED.to_owned() } else { redacted(value).into_owned() };
        Some((header.name.clone(), value))
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Authn, Authz, Flags, RateLimit, json::CUT};

    fn facts() -> Facts {
        Facts {
            time_ns: 1_795_313_658_123_456_789,
            duration_ns: Some(1_234_567),
            method: Some("GET".into()),
            host: Some("hello.example.test".into()),
            path: Some("/a?page=2&token=hunter2".into()),
            protocol: Some("HTTP/1.1".into()),
            request_id: Some("id-1".into()),
            client: Some("192.0.2.7:4711".into()),
            request_bytes: Some(0),
            status: 200,
            response_bytes: Some(12),
            flags: Flags(0),
            details: Some("via_upstream".into()),
            upstream: Some("127.0.0.1:9001".into()),
            upstream_duration_ns: Some(1_000_999),
            headers: vec![
                ("cookie".into(), "session=hunter2".into()),
                ("user-agent".into(), "curl/8".into()),
                ("x-team".into(), "blue".into()),
                ("x-session".into(), "hunter2".into()),
                ("referer".into(), "https://h/?code=hunter2".into()),
            ],
            authn: Some(Authn {
                decided: true,
                method: Some("jwt".into()),
                iss: Some("https://id.example.test/".into()),
                sub: Some("ann".into()),
                policy: Some("i-1".into()),
                rev: Some(6),
            }),
            authz: Some(Authz {
                decided: true,
                effect: Some("allow".into()),
                rule: Some("rules[0]".into()),
                mode: Some("enforce".into()),
                policy: Some("i-1".into()),
                rev: Some(7),
            }),
            rate_limit: Some(RateLimit { outcome: Some("ok".into()), limit: Some(100), remaining: Some(99) }),
        }
    }

    fn settings() -> Settings {
        let json = br#"{"service": "hello", "instance": "i-1", "route": "/", "redact": ["x-session"]}"#;
        Settings::parse(json).unwrap()
    }

    /// The line, after checks that hold for every line.
    #[track_caller]
    fn line(settings: &Settings, facts: Facts) -> String {
        let mut out = Vec::new();
        Record::from_facts(settings, facts).unwrap().write(&mut out);
        let line = String::from_utf8(out).unwrap();
        assert!(line.len() <= MAX_LINE_BYTES, "{} bytes", line.len());
        let text = line.strip_suffix('\n').unwrap();
        assert!(!text.chars().any(char::is_control), "{text}");
        text.to_owned()
    }

    #[track_caller]
    fn parsed(settings: &Settings, facts: Facts) -> Value {
        serde_json::from_str(&line(settings, facts)).unwrap()
    }

    #[test]
    fn a_whole_line_has_its_keys_in_the_documented_order() {
        let expected = concat!(
            r#"{"time":"2026-11-22T02:14:18.123456Z","duration_us":1234,"upstream_duration_us":1000,"#,
            r#""method":"GET","host":"hello.example.test","path":"/a?page=2&token=[redacted]","#,
            r#""protocol":"HTTP/1.1","status":200,"details":"via_upstream","request_id":"id-1","#,
            r#""client":"192.0.2.7:4711","upstream":"127.0.0.1:9001","request_bytes":0,"response_bytes":12,"#,
            r#""service":"hello","instance":"i-1","route":"/","subject":"ann","#,
            r#""issuer":"https://id.example.test/","auth_method":"jwt","authz_effect":"allow","#,
            r#""authz_rule":"rules[0]","authz_mode":"enforce","policy_rev":7,"#,
            r#""rate_limit":{"outcome":"ok","limit":100,"remaining":99},"#,
            r#""headers":{"user-agent":"curl/8","referer":"https://h/?code=[redacted]","#,
            r#""x-session":"[redacted]","cookie":"[redacted]"}}"#,
        );
        assert_eq!(line(&settings(), facts()), expected);
    }

    #[test]
    fn absent_facts_have_no_keys() {
        let expected = json!({
            "time": "1970-01-01T00:00:00.000000Z",
            "status": 0,
            "service": "-",
            "rate_limit": {"outcome": "none"},
            "headers": {},
        });
        assert_eq!(parsed(&Settings::default(), Facts::default()), expected);
    }

    #[test]
    fn a_secret_is_nowhere_in_the_line() {
        let asked =
            br#"{"service": "s", "headers": ["cookie", "x-session", "referer"], "redact": ["x-session"]}"#;
        for settings in
            [settings(), Settings::default(), Settings::parse(asked).unwrap(), Settings::invalid()]
        {
            assert!(!line(&settings, facts()).contains("hunter2"), "{settings:?}");
        }
    }

    #[test]
    fn a_header_that_nobody_asked_for_is_not_shown() {
        assert_eq!(parsed(&settings(), facts())["headers"].get("x-team"), None);
    }

    #[test]
    fn header_names_are_found_in_any_case() {
        let facts = Facts { headers: vec![("User-Agent".into(), "x".into())], ..Facts::default() };
        assert_eq!(parsed(&settings(), facts)["headers"], json!({"user-agent": "x"}));
    }

    #[test]
    fn a_sampled_out_request_makes_no_record() {
        let settings = Settings { sample: 0.0, ..settings() };
        assert_eq!(Record::from_facts(&settings, facts()), None);
        assert!(Record::from_facts(&settings, Facts { status: 503, ..facts() }).is_some());
    }

    #[test]
    fn a_refusal_without_metadata_is_over_limit_all_the_same() {
        let refused = [
            Facts { details: Some("request_rate_limited".into()), ..Facts::default() },
            Facts { flags: Flags(1 << 11), ..Facts::default() },
        ];
        for facts in refused {
            assert_eq!(parsed(&settings(), facts)["rate_limit"], json!({"outcome": "over_limit"}));
        }
    }

    #[test]
    fn an_unverified_subject_is_not_shown() {
        let authn = Authn { decided: false, ..facts().authn.unwrap() };
        let line = parsed(&settings(), Facts { authn: Some(authn), authz: None, ..facts() });
        assert_eq!((line.get("subject"), line.get("issuer")), (None, None));
        assert_eq!((&line["auth_method"], &line["policy_rev"]), (&json!("jwt"), &json!(6)));
    }

    #[test]
    fn a_path_of_64_kib_is_cut_and_marked() {
        let path = format!("/{}", "a".repeat(64 * 1024));
        let line = parsed(&settings(), Facts { path: Some(path), ..facts() });
        let path = line["path"].as_str().unwrap();
        assert!(path.starts_with("/aaa") && path.ends_with(CUT));
        assert_eq!(path.len(), LONG_BYTES + CUT.len());
    }

    #[test]
    fn the_worst_of_everything_still_fits() {
        let bad = |length: usize| Some("\"\u{0}\\".repeat(length));
        let many = |prefix: char| (0..32).map(|n| format!("{prefix}{n:0127}")).collect::<Vec<_>>();
        let (redact, headers) = (many('r'), many('h'));
        let json = json!({"service": bad(1024), "instance": bad(1024), "route": bad(1024),
            "redact": redact, "headers": headers});
        let settings = Settings::parse(json.to_string().as_bytes()).unwrap();
        let (authn, authz) = (facts().authn.unwrap(), facts().authz.unwrap());
        let worst = Facts {
            method: bad(1024),
            host: bad(1024),
            path: bad(32 * 1024),
            protocol: bad(1024),
            request_id: bad(1024),
            client: bad(1024),
            details: bad(1024),
            upstream: bad(1024),
            flags: Flags(u64::MAX),
            headers: headers.iter().chain(&redact).map(|name| (name.clone(), bad(4096).unwrap())).collect(),
            authn: Some(Authn { method: bad(1024), iss: bad(1024), sub: bad(1024), ..authn }),
            authz: Some(Authz { effect: bad(1024), rule: bad(1024), mode: bad(1024), ..authz }),
            rate_limit: Some(RateLimit {
                outcome: bad(1024),
                limit: Some(u64::MAX),
                remaining: Some(u64::MAX),
            }),
            ..facts()
        };
        let line = parsed(&settings, worst);
        let headers = line["headers"].as_object().unwrap();
        assert_eq!(headers.len(), 64);
        assert_eq!(headers[&redact[0]], CUT);
    }

    proptest! {
        #[test]
        fn any_text_makes_one_line_of_valid_json(path in any::<String>(), agent in any::<Vec<u8>>(), host in any::<String>()) {
            let agent = String::from_utf8_lossy(&agent).into_owned();
            let headers = vec![("user-agent".to_owned(), agent)];
            let facts = Facts { path: Some(path), host: Some(host.clone()), headers, ..facts() };
            let line = parsed(&settings(), facts);
            if host.len() * 6 <= SHORT_BYTES {
                prop_assert_eq!(&line["host"], &json!(host));
            }
        }
    }
}
