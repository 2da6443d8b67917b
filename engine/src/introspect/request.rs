//! The head of an HTTP/1.x request: read from bytes that anybody may have sent.
//!
//! Invariant: pure; takes time in proportion to the bytes, and accepts nothing that it has not understood.

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// Before the question mark.
    pub(crate) path: &'a str,
    /// Names and values behind it, decoded.
    pub(crate) query: Vec<(String, String)>,
    /// Only the head of the answer is wanted.
    pub(crate) head_only: bool,
    /// What the client calls this server, without its port.
    pub(crate) host: Option<&'a str>,
}

/// Why a request gets no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadRequest,
    NotFound,
    MethodNotAllowed,
    TimedOut,
    Misdirected,
    HeadTooLarge,
    Busy,
    VersionNotSupported,
}

impl Refusal {
    /// Status code and reason phrase.
    pub(crate) fn status(self) -> &'static str {
        match self {
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::TimedOut => "408 Request Timeout",
            Self::Misdirected => "421 Misdirected Request",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Busy => "503 Service Unavailable",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// Where the head ends, with its empty line; `None` while it does not.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Understands a whole head, up to and with its empty line.
pub(crate) fn parse(head: &[u8]) -> Result<Request<'_>, Refusal> {
    let text = std::str::from_utf8(head).map_err(|_| Refusal::BadRequest)?;
    let text = text.strip_suffix("\r\n\r\n").ok_or(Refusal::BadRequest)?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::BadRequest);
    };
    if !is_token(method) || !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::BadRequest);
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(if version.starts_with("HTTP/") { Refusal::VersionNotSupported } else { Refusal::BadRequest });
    }
    let mut host = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Refusal::BadRequest)?;
        if !is_token(name) || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(Refusal::BadRequest);
        }
        if name.eq_ignore_ascii_case("host") && host.replace(without_port(value.trim())).is_some() {
            return Err(Refusal::BadRequest);
        }
    }
    if version == "HTTP/1.1" && host.is_none() {
        return Err(Refusal::BadRequest);
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Refusal::MethodNotAllowed),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(name)?, decoded(value)?))
    });
    let query = query.collect::<Option<Vec<_>>>().ok_or(Refusal::BadRequest)?;
    Ok(Request { path, query, head_only, host })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// `%41+b` as `A b`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const GOOD: &str = "GET /actors?type=a%3A%3AB&limit=5&x HTTP/1.1\r\nHost: localhost:7401\r\nX-Y: z\r\n\r\n";

    #[test]
    fn a_request_is_understood() {
        let request = parse(GOOD.as_bytes()).expect("a good one");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!((request.path, request.head_only, request.host), ("/actors", false, Some("localhost")));
        assert_eq!(request.query, [pair("type", "a::B"), pair("limit", "5"), pair("x", "")]);
        assert_eq!(parse(b"HEAD / HTTP/1.0\r\n\r\n").map(|request| request.head_only), Ok(true));
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").map(|request| request.host), Ok(Some("[::1]")));
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_name() {
        use Refusal::{BadRequest, MethodNotAllowed, VersionNotSupported};
        for (head, refusal) in [
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", MethodNotAllowed),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", VersionNotSupported),
            ("GET / HTTP/1.1\r\n\r\n", BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", BadRequest),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", BadRequest),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", BadRequest),
            ("GET / HTTP/1.1\nHost: a\n\r\n\r\n", BadRequest),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
            ("GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
            ("GET /?a=%4 HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
            ("GET /?a=%ff HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
            ("GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", BadRequest),
            ("", BadRequest),
        ] {
            assert_eq!(parse(head.as_bytes()), Err(refusal), "{head:?}");
        }
    }

    /// Whatever comes is refused or understood, and what is understood came from its own bytes.
    #[test]
    fn random_bytes_do_no_harm() {
        let mut understood = 0;
        for seed in 0..20_000 {
            let mut random = Random::new(seed);
            let mut bytes = GOOD.as_bytes().to_vec();
            for _ in 0..random.next_u64() % 6 {
                if bytes.is_empty() {
                    break;
                }
                let at = usize::try_from(random.next_u64()).unwrap_or(0) % bytes.len();
                let byte = random.next_u64().to_le_bytes()[0];
                match random.next_u64() % 4 {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at + 1),
                }
            }
            if random.next_u64().is_multiple_of(4) {
                bytes.iter_mut().for_each(|byte| *byte = random.next_u64().to_le_bytes()[0]);
            }
            let end = head_end(&bytes).unwrap_or(bytes.len());
            if let Ok(request) = parse(&bytes[..end]) {
                understood += 1;
                let text = std::str::from_utf8(&bytes[..end]).expect("understood, so text");
                assert!(text.contains(request.path) && request.path.starts_with('/'));
            }
        }
        assert!(understood > 1000, "{understood}: the test throws nothing but rubbish");
    }
}
