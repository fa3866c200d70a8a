//! Attacks of the list in docs/security.md that no HTTP client can make, or that Envoy would stop before.

use api::revocation::{Revocation, Revoked};
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;
use crate::work::Work;

/// Line 32: who has a token that was revoked makes another string of it that is signed as well.
#[test]
fn a_revoked_token_stays_revoked_in_another_spelling_of_its_signature() {
    let mut claims = claims();
    claims["jti"] = json!("stolen");
    let stolen = token(&header(), &claims);
    let (mut state, tokens, replays) = (state(), Tokens::new([7; 32]), Replays::default());
    let revoked = Revoked::Token { issuer: ISSUER.into(), jti: "stolen".into() };
    state.revocations.insert(Revocation { name: "a".into(), what: revoked, expires: 0 });
    for token in [&stolen, &jwt::testing::malleated(&stolen)] {
        let bearer = format!("Bearer {token}");
        let request = Ask { headers: &[("authorization", &bearer)], ..Ask::default() }.request();
        let memory = Memory { tokens: &tokens, replays: &replays, issued: &Issued::default(), done: &[] };
        let Verdict::Decided(decision, _) = decide(&Facts::read(&request).unwrap(), &state, &memory, NOW)
        else {
            panic!("nothing here takes long")
        };
        assert_eq!(status(&decision), 401, "{token}");
    }
}

/// Percent-encoded PEM of a certificate with these names.
fn named(names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    [('+', "%2B"), (' ', "%20"), ('\n', "%0A")].iter().fold(pem, |pem, (from, to)| pem.replace(*from, to))
}

/// Line 45: names that other readers end at a NUL, or read in another type.
#[test]
fn a_name_in_a_certificate_is_whole_and_of_its_own_type_cve_2025_66220_cve_2026_47778_cve_2022_21656() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let other =
        |text: &str| SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], text.to_owned().into()));
    let ask = |names: Vec<SanType>| {
        let certificate = named(names);
        Ask { policy: "mtls@3", certificate: &certificate, ..Ask::default() }.answer()
    };
    assert_eq!(ask(vec![uri("spiffe://td/ns/a")]), (200, "mtls"));
    assert_eq!(ask(vec![uri("spiffe://td/ns/a"), other("spiffe://td/ns/b")]), (200, "mtls"));
    for (attack, names) in [
        ("a NUL in it", vec![uri("spiffe://td/ns/a\0.evil.test")]),
        ("a NUL before it", vec![uri("\0spiffe://td/ns/a")]),
        ("a NUL in another one", vec![uri("spiffe://td/ns/a"), dns("x\0y")]),
        ("another type", vec![other("spiffe://td/ns/a")]),
        ("a host", vec![dns("spiffe://td/ns/a")]),
        ("a mail address", vec![SanType::Rfc822Name("spiffe://td/ns/a".try_into().unwrap())]),
        ("an address", vec![SanType::IpAddress([127, 0, 0, 1].into())]),
        ("two of them", vec![uri("spiffe://td/ns/a"), uri("spiffe://td/ns/a")]),
        ("another case", vec![uri("SPIFFE://td/ns/a")]),
        ("a space", vec![uri("spiffe://td/ns/a ")]),
        ("a line", vec![uri("spiffe://td/ns/a\nb")]),
        ("somebody in it", vec![uri("spiffe://td@evil/ns/a")]),
        ("below it, and out", vec![uri("spiffe://td/ns/../admin")]),
    ] {
        assert_eq!(ask(names), (401, "none"), "{attack}");
    }
}

/// Line 34: names are compared, never searched.
#[test]
fn a_name_is_no_pattern_and_a_pattern_no_regex_cve_2026_39350_cve_2026_40574() {
    let policy = |spiffe: &str, dns: &str| {
        let wire = pb::authn::Mtls { spiffe: vec![spiffe.into()], dns: vec![dns.into()] };
        api::authn::Mtls::try_from(wire)
    };
    for spiffe in ["spiffe://td/.*", "spiffe://*/ns", "spiffe://td/n*s", "*", ".*", "spiffe://td/(a|b)", ""] {
        let read = policy(spiffe, "a.test");
        let matches_all = |mtls: api::authn::Mtls| mtls.spiffe[0].matches("spiffe://td/ns/a");
        assert!(!read.is_ok_and(matches_all), "{spiffe}");
    }
    let ask = |dns: &str| {
        let certificate = named(vec![SanType::DnsName(dns.try_into().unwrap())]);
        Ask { policy: "mtls@3", certificate: &certificate, ..Ask::default() }.answer()
    };
    for dns in ["td", "spiffe.td.ns.a", "a@b@td", "*"] {
        assert_eq!(ask(dns), (401, "none"), "{dns}");
    }
}

/// Line 44: who is nobody costs what a wrong password costs, and is told the same.
#[test]
fn a_name_that_nobody_has_takes_as_long_as_a_wrong_password_cve_2026_32595_cve_2026_41263() {
    use crate::method::{Credential, Method as _, Outcome};

    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let user =
        pb::authn::basic::User { name: "alice".into(), hash: HASH.into(), scopes: vec!["read".into()] };
    let basic = api::authn::Basic::try_from(pb::authn::Basic { users: vec![user] }).unwrap();
    let work = |text: &str| match basic.verify(&Credential::new(text), &state(), NOW) {
        Outcome::Wait(Work::Password(password)) => *password,
        _ => panic!("no hash was asked for"),
    };
    // alice:secret and mallory:secret
    let (known, unknown) = (work("YWxpY2U6c2VjcmV0"), work("bWFsbG9yeTpzZWNyZXQ="));
    assert_eq!((known.hash, known.given), (unknown.hash, unknown.given));
    assert!(known.proven.is_some() && unknown.proven.is_none());
}

/// Line 36: what a request has waited for is the answer about its own credential alone.
#[test]
fn what_came_of_another_credential_is_no_answer_cve_2026_71326() {
    let (state, tokens, replays) = (state(), Tokens::new([7; 32]), Replays::default());
    let ask = |headers: &[(&str, &str)], done: &[(Id, work::Result)]| {
        let request = Ask { headers, ..Ask::default() }.request();
        let memory = Memory { tokens: &tokens, replays: &replays, issued: &Issued::default(), done };
        match decide(&Facts::read(&request).unwrap(), &state, &memory, NOW) {
            Verdict::Decided(decision, _) => status(&decision),
            Verdict::Wait(_) => panic!("nothing here takes long"),
        }
    };
    let bearer = format!("Bearer {}", good());
    assert_eq!(ask(&[("authorization", &bearer)], &[]), 200);
    // The tests' policies have the hash of their name.
    let policy = |name: &str| *blake3::hash(name.as_bytes()).as_bytes();
    for (name, place, text) in [
        ("i-1", Place::Authorization("bearer"), good()),
        ("other", Place::Authorization("bearer"), "x".to_owned()),
        ("i-1", Place::Cookie("bearer"), "x".to_owned()),
    ] {
        let own = tokens.id(&policy(name), place, &text);
        let known = tokens.id(&policy("i-1"), Place::Authorization("bearer"), &good());
        let found = tokens.known(&known, NOW).into_iter();
        let done: Vec<_> = found.map(|found| (own, Ok(found))).collect();
        assert_eq!(ask(&[("authorization", "Bearer x")], &done), 401, "{name} {text}");
    }
}
