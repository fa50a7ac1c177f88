//! The guest's end of its control socket.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{
    ControlError, MAX_LINE, Reply, ReplyLine, Request, VERSION, parse_request, socket_path,
};

/// How long a caller has to send its line.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of a guest waits for callers to take their answers.
const FAREWELL: Duration = Duration::from_millis(200);
/// Calls that wait for the owner.
const BACKLOG: usize = 16;

/// A request, and where its answer goes.
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Takes the answer; an error is text for the user.
    pub answer: oneshot::Sender<Result<Reply, String>>,
}

/// A control socket at which callers wait for their guest. Dropping it takes the socket away.
pub struct Socket {
    listener: UnixListener,
    name: Name,
}

/// The name of a socket in the file system, which goes with this, unless it is another socket's by now.
struct Name {
    path: PathBuf,
    inode: Option<u64>,
}

impl Name {
    fn of(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|of| of.ino())
}

impl Socket {
    /// Takes calls to the guest `name`. A socket left by a crash is replaced: the ledger, which admitted this guest, knows
    /// of no other of the name.
    ///
    /// # Errors
    /// [`ControlError::Listen`].
    pub fn bind(run_dir: &Path, name: &str) -> Result<Self, ControlError> {
        let path = socket_path(run_dir, name);
        let failed = |source| ControlError::Listen {
            path: path.clone(),
            source,
        };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let name = Name::of(path.clone());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, name })
    }
}

/// Answers whoever calls a control socket. Dropping it takes the socket away.
pub struct Server {
    _name: Name,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Answers the calls at `socket`, those that have waited first.
    ///
    /// # Errors
    /// [`ControlError::Listen`].
    pub fn start(socket: Socket) -> Result<(Self, mpsc::Receiver<Call>), ControlError> {
        let (calls, inbox) = mpsc::channel(BACKLOG);
        let Socket { listener, name } = socket;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(|source| {
            ControlError::Listen {
                path: name.path.clone(),
                source,
            }
        })?;
        let accepting = tokio::spawn(accept(listener, calls));
        Ok((
            Self {
                _name: name,
                accepting,
            },
            inbox,
        ))
    }

    /// Takes the socket away once everybody who has called has an answer: one who asked for the end, too.
    pub async fn close(self, mut calls: mpsc::Receiver<Call>) {
        self.accepting.abort();
        // Every conversation holds a sender; a call that is dropped is answered that the guest is ending.
        let answers = async { while calls.recv().await.is_some() {} };
        // Who has not asked yet is not waited for long.
        let _ = tokio::time::timeout(FAREWELL, answers).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: tokio::net::UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    // The caller hung up: nobody is left to tell.
                    let _ = tokio::time::timeout(PATIENCE * 10, converse(stream, calls)).await;
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept on the control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(&mut stream).take(MAX_LINE);
    tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let reply = match parse_request(&line) {
        Ok(request) => forward(request, calls).await,
        Err(reason) => Err(reason),
    };
    let mut answer = serde_json::to_vec(&ReplyLine {
        version: VERSION,
        reply,
    })?;
    answer.push(b'\n');
    stream.write_all(&answer).await
}

async fn forward(request: Request, calls: mpsc::Sender<Call>) -> Result<Reply, String> {
    let (answer, reply) = oneshot::channel();
    let ending = || "the guest is ending".to_owned();
    calls
        .send(Call { request, answer })
        .await
        .map_err(|_| ending())?;
    reply.await.unwrap_or_else(|_| Err(ending()))
}
