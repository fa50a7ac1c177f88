//! The serial port: a 16550 from vm-superio whose output goes through a wait-free queue.
//!
//! The vCPU thread never waits for whoever reads the output: what does not fit into the queue is lost and counted.
//! Its transmit register is coalesced by KVM (see [`crate::machine`]): many bytes come with one exit.

use std::convert::Infallible;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, SerialState};

use super::{Device, DeviceState, Effect, RestoreError};

/// First port of COM1; a write here is a byte of output.
pub const SERIAL_PORT: u64 = 0x3f8;
/// Ports of COM1.
pub const SERIAL_PORTS: Range<u64> = SERIAL_PORT..SERIAL_PORT + 8;

/// Bytes of output that fit into the queue.
const QUEUE: usize = 64 * 1024;
/// Bytes of input that vm-superio's port holds.
const FIFO: usize = 64;
const KIND: &str = "serial";
const VERSION: u16 = 1;

/// No interrupt line: guests here poll the port.
#[derive(Debug)]
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// What both ends of the queue share.
#[derive(Debug)]
struct Shared {
    /// A byte in this pipe says that there is output; never more than one, so writing it never waits.
    ready: PipeWriter,
    /// Whether that byte has been written since the reader last looked.
    announced: AtomicBool,
    lost: AtomicU64,
}

/// The end of the queue on the vCPU threads' side.
#[derive(Debug)]
struct Sink {
    queue: rtrb::Producer<u8>,
    shared: Arc<Shared>,
}

impl Sink {
    /// A sink whose output goes nowhere.
    fn closed(shared: &Arc<Shared>) -> Self {
        let (queue, _) = rtrb::RingBuffer::new(0);
        Self {
            queue,
            shared: Arc::clone(shared),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if self.queue.push(byte).is_err() {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        if !self.shared.announced.swap(true, Ordering::SeqCst) {
            (&self.shared.ready).write_all(&[1])?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reader's end of the queue.
#[derive(Debug)]
pub struct SerialOutput {
    queue: rtrb::Consumer<u8>,
    ready: Option<PipeReader>,
    shared: Arc<Shared>,
}

impl SerialOutput {
    /// A pipe that holds a byte when there is output. Whoever waits on it takes the byte before [`SerialOutput::drain`].
    pub fn take_ready(&mut self) -> Option<PipeReader> {
        self.ready.take()
    }

    /// Appends what has been written since the last call to `bytes`.
    pub fn drain(&mut self, bytes: &mut Vec<u8>) {
        // Sequentially consistent on both sides: a byte pushed after the queue was found empty finds the flag down.
        self.shared.announced.swap(false, Ordering::SeqCst);
        while let Ok(byte) = self.queue.pop() {
            bytes.push(byte);
        }
    }

    /// Bytes lost because nobody drained the queue in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

/// The serial port.
pub struct Serial {
    port: vm_superio::Serial<NoInterrupt, NoEvents, Sink>,
    shared: Arc<Shared>,
}

/// A serial port and the reader of its output.
///
/// # Errors
/// If no pipe can be had.
pub fn serial() -> io::Result<(Serial, SerialOutput)> {
    let (reader, writer) = io::pipe()?;
    let shared = Arc::new(Shared {
        ready: writer,
        announced: AtomicBool::new(false),
        lost: AtomicU64::new(0),
    });
    let (producer, consumer) = rtrb::RingBuffer::new(QUEUE);
    let sink = Sink {
        queue: producer,
        shared: Arc::clone(&shared),
    };
    let serial = Serial {
        port: vm_superio::Serial::new(NoInterrupt, sink),
        shared: Arc::clone(&shared),
    };
    Ok((
        serial,
        SerialOutput {
            queue: consumer,
            ready: Some(reader),
            shared,
        },
    ))
}

/// [`SerialState`] as saved: version 1.
#[derive(Debug, Serialize, Deserialize)]
struct SerialStateV1 {
    /// In the order of the fields of `SerialState`.
    registers: [u8; 9],
    input: Vec<u8>,
}

impl From<&SerialState> for SerialStateV1 {
    fn from(state: &SerialState) -> Self {
        Self {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            input: state.in_buffer.clone(),
        }
    }
}

impl From<SerialStateV1> for SerialState {
    fn from(saved: SerialStateV1) -> Self {
        let [
            low,
            high,
            enable,
            identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
        ] = saved.registers;
        Self {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer: saved.input,
        }
    }
}

impl Device for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (Some(first), Ok(offset)) = (data.first_mut(), u8::try_from(offset)) {
            *first = self.port.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if let Ok(offset) = u8::try_from(offset) {
            for &byte in data {
                // The only error is that of the sink's pipe; the output then waits for the next byte.
                let _ = self.port.write(offset, byte);
            }
        }
        Effect::None
    }

    fn save(&self) -> DeviceState {
        let state = SerialStateV1::from(&self.port.state());
        let bytes = serde_json::to_vec(&state).unwrap_or_default();
        DeviceState {
            kind: KIND.to_owned(),
            version: VERSION,
            bytes,
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let damaged = |reason: String| RestoreError::Damaged { kind: KIND, reason };
        let bytes = state.expect(KIND, VERSION)?;
        let saved: SerialStateV1 =
            serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if saved.input.len() > FIFO {
            return Err(damaged(format!(
                "{} bytes of input; {FIFO} fit",
                saved.input.len()
            )));
        }
        // A port owns its writer: lend it out through a port that nobody uses.
        let unused = vm_superio::Serial::new(NoInterrupt, Sink::closed(&self.shared));
        let sink = std::mem::replace(&mut self.port, unused).into_writer();
        self.port = vm_superio::Serial::from_state(&saved.into(), NoInterrupt, NoEvents, sink)
            .map_err(|e| damaged(e.to_string()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_reaches_the_reader_in_order() {
        let (mut port, mut output) = serial().unwrap();
        assert_eq!(port.write(0, b"hello"), Effect::None);
        let mut bytes = Vec::new();
        output.drain(&mut bytes);
        assert_eq!(bytes, b"hello");
        assert_eq!(output.lost(), 0);
    }

    #[test]
    fn output_that_nobody_reads_is_lost_and_counted_without_blocking() {
        let (mut port, output) = serial().unwrap();
        for _ in 0..QUEUE + 5 {
            let _ = port.write(0, b"x");
        }
        assert_eq!(output.lost(), 5);
    }

    #[test]
    fn a_restored_port_has_the_saved_registers_and_still_writes() {
        let (mut port, _output) = serial().unwrap();
        let _ = port.write(7, &[0x5a]);
        let _ = port.write(3, &[0x03]);
        let saved = port.save();
        let (mut other, mut output) = serial().unwrap();
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        let mut scratch = [0];
        other.read(7, &mut scratch);
        assert_eq!(scratch, [0x5a]);
        let _ = other.write(0, b"!");
        let mut bytes = Vec::new();
        output.drain(&mut bytes);
        assert_eq!(bytes, b"!");
    }

    #[test]
    fn damaged_states_are_refused_and_leave_the_port_as_it_was() {
        let (mut port, _output) = serial().unwrap();
        let good = port.save();
        let too_long = SerialStateV1 {
            registers: [0; 9],
            input: vec![0; FIFO + 1],
        };
        let damaged = [
            DeviceState {
                bytes: b"nonsense".to_vec(),
                ..good.clone()
            },
            DeviceState {
                version: 9,
                ..good.clone()
            },
            DeviceState {
                kind: "disk".into(),
                ..good.clone()
            },
            DeviceState {
                bytes: serde_json::to_vec(&too_long).unwrap(),
                ..good.clone()
            },
        ];
        for state in damaged {
            assert!(port.restore(&state).is_err());
            assert_eq!(port.save(), good);
        }
    }
}
