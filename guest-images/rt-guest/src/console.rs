//! Text over the first serial port.

use core::fmt::{self, Write};

use crate::hw;

/// The first serial port (COM1).
const DATA: u16 = 0x3f8;
/// Its line status register.
const STATUS: u16 = DATA + 5;
/// "Transmitter holding register empty" in the line status.
const EMPTY: u8 = 0x20;
/// Bytes that a transmitter takes when it is empty (16550A FIFO).
const FIFO: usize = 16;
/// Polls before a transmitter counts as dead: then text is lost rather than the run.
const PATIENCE: u32 = 1_000_000;

/// A line being put together. Sends what it holds when it is full.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    fn send(&mut self) {
        for chunk in self.bytes.get(..self.len).unwrap_or_default().chunks(FIFO) {
            wait_until_empty();
            hw::write_bytes(DATA, chunk);
        }
        self.len = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.len == self.bytes.len() {
                self.send();
            }
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

/// Prints one line and waits until the transmitter has taken it.
pub fn line(text: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; 256],
        len: 0,
    };
    // `Line` never fails; an error could only come from a `Display` of ours, and then the line is cut short.
    let _ = line.write_fmt(text);
    let _ = line.write_str("\n");
    line.send();
    wait_until_empty();
}

/// Sets the port up as it is after reset: 8 bits, no interrupts, no loop-back.
pub fn reset() {
    const INTERRUPTS: u16 = DATA + 1;
    const LINE_CONTROL: u16 = DATA + 3;
    const MODEM_CONTROL: u16 = DATA + 4;
    hw::write_u8(LINE_CONTROL, 3);
    hw::write_u8(INTERRUPTS, 0);
    hw::write_u8(MODEM_CONTROL, 0);
}

fn wait_until_empty() {
    for _ in 0..PATIENCE {
        if hw::read_u8(STATUS) & EMPTY != 0 {
            return;
        }
    }
}
