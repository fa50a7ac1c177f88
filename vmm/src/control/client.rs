//! Asks a running guest.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::spec::is_name;

use super::{ControlError, MAX_LINE, Reply, ReplyLine, Request, RequestLine, VERSION, socket_path};

/// How long a guest has to answer a user: a pause may have to wait for a throttled thread.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks the guest `name`.
///
/// # Errors
/// [`ControlError`]; `Refused` is the guest's own answer.
pub async fn call(run_dir: &Path, name: &str, request: Request) -> Result<Reply, ControlError> {
    let nobody = || ControlError::NoGuest {
        name: name.to_owned(),
    };
    // A name that no guest can have is never made a path.
    if !is_name(name) {
        return Err(nobody());
    }
    let socket = socket_path(run_dir, name);
    match call_within(&socket, request, PATIENCE).await {
        Err(ControlError::Talk { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Err(nobody())
        }
        answer => answer,
    }
}

/// Asks the guest at `socket`, which has `limit` to answer.
///
/// # Errors
/// [`ControlError`].
pub async fn call_within(
    socket: &Path,
    request: Request,
    limit: Duration,
) -> Result<Reply, ControlError> {
    match tokio::time::timeout(limit, exchange(socket, request, MAX_LINE)).await {
        Ok(Ok(reply)) => reply.map_err(ControlError::Refused),
        Ok(Err(source)) => Err(ControlError::Talk {
            path: socket.to_owned(),
            source,
        }),
        Err(_) => Err(ControlError::Silent {
            path: socket.to_owned(),
            seconds: limit.as_secs(),
        }),
    }
}

/// Asks whoever listens at `socket`, and waits for an answer of at most `longest` bytes. The inner error is theirs.
///
/// # Errors
/// When there is nobody, or no answer.
pub async fn exchange<Q: Serialize, R: DeserializeOwned>(
    socket: &Path,
    request: Q,
    longest: u64,
) -> io::Result<Result<R, String>> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(&RequestLine {
        version: VERSION,
        request,
    })?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    BufReader::new(stream)
        .take(longest)
        .read_until(b'\n', &mut answer)
        .await?;
    let answer: ReplyLine<R> = serde_json::from_slice(&answer)?;
    Ok(answer.reply)
}
