//! The one who owns the machine: every order and every signal comes here.

use std::io;

use chronovisor::vtm::{Command, Order, Reply, VtmMachine, socket_path};
use nix::unistd::geteuid;
use sched::framework::Machine;
use serde::Serialize;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use vmm::control::{self, Server, Socket};

use crate::command::Context;
use crate::command::signals::Signals;
use crate::failure::Failure;

/// An order, and where its answer goes.
pub type Call = control::Call<Command, Reply>;

/// Why there are no more orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody said `quit`.
    Quit,
    /// Nobody can give one.
    Closed,
    /// A signal asks for the end.
    Signal(i32),
}

/// Obeys orders until there are no more.
pub async fn obey(
    machine: &mut VtmMachine,
    calls: &mut Receiver<Call>,
    signals: &mut Signals,
) -> Ending {
    loop {
        let call = tokio::select! {
            biased;
            kind = signals.next() => return Ending::Signal(kind),
            call = calls.recv() => call,
        };
        let Some(call) = call else {
            return Ending::Closed;
        };
        let quit = call.request == Command::Quit {};
        let reply = machine.process(Order {
            command: call.request,
            peer: call.peer,
        });
        // Whoever asked may be gone.
        let _ = call.answer.send(reply.map_err(|error| error.to_string()));
        if quit {
            return Ending::Quit;
        }
    }
}

/// A runtime for the owner.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Where orders are given from beside the owner.
#[derive(Clone)]
pub struct Orders(Sender<Call>);

impl Orders {
    /// Gives an order and waits for the answer.
    pub fn give(&self, command: Command) -> Result<Reply, Failure> {
        let ended = || Failure::new("everything is being released");
        let (answer, reply) = oneshot::channel();
        let call = Call {
            request: command,
            peer: geteuid(),
            answer,
        };
        self.0.blocking_send(call).map_err(|_| ended())?;
        let reply = reply.blocking_recv().map_err(|_| ended())?;
        reply.map_err(|refusal| Failure::new(refusal).refused())
    }
}

/// Obeys the orders that `talk` gives from a thread of its own. Everything is released in the end.
pub fn converse(
    mut machine: VtmMachine,
    talk: impl FnOnce(Orders) -> Result<u8, Failure> + Send + 'static,
) -> Result<u8, Failure> {
    runtime()?.block_on(async {
        let mut signals = Signals::catch()?;
        let (orders, mut calls) = mpsc::channel(1);
        let talking = std::thread::spawn(move || talk(Orders(orders)));
        let ending = obey(&mut machine, &mut calls, &mut signals).await;
        drop(machine);
        match ending {
            // The other thread may wait for a key, or for ever.
            Ending::Signal(kind) => Ok(u8::try_from(128 + kind).unwrap_or(u8::MAX)),
            Ending::Quit | Ending::Closed => talking
                .join()
                .map_err(|_| Failure::new("the thread that reads commands has panicked"))?,
        }
    })
}

/// `vtm serve`.
pub fn serve(
    context: &Context,
    cpu: u32,
    machine: impl FnOnce() -> Result<VtmMachine, Failure>,
) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Served {
        cpu: u32,
        socket: std::path::PathBuf,
        pid: u32,
    }
    let path = socket_path(&context.run_dir, cpu);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Who serves already is asked before anything is made.
    let socket = Socket::claim(path.clone())?;
    let mut machine = machine()?;
    runtime()?.block_on(async {
        let mut signals = Signals::catch()?;
        let (server, mut calls) = Server::start(socket)?;
        let served = Served {
            cpu,
            socket: path,
            pid: std::process::id(),
        };
        context.print(&served, |served| {
            format!(
                "VTMs of CPU {} are served at {} by process {}",
                served.cpu,
                served.socket.display(),
                served.pid
            )
        })?;
        obey(&mut machine, &mut calls, &mut signals).await;
        // Everything is released before the last answer says so.
        drop(machine);
        server.close(calls).await;
        Ok(0)
    })
}
