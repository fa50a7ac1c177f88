//! Any number of guests, one after the other, each in a process of its own: this one holds the socket, and the process whose turn it is accepts.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::{announce, bind};
use crate::cli::ReceiveArgs;
use crate::command::Context;
use crate::failure::Failure;

/// A process that ends sooner is not followed at once: what is wrong with it is wrong with the next one, too.
const LEAST_LIFE: Duration = Duration::from_secs(1);

/// Has one process after the other wait for a guest, until a signal ends this one. Guests that were taken go on then.
pub(super) fn serve(context: &Context, args: &ReceiveArgs) -> Result<u8, Failure> {
    let socket = bind(args.address)?;
    announce(context, socket.local_addr()?)?;
    loop {
        let begun = Instant::now();
        let (mut turn, theirs) = io::pipe()?;
        let child = start(
            context,
            args,
            [socket.as_fd().try_clone_to_owned()?, theirs.into()],
        )?;
        reap(child)?;
        // Nothing is ever written: it ends when the process has its guest, or has ended.
        turn.read_to_end(&mut Vec::new())?;
        thread::sleep(LEAST_LIFE.saturating_sub(begun.elapsed()));
    }
}

/// Starts a process that gets these descriptors; they are closed here.
fn start(context: &Context, args: &ReceiveArgs, theirs: [OwnedFd; 2]) -> Result<Child, Failure> {
    for descriptor in &theirs {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--run-dir").arg(&context.run_dir).args([
        "receive",
        &args.address.to_string(),
        "--once",
    ]);
    let [socket, turn] = theirs.each_ref().map(AsRawFd::as_raw_fd);
    command.args(["--inherited", &format!("{socket},{turn}")]);
    match &args.security.certificates {
        Some(folder) => command.arg("--certificates").arg(folder),
        None => command.arg("--plain"),
    };
    command.args(context.json.then_some("--json"));
    command.args(args.show.force.then_some("--force"));
    Ok(command.stdin(Stdio::null()).spawn()?)
}

/// Waits for the end of a process while others are started.
fn reap(mut child: Child) -> io::Result<()> {
    let waiting = thread::Builder::new().name("reaper".to_owned());
    waiting.spawn(move || child.wait()).map(drop)
}
