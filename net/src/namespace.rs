//! Network namespaces by name, as `ip netns` has them (ip-netns(8)): hosts for experiments and tests.
//!
//! Unlike `ip netns exec` nothing here changes what is mounted: a program inside sees the machine's own /sys.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::device;
use crate::kernel;
use crate::netlink::{Netlink, NetlinkError};

const FOLDER: &str = "/run/netns";

/// Why a network namespace cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// There is one of that name.
    #[error(
        "there is a network namespace {name} already: delete it by `ip netns delete {name}`, or take another name"
    )]
    Exists {
        /// Its name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no network namespace {name}: make it by `ip netns add {name}`")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// Not a file's name.
    #[error("`{name}` is no name for a network namespace: write one without `/`")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The operating system refused.
    #[error("cannot {action} the network namespace {name}: give the process CAP_SYS_ADMIN")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// On which.
        name: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The new namespace cannot be set up.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// A network namespace under /run/netns. One that was created here is deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
    created: bool,
}

impl Namespace {
    /// A new namespace, whose loopback interface is up.
    ///
    /// # Errors
    /// When the name is taken or no name, or the process may not make namespaces.
    pub fn create(name: &str) -> Result<Self, NamespaceError> {
        let path = path_of(name)?;
        let refused = |action| {
            move |source| NamespaceError::Refused {
                action,
                name: name.to_owned(),
                source,
            }
        };
        prepare_folder().map_err(refused("prepare /run/netns for"))?;
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name = name.to_owned();
                return Err(NamespaceError::Exists { name });
            }
            made => made.map_err(refused("name"))?,
        };
        let made = inside_new(|| bind_own(&path)).and_then(|()| File::open(&path));
        let file = made.map_err(|error| {
            remove(&path);
            refused("make")(error)
        })?;
        let namespace = Self {
            name: name.to_owned(),
            file,
            created: true,
        };
        namespace.run(|| {
            let mut netlink = Netlink::open()?;
            let loopback = device::get(&mut netlink, "lo")?;
            netlink.apply(&[device::set_up(&loopback, true)])
        })??;
        Ok(namespace)
    }

    /// A namespace that somebody else made.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn open(name: &str) -> Result<Self, NamespaceError> {
        let file = File::open(path_of(name)?).map_err(|_| NamespaceError::Unknown {
            name: name.to_owned(),
        })?;
        Ok(Self {
            name: name.to_owned(),
            file,
            created: false,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An open file that stands for it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `inside` in the namespace, on a thread of its own, and returns what it returns. Sockets and taps opened there
    /// stay in the namespace.
    ///
    /// # Errors
    /// When the process may not enter namespaces.
    ///
    /// # Panics
    /// When `inside` does.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let thread = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(inside())
        };
        let ended = thread::scope(|scope| scope.spawn(thread).join());
        let answer = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        answer.map_err(|errno: Errno| NamespaceError::Refused {
            action: "enter",
            name: self.name.clone(),
            source: errno.into(),
        })
    }

    /// A socket to the namespace's network configuration, for any thread.
    ///
    /// # Errors
    /// As [`run`](Self::run) and [`Netlink::open`].
    pub fn netlink(&self) -> Result<Netlink, NamespaceError> {
        Ok(self.run(Netlink::open)??)
    }

    /// A command that starts `program` inside the namespace.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, NamespaceError> {
        let file = self.file.try_clone();
        let file = file.map_err(|source| NamespaceError::Refused {
            action: "keep open",
            name: self.name.clone(),
            source,
        })?;
        let mut command = Command::new(program);
        kernel::start_inside(&mut command, OwnedFd::from(file));
        Ok(command)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.created {
            remove(&Path::new(FOLDER).join(&self.name));
        }
    }
}

fn path_of(name: &str) -> Result<PathBuf, NamespaceError> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(NamespaceError::Name {
            name: name.to_owned(),
        });
    }
    Ok(Path::new(FOLDER).join(name))
}

/// What `ip netns add` does first: a folder whose mounts reach every mount namespace.
fn prepare_folder() -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    let share = || mount::<str, _, str, str>(None, FOLDER, None, MsFlags::MS_SHARED, None);
    if share() == Err(Errno::EINVAL) {
        // Not a mount point yet.
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount::<_, _, str, str>(Some(FOLDER), FOLDER, None, bind, None)?;
        share()?;
    }
    Ok(())
}

/// Runs `inside` on a thread in a network namespace of its own, which lasts as long as something refers to it.
fn inside_new(inside: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    let thread = || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        inside()
    };
    let ended = thread::scope(|scope| scope.spawn(thread).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn bind_own(path: &Path) -> io::Result<()> {
    let own = "/proc/thread-self/ns/net";
    mount::<_, _, str, str>(Some(own), path, None, MsFlags::MS_BIND, None)?;
    Ok(())
}

/// The namespace itself goes when the last that uses it does. Nothing can be done about a failure.
fn remove(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}
