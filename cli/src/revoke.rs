//! `gatehouse revoke`: withdraws a token, a session, a subject's tokens or an API key on the whole fleet.

use std::{
    fs,
    io::Read as _,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    operators::{Operators, Target, escaped, print},
    status::{items, text},
};

#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Args {
    /// Who issued the tokens: their claim `iss`
    #[arg(long)]
    issuer: Option<String>,
    /// One token, by its claim `jti`
    #[arg(long, requires = "issuer", conflicts_with_all = ["sid", "everybody"])]
    jti: Option<String>,
    /// All tokens of a session, by their claim `sid`
    #[arg(long, requires = "issuer", conflicts_with = "everybody")]
    sid: Option<String>,
    /// All tokens of a subject that were issued until now; with --jti or --sid only whose that is, which keeps a full
    /// table from having to revoke more
    #[arg(long, requires = "issuer", conflicts_with = "everybody")]
    subject: Option<String>,
    /// All tokens of the issuer that were issued until now
    #[arg(long, requires = "issuer")]
    everybody: bool,
    /// With --subject or --everybody: tokens that were issued before this time, as 2026-11-22T08:00:00Z or in seconds
    /// since the epoch; now, unless it is said
    #[arg(long, value_parser = time_of, conflicts_with_all = ["jti", "sid"])]
    before: Option<u64>,
    /// An API key, by its id: what stands between `gatehouse_` and the secret. To unbind it is the usual way
    #[arg(long, conflicts_with_all = ["issuer", "token_file"])]
    api_key: Option<String>,
    /// A file with the token that is to be revoked, or `-` for the input. It is read here: only its claims iss, jti, sid
    /// and sub are sent
    #[arg(long, value_name = "FILE", conflicts_with_all = ["issuer", "before"])]
    token_file: Option<String>,
    /// For how long such tokens could be good: at least as long as the issuer makes them, as 24h, 30m or 7d
    #[arg(long = "for", value_name = "TIME", value_parser = span_of, default_value = "24h")]
    lasts: Duration,
    /// Show all that is revoked
    #[arg(long, conflicts_with_all = ["issuer", "api_key", "token_file"])]
    list: bool,
    /// Take a revocation back, by the name that --list shows
    #[arg(long, value_name = "NAME", conflicts_with_all = ["issuer", "api_key", "token_file", "list"])]
    undo: Option<String>,
    /// Do not wait until the nodes know
    #[arg(long)]
    no_wait: bool,
    /// For machines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// The nodes know within a second; one that does not is away, and gets it when it is back.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Tokens are good for up to 30 s after their end, since clocks differ, and ours may differ too.
const MARGIN_SECS: u64 = 120;
/// What a sidecar would read of a token.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let operators = Operators::connect(args.target.clone())?;
    if args.list {
        let answer = operators.get("/api/revocations").await?;
        let shown: String = items(&answer["revocations"]).map(line).collect();
        return print(args.json, &answer, if shown.is_empty() { "nothing is revoked\n" } else { &shown });
    }
    let begun = Instant::now();
    let (mut answer, names, done) = if let Some(name) = &args.undo {
        let answer = operators.delete(&format!("/api/revocations/{}", escaped(name))).await?;
        (answer, vec![name.clone()], format!("taken back: {name}"))
    } else {
        let answer = operators.post("/api/revocations", &body(&args, now()?)?).await?;
        let names = items(&answer["entries"]).map(|entry| text(&entry["name"]).to_owned()).collect();
        let widened =
            items(&answer["widened"]).map(|entry| format!("the table is full, so also: {}", line(entry)));
        let done = format!("{}revoked: {}", widened.collect::<String>(), text(&answer["name"]));
        (answer, names, done)
    };
    let reached = if args.no_wait {
        "; it is on its way to the nodes".to_owned()
    } else {
        let nodes = everywhere(&operators, &names).await.with_context(|| done.clone())?;
        answer["nodes"] = nodes.clone();
        match nodes["acknowledged"].as_u64() {
            Some(0) => "; no node is connected".into(),
            Some(count) => format!(", and {count} nodes know, after {:.1} s", begun.elapsed().as_secs_f64()),
            None => "; it is on its way to the nodes, which this replica does not serve".into(),
        }
    };
    print(args.json, &answer, &format!("{done}{reached}\n"))
}

/// Waits until all connected nodes of the replica that answers know: how many they are, nothing where it has none.
async fn everywhere(operators: &Operators, names: &[String]) -> anyhow::Result<Value> {
    let end = Instant::now() + DEADLINE;
    let mut nodes = Value::Null;
    for name in names {
        loop {
            let standing = operators.get(&format!("/api/revocations/{}", escaped(name))).await?;
            if standing["serves"] == false {
                return Ok(Value::Null);
            }
            nodes = standing["nodes"].clone();
            if standing["published"] == true && nodes["acknowledged"] == nodes["connected"] {
                break;
            }
            if let Some(by) = standing["pause"]["by"].as_str() {
                bail!("pushes are paused by {by}: the nodes know after `gatehouse fleet resume`");
            }
            if Instant::now() >= end {
                let (known, all) = (&nodes["acknowledged"], &nodes["connected"]);
                bail!(
                    "after {} s {known} of {all} nodes know; the others do when they can",
                    DEADLINE.as_secs()
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(nodes)
}

fn now() -> anyhow::Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// What is asked for. `now` in seconds since the epoch.
fn body(args: &Args, now: u64) -> anyhow::Result<Value> {
    if let Some(id) = &args.api_key {
        return Ok(json!({"api_key": {"id": id}}));
    }
    if let Some(path) = &args.token_file {
        return of_token(&read(path)?, args.lasts, now).with_context(|| format!("--token-file {path}"));
    }
    let (issuer, subject) = (&args.issuer, &args.subject);
    let since = args.before.unwrap_or(now);
    let mut body = match (&args.jti, &args.sid, subject) {
        (Some(jti), _, _) => json!({"token": {"issuer": issuer, "jti": jti, "subject": subject}}),
        (_, Some(sid), _) => json!({"session": {"issuer": issuer, "sid": sid, "subject": subject}}),
        (_, _, Some(sub)) => json!({"subject": {"issuer": issuer, "sub": sub, "since": since}}),
        _ if args.everybody => json!({"issuer_since": {"issuer": issuer, "since": since}}),
        _ => bail!(
            "--jti, --sid, --subject, --everybody, --api-key, --token-file, --list or --undo: one of them"
        ),
    };
    body["expires"] = json!(now + args.lasts.as_secs());
    Ok(body)
}

fn read(path: &str) -> anyhow::Result<String> {
    let mut token = String::new();
    if path == "-" {
        std::io::stdin().take(MAX_TOKEN_BYTES + 1).read_to_string(&mut token)?;
    } else {
        let file = fs::File::open(Path::new(path)).with_context(|| format!("reading {path}"))?;
        file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut token)?;
    }
    ensure!(token.len() as u64 <= MAX_TOKEN_BYTES, "a token has at most {MAX_TOKEN_BYTES} bytes");
    Ok(token)
}

/// The claims of a token, unproven: to revoke what nobody could use harms nobody. Never says anything of the token.
fn of_token(token: &str, lasts: Duration, now: u64) -> anyhow::Result<Value> {
    let token = token.trim();
    let token = token.split_once(' ').map_or(token, |(_, token)| token.trim());
    let claims = token.split('.').nth(1).and_then(|claims| BASE64_URL_SAFE_NO_PAD.decode(claims).ok());
    let claims = claims.and_then(|claims| serde_json::from_slice::<Value>(&claims).ok());
    let claims = claims.filter(Value::is_object).context("this is no JWT")?;
    let claim = |name: &str| claims[name].as_str();
    let issuer = claim("iss").context("the token has no claim iss")?;
    let mut body = match (claim("jti"), claim("sid")) {
        (Some(jti), _) => json!({"token": {"issuer": issuer, "jti": jti}}),
        (None, Some(sid)) => json!({"session": {"issuer": issuer, "sid": sid}}),
        (None, None) => bail!("the token has neither jti nor sid; revoke all of its subject with --subject"),
    };
    if let Some(subject) = claim("sub") {
        for kind in ["token", "session"] {
            if let Some(what) = body.get_mut(kind) {
                what["subject"] = json!(subject);
            }
        }
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let end = claims["exp"].as_f64().map(|end| end.ceil() as u64);
    let expires = end.map_or(now + lasts.as_secs(), |end| end.saturating_add(MARGIN_SECS));
    ensure!(expires > now, "the token has expired");
    body["expires"] = json!(expires);
    Ok(body)
}

/// An entry, for people.
pub(crate) fn line(entry: &Value) -> String {
    let of = |kind: &str, field: &str| text(&entry[kind][field]).to_owned();
    let subject = |kind: &str| {
        let subject = entry[kind]["subject"].as_str();
        subject.map(|subject| format!(" of {subject:?}")).unwrap_or_default()
    };
    let since = |kind: &str| shown(&entry[kind]["since"]);
    let what = if entry["token"].is_object() {
        format!("token {:?}{} of {}", of("token", "jti"), subject("token"), of("token", "issuer"))
    } else if entry["session"].is_object() {
        format!("session {:?}{} of {}", of("session", "sid"), subject("session"), of("session", "issuer"))
    } else if entry["subject"].is_object() {
        let (sub, issuer) = (of("subject", "sub"), of("subject", "issuer"));
        format!("tokens of {sub:?} of {issuer} from before {}", since("subject"))
    } else if entry["issuer_since"].is_object() {
        format!("all tokens of {} from before {}", of("issuer_since", "issuer"), since("issuer_since"))
    } else {
        format!("API key {}", of("api_key", "id"))
    };
    let until = match entry["expires"].as_u64() {
        None | Some(0) => "for ever".to_owned(),
        Some(_) => format!("until {}", shown(&entry["expires"])),
    };
    format!("{}  {what}  {until}, by {}\n", text(&entry["name"]), text(&entry["by"]))
}

/// Seconds since the epoch, for people.
fn shown(secs: &Value) -> String {
    let time = secs.as_i64().and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| secs.to_string())
}

fn time_of(text: &str) -> Result<u64, String> {
    if let Ok(secs) = text.parse() {
        return Ok(secs);
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok();
    let secs = time.and_then(|time| u64::try_from(time.unix_timestamp()).ok());
    secs.ok_or_else(|| "a time as 2026-11-22T08:00:00Z, or seconds since the epoch".into())
}

fn span_of(text: &str) -> Result<Duration, String> {
    let rule = || "a number with s, m, h or d, as 24h".to_owned();
    let unit = text.chars().last().ok_or_else(rule)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 24 * 3_600,
        _ => return Err(rule()),
    };
    let count = text.strip_suffix(unit).and_then(|count| count.parse::<u64>().ok());
    let secs = count.and_then(|count| count.checked_mul(secs)).filter(|secs| *secs > 0);
    secs.map(Duration::from_secs).ok_or_else(rule)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    const NOW: u64 = 1_800_000_000;

    fn asked(line: &str) -> Result<Value, String> {
        let words = std::iter::once("revoke").chain(line.split(' '));
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        body(&line.args, NOW).map_err(|error| format!("{error:#}"))
    }

    fn jwt(claims: &Value) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn each_kind_is_asked_for() {
        let day = NOW + 24 * 3_600;
        for (line, expected) in [
            (
                "--issuer i --jti j",
                json!({"token": {"issuer": "i", "jti": "j", "subject": null}, "expires": day}),
            ),
            (
                "--issuer i --sid s --subject a --for 30m",
                json!({"session": {"issuer": "i", "sid": "s", "subject": "a"}, "expires": NOW + 1_800}),
            ),
            (
                "--issuer i --subject a",
                json!({"subject": {"issuer": "i", "sub": "a", "since": NOW}, "expires": day}),
            ),
            (
                "--issuer i --subject a --before 2027-01-15T08:00:00Z",
                json!({"subject": {"issuer": "i", "sub": "a", "since": 1_800_000_000}, "expires": day}),
            ),
            (
                "--issuer i --everybody --before 17",
                json!({"issuer_since": {"issuer": "i", "since": 17}, "expires": day}),
            ),
            ("--api-key 0a", json!({"api_key": {"id": "0a"}})),
        ] {
            assert_eq!(asked(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_could_mean_two_things_or_too_much_is_refused() {
        for line in [
            "--issuer i",
            "--jti j",
            "--issuer i --jti j --sid s",
            "--issuer i --jti j --before 17",
            "--issuer i --subject a --everybody",
            "--issuer i --subject a --api-key 0a",
            "--issuer i --subject a --for 0h",
            "--issuer i --subject a --for 1w",
            "--issuer i --subject a --before yesterday",
            "--issuer i --jti j --list",
        ] {
            assert!(asked(line).is_err(), "{line}");
        }
    }

    #[test]
    fn of_a_token_only_what_names_it_is_sent() {
        let day = Duration::from_secs(24 * 3_600);
        let claims = json!({"iss": "i", "jti": "j", "sid": "s", "sub": "a", "exp": NOW + 10, "email": "x"});
        let expected =
            json!({"token": {"issuer": "i", "jti": "j", "subject": "a"}, "expires": NOW + 10 + MARGIN_SECS});
        assert_eq!(of_token(&format!("Bearer {}\n", jwt(&claims)), day, NOW).unwrap(), expected);
        let expected = json!({"session": {"issuer": "i", "sid": "s"}, "expires": NOW + 24 * 3_600});
        assert_eq!(of_token(&jwt(&json!({"iss": "i", "sid": "s"})), day, NOW).unwrap(), expected);
        for (token, told) in [
            ("secret".to_owned(), "this is no JWT"),
            (jwt(&json!({"jti": "j"})), "the token has no claim iss"),
            (
                jwt(&json!({"iss": "i"})),
                "the token has neither jti nor sid; revoke all of its subject with --subject",
            ),
            (jwt(&json!({"iss": "i", "jti": "j", "exp": 17})), "the token has expired"),
        ] {
            assert_eq!(of_token(&token, day, NOW).unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn an_entry_is_shown_with_what_it_means() {
        let entry = json!({
            "name": "subject:ab", "subject": {"issuer": "i", "sub": "a", "since": NOW}, "expires": NOW + 60,
            "at": NOW, "by": "ann",
        });
        let expected = "subject:ab  tokens of \"a\" of i from before 2027-01-15T08:00:00Z  until \
                        2027-01-15T08:01:00Z, by ann\n";
        assert_eq!(line(&entry), expected);
        let key =
            json!({"name": "api-key:cd", "api_key": {"id": "0a"}, "expires": 0, "at": NOW, "by": "ann"});
        assert_eq!(line(&key), "api-key:cd  API key 0a  for ever, by ann\n");
    }
}
