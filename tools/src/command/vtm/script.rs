//! Lines of commands, one after another: from standard input, and what one line of the shell does.

use std::io::{BufRead, stdin};

use chronovisor::vtm::{Command, VtmMachine};

use super::lines::Line;
use super::owner::{self, Orders};
use super::text;
use crate::command::{Context, say};
use crate::failure::Failure;

/// Obeys standard input until it ends, somebody says `quit`, or a line fails. Everything is released then.
pub fn run(context: &Context, machine: VtmMachine) -> Result<u8, Failure> {
    let context = context.clone();
    owner::converse(machine, move |orders| {
        follow(&context, stdin().lock(), &orders)
    })
}

fn follow(context: &Context, input: impl BufRead, orders: &Orders) -> Result<u8, Failure> {
    for (number, line) in (1..).zip(input.lines()) {
        let line = line.map_err(|e| Failure::from(e).while_doing(&format!("line {number}")))?;
        let go_on = obey(context, &line, orders)
            .map_err(|failure| failure.while_doing(&format!("line {number}, `{}`", line.trim())))?;
        if !go_on {
            break;
        }
    }
    Ok(0)
}

/// Does what a line says. Whether there may be more of them.
pub fn obey(context: &Context, line: &str, orders: &Orders) -> Result<bool, Failure> {
    match Line::read(line)? {
        Line::Nothing => {}
        Line::Help(text) => say(&text)?,
        Line::Wait(time) => std::thread::sleep(time),
        Line::Order(command) => {
            let go_on = command != Command::Quit {};
            let reply = orders.give(command)?;
            context.print(&reply, text::reply)?;
            return Ok(go_on);
        }
    }
    Ok(true)
}
