//! The end of a control socket that answers: a guest's, or another's that is asked in the same way.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{ControlError, MAX_LINE, Reply, ReplyLine, Request, VERSION, parse_line, socket_path};

/// How long a caller has to send its line.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of a guest waits for callers to take their answers.
const FAREWELL: Duration = Duration::from_millis(200);
/// Calls that wait for the owner.
const BACKLOG: usize = 16;

/// A request, and where its answer goes.
pub struct Call<Q = Request, R = Reply> {
    /// What is asked.
    pub request: Q,
    /// Who asks.
    pub peer: Uid,
    /// Takes the answer; an error is text for the user.
    pub answer: oneshot::Sender<Result<R, String>>,
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
        Self::listen(path.clone()).map_err(failed)
    }

    /// Takes calls at `path`, if nobody else does: a socket left by a crash is replaced, that of a live process is not.
    ///
    /// # Errors
    /// [`ControlError::Taken`], [`ControlError::Listen`].
    pub fn claim(path: PathBuf) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Listen {
            path: path.clone(),
            source,
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        // One after another: between the look and the new socket nobody makes one.
        let folder = File::open(folder).map_err(failed)?;
        folder.lock().map_err(failed)?;
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(_) => return Err(ControlError::Taken { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Self::listen(path.clone()).map_err(failed)
    }

    fn listen(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        let name = Name::of(path.clone());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
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
    pub fn start<Q, R>(socket: Socket) -> Result<(Self, mpsc::Receiver<Call<Q, R>>), ControlError>
    where
        Q: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
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
    pub async fn close<Q, R>(self, mut calls: mpsc::Receiver<Call<Q, R>>) {
        self.accepting.abort();
        // Every conversation holds a sender; a call that is dropped is answered that this is the end.
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

async fn accept<Q, R>(listener: tokio::net::UnixListener, calls: mpsc::Sender<Call<Q, R>>)
where
    Q: DeserializeOwned + Send + 'static,
    R: Serialize + Send + 'static,
{
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

async fn converse<Q: DeserializeOwned, R: Serialize>(
    mut stream: UnixStream,
    calls: mpsc::Sender<Call<Q, R>>,
) -> io::Result<()> {
    let peer = Uid::from_raw(stream.peer_cred()?.uid());
    let mut line = Vec::new();
    let mut reader = BufReader::new(&mut stream).take(MAX_LINE);
    tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let reply = match parse_line(&line) {
        Ok(request) => forward(request, peer, calls).await,
        Err(reason) => Err(reason),
    };
    let mut answer = serde_json::to_vec(&ReplyLine {
        version: VERSION,
        reply,
    })?;
    answer.push(b'\n');
    stream.write_all(&answer).await
}

async fn forward<Q, R>(
    request: Q,
    peer: Uid,
    calls: mpsc::Sender<Call<Q, R>>,
) -> Result<R, String> {
    let (answer, reply) = oneshot::channel();
    let ending = || "it is ending".to_owned();
    let call = Call {
        request,
        peer,
        answer,
    };
    calls.send(call).await.map_err(|_| ending())?;
    reply.await.unwrap_or_else(|_| Err(ending()))
}
