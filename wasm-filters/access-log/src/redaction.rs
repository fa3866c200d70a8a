//! Hides secrets in paths and URLs: the values of query parameters whose names say that they carry them.

use std::borrow::Cow;

/// Stands where a secret stood.
pub(crate) const REDACTED: &str = "[redacted]";

/// Parameters that carry a secret under exactly this name.
const SECRET_NAMES: [&str; 8] = ["auth", "code", "jwt", "key", "otp", "pin", "pwd", "sig"];

/// Parameters that carry a secret if their name holds one of these: `access_token`, `user[password]`, `X-Api-Key`.
/// Rather too many than too few.
const SECRET_WORDS: [&str; 13] = [
    "accesskey",
    "apikey",
    "assertion",
    "authorization",
    "bearer",
    "credential",
    "oauth",
    "passcode",
    "passw",
    "saml",
    "secret",
    "session",
    "signature",
];

/// The most common one; also looked for inside of values.
const TOKEN: &str = "token";

/// No honest parameter has a longer name, and what cannot be read is not shown.
const MAX_NAME_BYTES: usize = 64;

/// `url` with secret values replaced; all else stays as it was sent.
///
/// A fragment counts as well: a `Referer` may carry what OAuth's implicit flow left there.
pub(crate) fn redacted(url: &str) -> Cow<'_, str> {
    let Some(query) = url.find(['?', '#']) else { return Cow::Borrowed(url) };
    let (path, query) = url.split_at(query);
    let mut shown = path.to_owned();
    for segment in query.split_inclusive('&') {
        push_segment(&mut shown, segment);
    }
    Cow::Owned(shown)
}

/// One `name=value`, with the `&` behind it, if there was one.
///
/// A secret's name may also stand behind `?`, `#`, or `;`, at which some servers split. Its value may hold
/// them as well, so all up to the next `&` is hidden.
fn push_segment(shown: &mut String, segment: &str) {
    let pair = segment.strip_suffix('&').unwrap_or(segment);
    let mut start = 0;
    for part in pair.split_inclusive(['?', '#', ';']) {
        if let Some((name, value)) = part.split_once('=')
            && (is_secret(name) || holds_secret(value))
        {
            shown.push_str(segment.get(..start + name.len()).unwrap_or_default());
            shown.push('=');
            shown.push_str(REDACTED);
            shown.push_str(segment.get(pair.len()..).unwrap_or_default());
            return;
        }
        start += part.len();
    }
    shown.push_str(segment);
}

/// Names are compared as servers might read them: decoded, in any case, without what stands between the letters.
fn is_secret(name: &str) -> bool {
    if name.len() > MAX_NAME_BYTES {
        return true;
    }
    let letters: String = decoded(name).chars().filter(char::is_ascii_alphanumeric).collect();
    SECRET_NAMES.contains(&letters.as_str()) || has_secret_word(&letters)
}

/// A URL within a URL: `redirect=https%3A%2F%2Fh%2F%3Faccess_token%3Dx`.
fn holds_secret(value: &str) -> bool {
    if !value.contains('%') {
        return false;
    }
    let value = decoded(value);
    value.match_indices('=').any(|(at, _)| {
        let before = value.get(..at).unwrap_or_default();
        let name = before.rsplit(['?', '&', '#', ';', '/']).next().unwrap_or_default();
        let letters: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        SECRET_NAMES.contains(&letters.as_str()) || has_secret_word(&letters)
    })
}

fn has_secret_word(letters: &str) -> bool {
    letters.contains(TOKEN) || SECRET_WORDS.iter().any(|word| letters.contains(word))
}

/// Twice: some servers do.
fn decoded(text: &str) -> String {
    percent_decoded(&percent_decoded(text)).to_ascii_lowercase()
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        match (byte, ahead.next().and_then(hex), ahead.next().and_then(hex)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                bytes = ahead;
            }
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(url: &str, expected: &str) {
        assert_eq!(redacted(url), expected);
    }

    #[test]
    fn urls_without_secrets_stay_as_they_are() {
        for url in [
            "",
            "/",
            "/token=1/a",
            "/a?",
            "/a?b=c&d",
            "/a?b=%zz&&#",
            "*",
            "https://h/p?q=a=b",
            "/a?keyboard=1",
        ] {
            check(url, url);
        }
    }

    #[test]
    fn values_of_secret_parameters_are_hidden() {
        check("/a?token=abc", "/a?token=[redacted]");
        check("/a?x=1&access_token=abc&y=2", "/a?x=1&access_token=[redacted]&y=2");
        check("/cb?code=4%2F0&state=s", "/cb?code=[redacted]&state=s");
        check("/a?key=&password=p=q", "/a?key=[redacted]&password=[redacted]");
        check("https://h/cb#id_token=abc&x=1", "https://h/cb#id_token=[redacted]&x=1");
    }

    #[test]
    fn a_url_within_a_url_is_read_too() {
        check("/a?redirect=https%3A%2F%2Fh%2F%3Faccess_token%3Dabc", "/a?redirect=[redacted]");
        check("/a?redirect=https%3A%2F%2Fh%2F%3Fpage%3D2", "/a?redirect=https%3A%2F%2Fh%2F%3Fpage%3D2");
    }

    #[test]
    fn a_disguised_name_is_still_a_secret() {
        check("/a?Access_Token=abc", "/a?Access_Token=[redacted]");
        check("/a?access%5Ftoken=abc", "/a?access%5Ftoken=[redacted]");
        check("/a?%74oken=abc", "/a?%74oken=[redacted]");
        check("/a?x=1;token=ab;cd&y=2", "/a?x=1;token=[redacted]&y=2");
        check("/a?b?token=abc", "/a?b?token=[redacted]");
        for name in [
            "user[password]",
            "X-Amz-Credential",
            "to+ken",
            "%2574oken",
            "SAMLResponse",
            "token[]",
            "api-key",
        ] {
            check(&format!("/a?{name}=abc"), &format!("/a?{name}=[redacted]"));
        }
        check(&format!("/a?{}=abc", "x".repeat(65)), &format!("/a?{}=[redacted]", "x".repeat(65)));
        check("/a?token=ab?cd#ef&y=2", "/a?token=[redacted]&y=2");
    }

    proptest! {
        #[test]
        fn the_value_of_a_token_is_never_seen(before in "[a-z=&;%?#]{0,20}", within in "[a-z=;%?#]{0,9}") {
            let url = format!("/{before}?x=1&token={within}SECRET&y=2");
            prop_assert!(!redacted(&url).contains("SECRET"));
        }

        #[test]
        fn no_text_makes_it_panic(url in "\\PC{0,80}") {
            let _ = redacted(&url);
        }
    }
}
