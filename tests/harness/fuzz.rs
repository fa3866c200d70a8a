//! Bytes that nobody means, for everything that reads what clients and others send: a mutator with a seed, over a corpus of
//! what is meant. Each target panics where something does not hold; then the input is shown, to become a test.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use authn::testing::{self, Authn};
use jwt::{
    Proof, Token,
    testing::{NOW, claims, good, header, keys, method, proof_for, rsa_key, signed_by, token},
};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::json;

/// Something that reads bytes, and what they could be.
pub struct Target {
    /// For people.
    pub name: &'static str,
    corpus: Vec<Vec<u8>>,
    run: Box<Reader>,
}

/// Panics where something does not hold.
type Reader = dyn Fn(&[u8]);

/// Longer than what is read of any of them; a certificate is the longest.
const MAX_BYTES: usize = 64 * 1024;
/// On top of each other. More leave nothing of the input.
const MAX_CHANGES: u64 = 6;

/// Numbers from a seed (xorshift64*): the same ones each time, on each machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below a number; 0 below 0.
    #[allow(clippy::cast_possible_truncation)]
    fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// What readers of text, JSON, base64, headers, PEM and protobuf stumble over.
const WORDS: [&[u8]; 28] = [
    b"",
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b".",
    b"..",
    b"/",
    b"%",
    b"%00",
    b"%2f",
    b"%2e",
    b";",
    b",",
    b"=",
    b" ",
    b"\r\n",
    b"\"",
    b"\\",
    b"{",
    b"[",
    b"null",
    b"true",
    b"1e999",
    b"-1",
    b"Bearer ",
    b"none",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x08",
];

/// One change of an input.
fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len());
    let to = (at + 1 + dice.below(24)).min(input.len());
    match dice.below(9) {
        0 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
        1 if !input.is_empty() => input[at] = dice.next().to_le_bytes()[0],
        2 => drop(input.drain(at.min(to)..to)),
        3 => input.truncate(at),
        4 => {
            let part = input[at.min(to)..to].to_vec();
            input.splice(at..at, part);
        }
        5 => {
            let word = *dice.of(&WORDS);
            input.splice(at..at, word.iter().copied());
        }
        6 => {
            let word = *dice.of(&WORDS);
            input.splice(at.min(to)..to, word.iter().copied());
        }
        7 => {
            let other = dice.of(corpus);
            let from = dice.below(other.len());
            let end = (from + dice.below(64)).min(other.len());
            input.splice(at.min(to)..to, other[from..end].iter().copied());
        }
        _ => {
            let times = dice.below(40);
            let part = input[at.min(to)..to].repeat(times);
            input.splice(at..at, part);
        }
    }
    input.truncate(MAX_BYTES);
}

/// Shows the input when its target panics.
struct Shown<'a>(&'a str, &'a [u8]);

impl Drop for Shown<'_> {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex = self.1.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a string does not fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            eprintln!("{} does not take: {hex}", self.0);
        }
    }
}

impl Target {
    fn new(name: &'static str, corpus: Vec<Vec<u8>>, run: impl Fn(&[u8]) + 'static) -> Self {
        Self { name, corpus, run: Box::new(run) }
    }

    fn try_one(&self, input: &[u8]) {
        let _shown = Shown(self.name, input);
        (self.run)(input);
    }

    /// All of the corpus as it is, and so many changes of it. Signatures in it are other ones each time.
    pub fn run(&self, seed: u64, changes: usize) {
        for input in &self.corpus {
            self.try_one(input);
        }
        // Of a seed 0 nothing would come but 0.
        let mut dice = Dice(seed | 1);
        for _ in 0..changes {
            self.change_one(&mut dice);
        }
    }

    fn change_one(&self, dice: &mut Dice) {
        let mut input = dice.of(&self.corpus).clone();
        for _ in 0..=dice.next() % MAX_CHANGES {
            change(&mut input, &self.corpus, dice);
        }
        self.try_one(&input);
    }

    /// For so long; how many inputs there were.
    pub fn run_for(&self, seed: u64, time: Duration) -> u64 {
        let (end, mut dice, mut inputs) = (Instant::now() + time, Dice(seed | 1), 0);
        while Instant::now() < end {
            self.change_one(&mut dice);
            inputs += 1;
        }
        inputs
    }
}

/// Percent-encoded PEM, as Envoy has it.
fn certificate(uris: &[&str]) -> String {
    let mut params = CertificateParams::default();
    let name = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
    params.subject_alt_names.extend(uris.iter().map(name));
    let pem = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem();
    [('+', "%2B"), ('/', "%2F"), (' ', "%20"), ('\n', "%0A")]
        .iter()
        .fold(pem, |pem, (from, to)| pem.replace(*from, to))
}

/// Only a token that was signed is good, byte for byte.
fn tokens() -> Target {
    let asap = json!({"iss": "micros/billing", "aud": "hello", "exp": NOW + 60.0, "iat": NOW, "jti": "1"});
    let corpus = vec![
        good(),
        signed_by(&rsa_key(), "RS256", "rsa", &claims()),
        token(&header(), &json!({"iss": "https://evil.test/"})),
        signed_by(&rsa_key(), "RS256", "micros/billing/key", &asap),
    ];
    let (known, keys, method) = (corpus.clone(), keys(), method());
    let asap = api::authn::Asap {
        key_server: "https://keys.example.test/".into(),
        audiences: vec!["hello".to_owned()],
        issuers: vec!["micros/billing".into()],
    };
    let corpus = corpus.into_iter().map(String::into_bytes).collect();
    Target::new("a token", corpus, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok(token) = Token::read(text) else { return };
        let is_good =
            token.verify(&method, &keys, NOW).is_ok() || token.verify_asap(&asap, &keys, NOW).is_ok();
        assert!(!is_good || known.iter().any(|known| known == text), "nobody has signed it");
        let _claims = jwt::claims_of(text);
    })
}

/// Only a proof that was signed is good, byte for byte.
fn proofs() -> Target {
    // Long after 1970, and before the fraction of a float ends.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let good = proof_for("a.b.c", "GET", "https://hello.example.test/x", "1", NOW as u64);
    let corpus = vec![good.clone().into_bytes()];
    Target::new("a proof", corpus, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let (method, scheme, host, path) = ("GET", "https", "hello.example.test", "/x?y");
        let proof = Proof { text, token: "a.b.c", method, scheme, host, path };
        assert!(jwt::prove(&proof, NOW).is_err() || text == good, "nobody has signed it");
    })
}

/// Everything that is fuzzed.
pub fn targets() -> Vec<Target> {
    let shown = certificate(&["spiffe://td/ns/a"]);
    let others = [shown.clone(), certificate(&["spiffe://td/ns/a", "spiffe://td/ns/b"]), certificate(&[])];
    let new = || Authn::new(&shown);
    let (checking, presenting, certified) = (new(), new(), new());
    let requests = checking.requests().iter().map(prost::Message::encode_to_vec).collect();
    let policies = testing::policies().iter().map(prost::Message::encode_to_vec).collect();
    let credentials = [
        "Bearer a.b.c",
        "Basic YWxpY2U6c2VjcmV0",
        "sid=a.b.c; a=b",
        "gatehouse_0a_secret",
        "DPoP x",
        "https://x",
    ];
    let mut credentials: Vec<Vec<u8>> = credentials.map(|text| text.as_bytes().to_vec()).into();
    credentials.push(format!("Bearer {}", presenting.good()[0]).into_bytes());
    credentials.push(format!("sid={}", presenting.good()[0]).into_bytes());
    let limiting = ratelimit::testing::Answering::default();
    let pem = KeyPair::generate().expect("a key").public_key_pem();
    vec![
        tokens(),
        proofs(),
        Target::new("a question of Envoy", requests, move |bytes| checking.check(bytes)),
        Target::new("a credential", credentials, move |bytes| presenting.credentials(bytes)),
        Target::new("a certificate", others.map(String::into_bytes).into(), move |bytes| {
            certified.certificate(bytes);
        }),
        Target::new("a policy", policies, testing::policy),
        Target::new("a set of keys", testing::key_sets(), testing::key_set),
        Target::new("rules and a request", policy::testing::corpus(), policy::testing::agree),
        Target::new("a revocation", testing::revocations(), testing::revocation),
        Target::new("an answer about a token", testing::answers(), testing::introspected),
        Target::new("a question about limits", limiting.questions(), move |bytes| limiting.question(bytes)),
        Target::new("limits", ratelimit::testing::limits(), ratelimit::testing::read_limits),
        Target::new("a key in PEM", vec![pem.into_bytes()], |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _refused = jwt::pem::jwk(text, "k");
            }
        }),
    ]
}
