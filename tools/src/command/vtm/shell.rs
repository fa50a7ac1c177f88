//! Commands typed at a terminal, with line editing, history and completion.

use std::io::stdin;
use std::path::PathBuf;

use chronovisor::vtm::{Command, Reply, VtmMachine};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};

use super::completion::Completion;
use super::owner::{self, Orders};
use super::script;
use crate::command::{Context, say};
use crate::failure::Failure;

/// Obeys a terminal until `quit`, its end, Ctrl-C or a signal. Everything is released then.
///
/// While a line is edited Ctrl-C is a key, and SIGINT has the editor's handler, which sees it only in the thread that
/// reads the line: the other threads leave it to that one.
pub fn run(
    context: &Context,
    machine: impl FnOnce() -> Result<VtmMachine, Failure>,
) -> Result<u8, Failure> {
    let interrupt = SigSet::from(Signal::SIGINT);
    interrupt.thread_block()?;
    let machine = machine()?;
    let context = context.clone();
    let before = tcgetattr(stdin())?;
    let ended = owner::converse(machine, move |orders| {
        interrupt.thread_unblock()?;
        talk(&context, &orders)
    });
    // A signal ends it in the middle of a line, for which the terminal was set to something else.
    let _ = tcsetattr(stdin(), SetArg::TCSANOW, &before);
    ended
}

fn talk(context: &Context, orders: &Orders) -> Result<u8, Failure> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .auto_add_history(true)
        .build();
    let mut editor: Editor<_, FileHistory> = Editor::with_config(config)?;
    let status = orders.clone();
    editor.set_helper(Some(Completion(move || {
        match status.give(Command::Status {}) {
            Ok(Reply::Status(status)) => Some(*status),
            _ => None,
        }
    })));
    let history = history();
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    say("`help` lists the commands; leaving releases everything")?;
    loop {
        let line = match editor.readline("vtm> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(0),
            Err(ReadlineError::Signal(rustyline::error::Signal::Interrupt)) => return Ok(0),
            // The window has another size.
            Err(ReadlineError::Signal(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(path) = &history
            && let Err(error) = editor.append_history(path)
        {
            tracing::debug!("cannot write the history to {}: {error}", path.display());
        }
        // Lines that were pasted together come together.
        for line in line.lines() {
            match script::obey(context, line, orders) {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(failure) => failure.print(),
            }
        }
    }
}

/// Where lines are remembered: in the user's folder for state (XDG base directories).
fn history() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    let folder = state.join("chronovisor");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("vtm-history"))
}
