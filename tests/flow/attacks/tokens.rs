//! Tokens that must prove nothing: lines 24 to 35, through Envoy. What of them no HTTP carries is tested where tokens are read
//! (`crates/jwt`, `sidecars/authn`).

use jwt::testing::{rsa_key, signed, signed_by};
use serde_json::{Value, json};
use tests::Raw;

use super::{Edge, ISSUER, KEY_ID, asap_token, claims, edge, good, now, refused, with_claim};

async fn bearer(edge: &Edge, token: &str, attack: &str) {
    let seen = edge.send(edge.get("/docs").bearer(token)).await;
    refused(&seen, 401, attack);
    // Nor does it do where none is needed.
    refused(&edge.send(edge.get("/healthz").bearer(token)).await, 401, attack);
}

fn header_with(name: &str, value: Value) -> String {
    let mut header = json!({"alg": "ES256", "kid": "ec", "typ": "JWT"});
    header[name] = value;
    signed(&header.to_string(), &claims().to_string())
}

/// Base64url, without a library's opinion about what may be in it.
fn encoded(text: &str) -> String {
    jwt::testing::encoded(text.as_bytes())
}

/// Line 24: sessions here are signed tokens with an end. There is no cookie that the edge has made.
#[tokio::test]
async fn a_cookie_is_a_token_that_is_checked_and_ends_cve_2022_29226_cve_2023_35941_cve_2026_47775() {
    let edge = edge().await;
    let with = |cookie: String| {
        edge.send(Raw::get(edge.session.host(), "/").header("cookie", format!("sid={cookie}")))
    };
    let mut session = claims();
    session["aud"] = json!("session");
    let good = super::signed(&session);
    assert_eq!(with(good.clone()).await.status, 200);
    let (signed, signature) = good.rsplit_once('.').expect("a token");
    let mut forged = session.clone();
    forged["sub"] = json!("root");
    let (mut endless, mut over) = (session.clone(), session.clone());
    endless.as_object_mut().expect("claims").remove("exp");
    over["exp"] = json!(now() - 120);
    let forged = super::signed(&forged);
    for (attack, cookie) in [
        ("not signed", format!("{signed}.")),
        ("another's signature", format!("{}.{signature}", forged.rsplit_once('.').expect("a token").0)),
        ("without an end", super::signed(&endless)),
        ("past its end", super::signed(&over)),
        ("of another service", super::good()),
        (
            "a byte of its middle",
            good.replacen(&good[40..41], if &good[40..41] == "A" { "B" } else { "A" }, 1),
        ),
        ("in quotation marks", format!("\"{good}\"")),
    ] {
        let seen = with(cookie).await;
        refused(&seen, 401, attack);
    }
}

/// Line 25, with CVE-2015-9235.
#[tokio::test]
async fn a_token_says_not_how_it_is_checked_cve_2016_9122() {
    let edge = edge().await;
    for name in
        ["none", "None", "NONE", "nOnE", "", "HS256", "HS512", "PS256", "ES384", "EdDSA", "es256", "RS256 "]
    {
        bearer(&edge, &header_with("alg", json!(name)), name).await;
    }
    let unsigned = |alg: &str| {
        format!("{}.{}.", encoded(&json!({"alg": alg}).to_string()), encoded(&claims().to_string()))
    };
    bearer(&edge, &unsigned("none"), "nothing signed").await;
    bearer(&edge, &unsigned("HS256"), "nothing signed, as HS256").await;
    // The public key as a secret.
    for key in [
        jwt::testing::RSA.to_owned(),
        jwt::testing::jwks(),
        jwt::testing::ec_jwk().to_string(),
        String::new(),
    ] {
        bearer(&edge, &jwt::testing::with_mac(key.as_bytes(), &claims()), "a MAC with what is public").await;
    }
    let crossed = signed_by(&rsa_key(), "RS256", "ec", &claims());
    bearer(&edge, &crossed, "the name of another kind of key").await;
    assert_eq!(
        edge.send(edge.get("/docs").bearer(&signed_by(&rsa_key(), "RS256", "rsa", &claims()))).await.status,
        200
    );
}

/// Line 26, GHSA-wxg7-w2v3-w38g.
#[tokio::test]
async fn a_claim_of_another_type_or_none_is_not_passed_over_cve_2026_25537_cve_2026_55669() {
    let edge = edge().await;
    for (name, value) in [
        ("exp", json!("9999999999")),
        ("exp", json!(null)),
        ("exp", json!(true)),
        ("exp", json!([now() + 60])),
        ("nbf", json!("0")),
        ("nbf", json!({})),
        ("iat", json!("x")),
        ("iss", json!([ISSUER])),
        ("iss", json!(["evil", ISSUER])),
        ("iss", json!({})),
        ("aud", json!(123)),
        ("aud", json!({"hello": true})),
        ("aud", json!([["hello"]])),
        ("aud", json!(null)),
        ("aud", json!("")),
        ("aud", json!("hell")),
        ("aud", json!("hello ")),
        ("sub", json!(0)),
        ("sub", json!(["root"])),
        ("sub", json!("")),
        ("scope", json!(["read", "admin"])),
        ("groups", json!({"root": 1})),
        ("cnf", json!("x")),
        ("cnf", json!({})),
        ("jti", json!(1)),
    ] {
        bearer(&edge, &with_claim(name, value.clone()), &format!("{name}: {value}")).await;
    }
    for name in ["iss", "sub", "aud", "exp"] {
        let mut claims = claims();
        claims.as_object_mut().expect("claims").remove(name);
        bearer(&edge, &super::signed(&claims), &format!("without {name}")).await;
    }
    let twice = claims().to_string().replacen('{', "{\"sub\":\"root\",", 1);
    bearer(&edge, &signed("{\"alg\":\"ES256\",\"kid\":\"ec\"}", &twice), "a claim that stands twice").await;
    bearer(
        &edge,
        &signed("{\"alg\":\"ES256\",\"kid\":\"ec\",\"alg\":\"none\"}", &claims().to_string()),
        "a header that stands twice",
    )
    .await;
}

/// Line 27.
#[tokio::test]
async fn what_a_token_calls_critical_is_not_passed_over_cve_2025_59420() {
    let edge = edge().await;
    for value in [json!(["x"]), json!(["exp"]), json!([]), json!(null), json!("exp"), json!(["b64"])] {
        bearer(&edge, &header_with("crit", value.clone()), &format!("crit: {value}")).await;
    }
    bearer(&edge, &header_with("b64", json!(false)), "a payload that is not encoded").await;
}

/// Line 28, with CVE-2018-0114. What is fetched, and that nothing inside is, is in `crates/fetch` and `control-plane/keys`.
#[tokio::test]
async fn a_key_that_a_token_brings_along_verifies_nothing_cve_2026_41413_cve_2025_67494() {
    let edge = edge().await;
    let (stranger, jwk) = jwt::testing::stranger();
    let es256 = "ES256".parse().expect("an algorithm");
    for (name, value) in [
        ("jwk", jwk.clone()),
        ("jku", json!("http://127.0.0.1:1/jwks")),
        ("x5u", json!("http://169.254.169.254/")),
        ("x5c", json!(["AAAA"])),
    ] {
        for kid in [json!("ec"), json!("theirs"), json!(null)] {
            let mut header = json!({"alg": "ES256", "typ": "JWT", "kid": kid});
            header[name] = value.clone();
            let token = jwt::testing::signed_as(&stranger, es256, &header.to_string(), &claims().to_string());
            bearer(&edge, &token, name).await;
        }
    }
}

/// Line 29, after a defect of the crate `asap`.
#[tokio::test]
async fn a_hostile_key_id_is_looked_up_nowhere() {
    let edge = edge().await;
    for kid in [
        json!("../../etc/passwd"),
        json!("x".repeat(257)),
        json!("x".repeat(20_000)),
        json!("\u{0}ec"),
        json!("ec\u{0}"),
        json!(" ec"),
        json!("\u{ff45}\u{ff43}"),
        json!(["ec"]),
        json!({"$ne": ""}),
        json!(7),
        json!("' OR '1'='1"),
        json!("http://127.0.0.1/"),
    ] {
        bearer(&edge, &header_with("kid", kid.clone()), &kid.to_string()).await;
    }
    let claims = json!({"iss": "micros/billing", "aud": "asap", "iat": now(), "exp": now() + 60, "jti": "1"});
    let with = |kid: &str| edge.send(Raw::get(edge.asap.host(), "/").bearer(&asap_token(kid, &claims)));
    assert_eq!(with(KEY_ID).await.status, 200);
    for kid in [
        "micros/billing/../evil/key",
        "/micros/billing/key-1",
        "micros/billing//key-1",
        "micros/billing/./key-1",
        "micros/billing/%2e%2e/key-1",
        "micros/billing",
        "micros/billing/",
        "micros/billingx/key-1",
        "micros/evil/key-1",
        "https://evil.test/micros/billing/key-1",
        "micros/billing/key-1?x",
        "micros/billing/key-1#",
        "micros/billing\\key-1",
        "micros/billing/key-\u{e4}",
    ] {
        refused(&with(kid).await, 401, kid);
    }
}

/// Line 30, with CVE-2021-21378: a token of nobody is not the same as none.
#[tokio::test]
async fn an_unknown_issuer_is_not_passed_over() {
    let edge = edge().await;
    for issuer in [
        "https://evil.test/",
        "https://tests.example.test",
        "https://TESTS.example.test/",
        "https://id.example.test/",
        "",
    ] {
        bearer(&edge, &with_claim("iss", json!(issuer)), issuer).await;
    }
    for scheme in ["Basic eDp5", "Negotiate x", "Bearer", "Bearer ", "bearer\tx", "DPoP x", "Token x", "x"] {
        let seen = edge.send(edge.get("/healthz").header("authorization", scheme)).await;
        refused(&seen, 401, scheme);
    }
}

/// Line 31, with CVE-2019-12995.
#[tokio::test]
async fn two_tokens_or_half_a_one_decide_nothing_cve_2025_64527_cve_2024_45809() {
    let edge = edge().await;
    let good = good();
    let twice = edge.get("/docs").bearer(&good).bearer(&super::with_claim("sub", json!("bob")));
    refused(&edge.send(twice).await, 400, "two good tokens");
    let both = edge.get("/docs").bearer(&good).header("x-api-key", "gatehouse_0a_x");
    refused(&edge.send(both).await, 401, "a bad key beside a good token");
    let parts: Vec<&str> = good.split('.').collect();
    for token in [
        ".",
        "..",
        "...",
        "a.b.c",
        parts[0],
        &format!("{}.{}", parts[0], parts[1]),
        &format!("{}..{}", parts[0], parts[2]),
        &format!(".{}.{}", parts[1], parts[2]),
        &format!("{good}."),
        &format!("{good}.{}", parts[2]),
        &format!("{good}="),
        &good[1..],
        &good[..good.len() - 1],
        "e30.e30.e30",
        "bnVsbA.bnVsbA.bnVsbA",
        "W10.W10.W10",
        "eyJ.eyJ.eyJ",
        "\u{e4}.\u{e4}.\u{e4}",
    ] {
        bearer(&edge, token, token).await;
    }
    assert_eq!(edge.send(edge.get("/docs").bearer(&good)).await.status, 200, "the sidecar is still there");
}

/// Line 32, with CVE-2022-21449: (r, n - s) is as good a signature of the same claims. So what is revoked is what a token says.
#[tokio::test]
async fn another_spelling_of_a_signature_says_the_same_and_an_empty_one_nothing() {
    let edge = edge().await;
    let good = good();
    let (signed, _) = good.rsplit_once('.').expect("a token");
    for bytes in [
        vec![0; 64],
        vec![],
        vec![0; 63],
        vec![0xff; 64],
        [vec![0; 31], vec![1], vec![0; 31], vec![1]].concat(),
    ] {
        bearer(&edge, &format!("{signed}.{}", jwt::testing::encoded(&bytes)), "no signature").await;
    }
    let other = jwt::testing::malleated(&good);
    assert_ne!(other, good);
    let seen = edge.send(edge.get("/docs").bearer(&other)).await;
    assert_eq!(seen.upstream_saw("x-gatehouse-subject"), ["alice"], "{}", seen.body);
}

/// Line 33, GHSA-2c7c-3mj9-8fqh.
#[tokio::test]
async fn what_would_have_to_be_unpacked_is_refused_cve_2024_28180_cve_2024_28122_cve_2025_30204_cve_2025_27144_cve_2026_34986()
 {
    let edge = edge().await;
    let jwe = |alg: &str| {
        let header = json!({"alg": alg, "enc": "A256GCM", "zip": "DEF", "p2c": 2_000_000_000, "p2s": "AAAA"});
        format!("{}.AAAA.AAAA.AAAA.AAAA", encoded(&header.to_string()))
    };
    for alg in ["RSA-OAEP", "PBES2-HS256+A128KW", "dir"] {
        bearer(&edge, &jwe(alg), alg).await;
    }
    bearer(&edge, &header_with("zip", json!("DEF")), "a signed one that is packed").await;
    bearer(&edge, &".".repeat(15_000), "thousands of dots").await;
    bearer(&edge, &"a.".repeat(7_000), "thousands of parts").await;
    let deep = format!("{{\"alg\":{}", "[".repeat(9_000));
    bearer(&edge, &format!("{}.{}.AAAA", encoded(&deep), encoded("{}")), "a header of brackets").await;
    let long = edge.get("/docs").bearer(&"a".repeat(17_000));
    refused(&edge.send(long).await, 401, "17 KB");
    let longer = edge.get("/docs").bearer(&"a".repeat(1 << 20));
    let seen = edge.send(longer).await;
    assert!([0, 400, 431].contains(&seen.status), "a megabyte: {}", seen.status);
}

/// Line 35. Keys too: `tests/flow/bindings.rs`.
#[tokio::test]
async fn a_part_of_a_token_is_nobodys_cve_2026_27840() {
    let edge = edge().await;
    let good = good();
    assert_eq!(edge.send(edge.get("/docs").bearer(&good)).await.status, 200);
    for length in [1, 10, good.len() / 2, good.len() - 20, good.len() - 1] {
        bearer(&edge, &good[..length], "the beginning").await;
        bearer(&edge, &good[good.len() - length..], "the end").await;
    }
}
