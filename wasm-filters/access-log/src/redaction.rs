//! Hides secrets in paths and URLs: the values of query parameters that are known to carry them.

use std::borrow::Cow;

/// Stands where a secret stood.
pub(crate) const REDACTED: &str = "[redacted]";

/// The parameters whose values are hidden, by their names in lower case.
const SECRET_PARAMETERS: [&str; 15] = [
    "access_token",
    "token",
    "api_key",
    "key",
    "password",
    "secret",
    "code",
    "apikey",
    "client_secret",
    "id_token",
    "refresh_token",
    "sig",
    "signature",
    "x-amz-security-token",
    "x-amz-signature",
];

/// Longer than each of them with every letter percent-encoded.
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
        if let Some((name, _)) = part.split_once('=')
            && is_secret(name)
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

/// Names are compared as a server would read them: decoded, in any case.
fn is_secret(name: &str) -> bool {
    if name.len() > MAX_NAME_BYTES {
        return false;
    }
    let name = percent_decoded(name).to_ascii_lowercase();
    SECRET_PARAMETERS.contains(&name.as_str())
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
    fn a_disguised_name_is_still_a_secret() {
        check("/a?Access_Token=abc", "/a?Access_Token=[redacted]");
        check("/a?access%5Ftoken=abc", "/a?access%5Ftoken=[redacted]");
        check("/a?%74oken=abc", "/a?%74oken=[redacted]");
        check("/a?x=1;token=ab;cd&y=2", "/a?x=1;token=[redacted]&y=2");
        check("/a?b?token=abc", "/a?b?token=[redacted]");
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
