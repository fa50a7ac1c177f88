//! Requests of HTTP/1.1 (RFC 9112), as far as the guest's server understands them: no bodies.

/// Bytes that a request may have.
pub const LONGEST: usize = 2048;

/// What stands at the beginning of what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<'a> {
    /// Not all of a request yet.
    Part,
    /// A request.
    Request(Request<'a>),
    /// No request that is understood, and what to answer: a status and its reason.
    Bad(&'static str),
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Bytes of it.
    pub length: usize,
    /// Whether the answer is to have no body.
    pub head: bool,
    /// What is asked for.
    pub target: &'a str,
    /// Whether the connection stays open after the answer.
    pub keeps: bool,
}

/// Reads the beginning of `bytes`.
#[must_use]
pub fn receive(bytes: &[u8]) -> Received<'_> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match bytes.len() {
            LONGEST.. => Received::Bad("431 Request Header Fields Too Large"),
            _ => Received::Part,
        };
    };
    match bytes.get(..end).map(core::str::from_utf8) {
        Some(Ok(text)) => read(text, end + 4).map_or_else(Received::Bad, Received::Request),
        _ => Received::Bad(BAD),
    }
}

const BAD: &str = "400 Bad Request";

fn read(text: &str, length: usize) -> Result<Request<'_>, &'static str> {
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BAD);
    };
    let mut keeps = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err("505 HTTP Version Not Supported"),
    };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(BAD)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            keeps = match value {
                value if value.eq_ignore_ascii_case("close") => false,
                value if value.eq_ignore_ascii_case("keep-alive") => true,
                _ => keeps,
            };
        }
        let has_body = name.eq_ignore_ascii_case("transfer-encoding")
            || (name.eq_ignore_ascii_case("content-length") && value != "0");
        if has_body {
            return Err("413 Content Too Large");
        }
    }
    match method {
        "GET" | "HEAD" => Ok(Request {
            length,
            head: method == "HEAD",
            target,
            keeps,
        }),
        _ => Err("405 Method Not Allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    fn request(text: &str) -> Option<(&str, bool, bool)> {
        match receive(text.as_bytes()) {
            Received::Request(request) => {
                assert_eq!(request.length, text.len());
                Some((request.target, request.head, request.keeps))
            }
            _ => None,
        }
    }

    #[test]
    fn requests_are_understood() {
        let ab = "GET / HTTP/1.0\r\nUser-Agent: ApacheBench/2.3\r\nConnection: Keep-Alive\r\n\r\n";
        assert_eq!(request(ab), Some(("/", false, true)));
        assert_eq!(
            request("GET /a HTTP/1.0\r\n\r\n"),
            Some(("/a", false, false))
        );
        let close = "HEAD /b HTTP/1.1\r\nhost: x\r\nCONNECTION: close\r\n\r\n";
        assert_eq!(request(close), Some(("/b", true, false)));
    }

    #[test]
    fn what_is_not_understood_is_answered_with_the_reason() {
        for (text, status) in [
            ("GET /\r\n\r\n", "400"),
            ("nonsense\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nno field\r\n\r\n", "400"),
            ("GET / HTTP/2.0\r\n\r\n", "505"),
            ("POST / HTTP/1.1\r\n\r\n", "405"),
            ("GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "413"),
        ] {
            match receive(text.as_bytes()) {
                Received::Bad(answer) => assert!(answer.starts_with(status), "{text:?}: {answer}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        assert_eq!(receive(b"\xff\xfe\r\n\r\n"), Received::Bad(BAD));
        let long = [b'a'; LONGEST];
        assert!(matches!(receive(&long), Received::Bad(answer) if answer.starts_with("431")));
    }

    proptest! {
        #[test]
        fn a_request_counts_only_when_all_of_it_is_there(path in "/[a-z]{0,20}", cut in 0usize..40, more: bool) {
            let text = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let part = &text.as_bytes()[..text.len() - 1 - cut % (text.len() - 1)];
            prop_assert_eq!(receive(part), Received::Part);
            let with_next = if more { format!("{text}GET") } else { text.clone() };
            let expected = Request { length: text.len(), head: false, target: &path, keeps: true };
            prop_assert_eq!(receive(with_next.as_bytes()), Received::Request(expected));
        }

        #[test]
        fn nothing_that_comes_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "(GET|[ -~])? ?[ -~]{0,40}( HTTP/1.1)?(\r\n[ -~]{0,20})*\r\n\r\n") {
            let _ = receive(&bytes);
            let _ = receive(text.as_bytes());
        }
    }
}
