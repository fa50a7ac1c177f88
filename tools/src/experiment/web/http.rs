//! The client's side of HTTP/1.1, as much as a measurement needs (RFC 9112): one GET, one answer with a known length.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The longest head that is read.
const HEAD: usize = 8 << 10;
/// The longest body that is taken.
const BODY: usize = 64 << 20;
/// How long a read waits before it is asked whether to go on.
const GLANCE: Duration = Duration::from_millis(100);

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed.
    #[error("no answer from http://{server}: {source}")]
    Connection {
        /// Whom was asked.
        server: SocketAddr,
        /// What failed.
        source: io::Error,
    },
    /// It is not HTTP, or not what is understood here.
    #[error("http://{server} answers with what is no HTTP/1.1 with a length: {text}")]
    Form {
        /// Who was asked.
        server: SocketAddr,
        /// The beginning of it.
        text: String,
    },
}

/// How long an answer is waited for.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    /// At most this long.
    pub patience: Duration,
    /// And no longer when this is so.
    pub is_over: &'a (dyn Fn() -> bool + Sync),
}

/// Asks `server` for `path` on a connection of its own; connecting is part of it.
pub fn get(server: SocketAddr, path: &str, wait: Wait) -> Result<Answer, HttpError> {
    let failed = |source| HttpError::Connection { server, source };
    let patience = wait.patience;
    let begin = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, patience).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut received = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        if let Some(answer) = whole(&received).map_err(|text| HttpError::Form { server, text })? {
            return Ok(answer);
        }
        if begin.elapsed() > patience || (wait.is_over)() {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(GLANCE)).map_err(failed)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
            Ok(length) => received.extend(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// The answer, if all of it is there; the beginning of what was received if it cannot become one.
fn whole(received: &[u8]) -> Result<Option<Answer>, String> {
    let beginning = || String::from_utf8_lossy(&received[..received.len().min(60)]).into_owned();
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if received.len() > HEAD {
            Err(beginning())
        } else {
            Ok(None)
        };
    };
    let head = std::str::from_utf8(&received[..end]).map_err(|_| beginning())?;
    let (status, length) = understood(head).ok_or_else(beginning)?;
    let body = &received[end + 4..];
    Ok((body.len() >= length).then(|| Answer {
        status,
        body: body[..length].to_vec(),
    }))
}

/// Status and length of the body.
fn understood(head: &str) -> Option<(u16, usize)> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let is_http = first.next()?.starts_with("HTTP/1.");
    let status = first.next()?.parse().ok()?;
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let length = length.1.trim().parse().ok()?;
    (is_http && length <= BODY).then_some((status, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_answer_is_there_when_its_last_byte_is(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..300) {
            let mut bytes = format!("HTTP/1.1 {status} Fine\r\ncontent-LENGTH: {}\r\nX: y\r\n\r\n", body.len()).into_bytes();
            bytes.extend(&body);
            let cut = cut.min(bytes.len());
            let expected = (cut == bytes.len()).then_some(Answer { status, body });
            prop_assert_eq!(whole(&bytes[..cut]), Ok(expected));
        }

        #[test]
        fn whatever_a_server_sends_is_an_answer_or_an_error_or_not_over(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = whole(&bytes);
        }
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        for text in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 x OK\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        ] {
            assert!(whole(text.as_bytes()).is_err(), "{text}");
        }
        assert!(whole(&[b'x'; HEAD + 1]).is_err());
    }
}
