//! `gatehouse authz`: what a service file's rules make of requests, offline, by the engine that decides them on the nodes.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use api::authz::{Effect, Mode};
use model::{
    ServiceFile,
    authz::{AuthzRequest, TestResult},
};
use policy::{Engine, Explained, Outcome, Unmet, cedar::Verdict};
use serde_json::{Value, json};

use crate::{operators::print, service};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run `authz.tests` of service files; ends with 1 where a request does not become what it must
    Test(TestArgs),
    /// Show which rule decides a request, and why not each other
    Explain(Box<ExplainArgs>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Service files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// For machines
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The service file
    path: PathBuf,
    /// Method and path: `GET /users/alice`
    request: String,
    /// Who sends it; nobody without this
    #[arg(long, default_value = "")]
    subject: String,
    /// What it may do; may be given again
    #[arg(long = "scope")]
    scopes: Vec<String>,
    /// What it belongs to; may be given again
    #[arg(long = "group")]
    groups: Vec<String>,
    /// A claim that the service's auth carries; may be given again
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// Who vouches for the subject
    #[arg(long, default_value = "")]
    issuer: String,
    /// Its tenant
    #[arg(long, default_value = "")]
    tenant: String,
    /// By which method of authentication it was proven: jwt, mtls, …
    #[arg(long, default_value = "")]
    method: String,
    /// What the client calls; the service's first host without this
    #[arg(long, default_value = "")]
    host: String,
    /// Where the client is
    #[arg(long)]
    address: Option<IpAddr>,
    /// When the request comes: RFC 3339
    #[arg(long, default_value = "")]
    at: String,
    /// For machines
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Test(args) => test(args),
        Command::Explain(args) => explain(args),
    }
}

/// A file without any row is no success: whoever runs it believes that something was tested.
fn test(args: &TestArgs) -> anyhow::Result<()> {
    let (mut lines, mut all, mut failed) = (Vec::new(), Vec::new(), 0);
    for path in &args.paths {
        let service = service::load_untested(path)?;
        let results = service.authz_results(&engine(&service)?);
        ensure!(!results.is_empty(), "{}: authz.tests: at least one request, got nothing", path.display());
        for (at, result) in results.iter().enumerate() {
            let told = result.decided.as_ref().map_or_else(ToString::to_string, Clone::clone);
            let TestResult { request, expected, is_good, .. } = result;
            failed += usize::from(!is_good);
            lines.push(format!(
                "{} {request}: {}",
                if *is_good { "✓" } else { "✗" },
                shown(&told, expected, *is_good)
            ));
            let file = path.display().to_string();
            all.push(json!({"file": file, "test": at, "request": request, "expected": expected, "decided": told, "good": is_good}));
        }
    }
    print(args.json, &Value::from(all), &(lines.join("\n") + "\n"))?;
    ensure!(failed == 0, "{failed} of {} requests do not become what they must", lines.len());
    Ok(())
}

fn shown(told: &str, expected: &str, is_good: bool) -> String {
    if is_good { told.to_owned() } else { format!("{told}, expected {expected}") }
}

fn engine(service: &ServiceFile) -> anyhow::Result<Engine> {
    service.authz_engine().map_err(|broken| anyhow!("{}", broken.join("\n")))
}

fn explain(args: &ExplainArgs) -> anyhow::Result<()> {
    let service = service::load_untested(&args.path)?;
    let (engine, request) = (engine(&service)?, asked(args)?);
    let (json, text) = request.ask(&service, &engine, |asked| {
        let explained = engine.explain(asked);
        (machine(&explained, &request), people(&explained, &request))
    })?;
    print(args.json, &json, &text)
}

fn asked(args: &ExplainArgs) -> anyhow::Result<AuthzRequest> {
    let (method, path) = args.request.split_once(' ').with_context(|| {
        format!("a method and a path such as \"GET /users/alice\", got {:?}", args.request)
    })?;
    let mut request = AuthzRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        host: args.host.clone(),
        subject: args.subject.clone(),
        issuer: args.issuer.clone(),
        tenant: args.tenant.clone(),
        auth: args.method.clone(),
        scopes: args.scopes.clone(),
        groups: args.groups.clone(),
        address: args.address.map(|address| address.to_string()).unwrap_or_default(),
        at: args.at.clone(),
        ..AuthzRequest::default()
    };
    for claim in &args.claims {
        let (name, value) =
            claim.split_once('=').with_context(|| format!("--claim: NAME=VALUE, got {claim:?}"))?;
        request.claims.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    Ok(request)
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    }
}

fn people(explained: &Explained<'_>, request: &AuthzRequest) -> String {
    let decided = &explained.decided;
    let mut lines = vec![format!("{request}: {} by {}", effect(decided.effect), decided.rule)];
    if decided.mode == Mode::Shadow && decided.effect == Effect::Deny && decided.ambiguous_path.is_none() {
        lines.push("  mode: shadow: it is recorded, and the request passes".into());
    }
    lines.extend(decided.ambiguous_path.map(|why| format!("  the path is ambiguous: {why}")));
    if !decided.missing_scopes.is_empty() {
        lines.push(format!("  it would pass with the scopes {}", decided.missing_scopes.join(", ")));
    }
    for (rule, outcome) in &explained.rules {
        let because = match outcome {
            Outcome::Decides => vec!["decides".to_owned()],
            Outcome::Matches => vec!["matches, and another rule decides".to_owned()],
            Outcome::MatchesNobody => vec!["matches, but no rule allows anything to nobody".to_owned()],
            Outcome::Unmet(unmet) => unmet
                .iter()
                .map(|Unmet { field, wants, has }| {
                    format!("{field}: asks for {wants}, the request has {has}")
                })
                .collect(),
        };
        lines.push(format!("  {} ({}): {}", rule.id, effect(rule.effect), because.join("; ")));
    }
    lines.extend(explained.cedar.as_ref().map(|verdict| format!("  cedar: {}", said(verdict))));
    lines.join("\n") + "\n"
}

fn said(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Permit(policy) => format!("{policy} permits it"),
        Verdict::Forbid(policy) => format!("{policy} forbids it"),
        Verdict::Neither => "no policy is about it".to_owned(),
        Verdict::Failed { policy, cause } => format!("{policy} is in error, which denies it: {cause}"),
    }
}

fn machine(explained: &Explained<'_>, request: &AuthzRequest) -> Value {
    let decided = &explained.decided;
    let rules = explained.rules.iter().map(|(rule, outcome)| {
        let (name, unmet) = match outcome {
            Outcome::Decides => ("decides", &[][..]),
            Outcome::Matches => ("matches", &[][..]),
            Outcome::MatchesNobody => ("matches_nobody", &[][..]),
            Outcome::Unmet(unmet) => ("unmet", unmet.as_slice()),
        };
        let unmet = unmet.iter().map(|unmet| json!({"field": unmet.field, "wants": unmet.wants, "has": unmet.has}));
        json!({"id": rule.id, "effect": effect(rule.effect), "outcome": name, "unmet": unmet.collect::<Vec<_>>()})
    });
    json!({
        "request": request,
        "effect": effect(decided.effect),
        "rule": decided.rule,
        "mode": mode(decided.mode),
        "missing_scopes": decided.missing_scopes,
        "ambiguous_path": decided.ambiguous_path.map(|why| why.to_string()),
        "rules": rules.collect::<Vec<_>>(),
        "cedar": explained.cedar.as_ref().map(said),
    })
}
