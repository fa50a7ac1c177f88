//! Guests of a few instructions of machine code, run by real KVM: what each kind of end looks like.

#![cfg(test)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use migration::ram::{GuestRam, Machine as _, PAGE_SIZE, PageNumber};
use sched::framework::Factory;
use system_tests::process::until;
use system_tests::requires;
use vmm::control::{Request, client};
use vmm::dirty::GuestPages;
use vmm::exit::End;
use vmm::guest::{AdmittedVm, Observer, Outcome, Reception, StartError, Vms, supervise};
use vmm::machine::MachineError;
use vmm::spec::{VmPlan, VmSpec};
use vmm::telemetry::Event;

/// Writes "hi" to the serial port and ends well through the debug-exit port.
const HELLO: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'h', 0xee, // mov al, 'h'; out dx, al
    0xb0, b'i', 0xee, // mov al, 'i'; out dx, al
    0x66, 0xba, 0xf4, 0x00, // mov dx, 0xf4
    0xb0, 0x10, 0xee, // mov al, 0x10; out dx, al
    0xf4, // hlt
];
/// Jumps to itself for ever.
const SPIN: &[u8] = &[0xeb, 0xfe];
/// Counts up the word at 2 MiB for ever.
const COUNT: &[u8] = &[
    0xff, 0x05, 0x00, 0x00, 0x20, 0x00, // inc dword [0x200000]
    0xeb, 0xf8, // jmp to it
];
/// Loads an empty interrupt table and raises an exception.
const TRIPLE_FAULT: &[u8] = &[
    0xbc, 0x00, 0x00, 0x20, 0x00, // mov esp, 0x200000
    0x68, 0x00, 0x00, 0x00, 0x00, // push 0
    0x68, 0x00, 0x00, 0x00, 0x00, // push 0
    0x0f, 0x01, 0x1c, 0x24, // lidt [esp]
    0x0f, 0x0b, // ud2
];
/// Resets through the keyboard controller.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4];
/// Reads from ports and memory where nothing is, then ends with what it read from port 0x700.
const NOTHING_THERE: &[u8] = &[
    0xa1, 0x00, 0x00, 0x00, 0xd0, // mov eax, [0xd0000000]
    0xa3, 0x00, 0x00, 0x00, 0xd0, // mov [0xd0000000], eax
    0x66, 0xba, 0x00, 0x07, // mov dx, 0x700
    0xec, // in al, dx
    0x66, 0xba, 0xf4, 0x00, // mov dx, 0xf4
    0xee, // out dx, al
    0xf4, // hlt
];

/// Signals reach every guest of the process: a test that sends one runs alone.
static GUESTS: RwLock<()> = RwLock::new(());

#[derive(Default)]
struct Console(Vec<u8>);

impl Observer for Console {
    fn output(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn event(&mut self, _: &Event) {}
}

/// An ELF file with one segment at 1 MiB that holds a PVH note and `code`.
fn image(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 1 << 20;
    const HEADERS: u64 = 64 + 2 * 56;
    let note_size = 20u64;
    let entry = BASE + note_size;
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&u32::try_from(entry).unwrap().to_le_bytes());
    let size = note_size + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend_from_slice(&2u16.to_le_bytes());
    file.extend_from_slice(&62u16.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    for (kind, length, memory) in [(1u32, size, size + 4096), (4, note_size, note_size)] {
        file.extend_from_slice(&kind.to_le_bytes());
        file.extend_from_slice(&7u32.to_le_bytes());
        for word in [HEADERS, BASE, BASE, length, memory, 16] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file.extend_from_slice(&note);
    file.extend_from_slice(code);
    file
}

fn plan(name: &str, more: &str) -> VmPlan {
    let text = format!(
        "name = \"{name}\"\n[guest]\nimage = \"code\"\n{more}\n[cpu]\nbackend = \"other\"\n"
    );
    VmSpec::parse(&text).unwrap().plan().unwrap()
}

fn admit(plan: VmPlan, run_dir: &Path) -> Result<AdmittedVm, StartError> {
    Vms { run_dir }.make(plan)
}

fn start_error(image: &[u8], memory: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan("bad", &format!("memory = \"{memory}\""));
    let error = admit(plan, dir.path())
        .unwrap()
        .build(image)
        .err()
        .expect("the image is accepted");
    assert!(
        matches!(error, StartError::Machine(MachineError::Boot(_))),
        "{error:?}"
    );
    // A new ledger also has what it found of other programs with SCHED_DEADLINE threads.
    let ledger = sched::ledger::Ledger::open(dir.path()).unwrap();
    let entries = ledger.entries().unwrap();
    assert!(entries.iter().all(|entry| entry.vm != "bad"), "{entries:?}");
    error.to_string()
}

fn run(name: &str, code: &[u8], more: &str) -> (Outcome, Vec<u8>) {
    let _together = GUESTS.read();
    let dir = tempfile::tempdir().unwrap();
    let built = admit(plan(name, more), dir.path())
        .unwrap()
        .build(&image(code))
        .unwrap();
    let reception = Reception::open(&built, dir.path()).unwrap();
    let running = built.start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut console = Console::default();
    let outcome = runtime
        .block_on(supervise(running, reception, &mut console))
        .unwrap();
    (outcome, console.0)
}

#[test]
fn a_guest_says_hello_and_ends_well() {
    requires!(system_tests::Need::Kvm);
    let (outcome, output) = run("hello", HELLO, "");
    assert_eq!(outcome.end, End::DebugExit { value: 0x10 });
    assert_eq!(output, b"hi");
    assert_eq!(outcome.end.status(), 0);
}

#[test]
fn a_triple_fault_is_reported_with_registers() {
    requires!(system_tests::Need::Kvm);
    let (outcome, _) = run("triple", TRIPLE_FAULT, "watchdog = \"5s\"");
    assert!(
        matches!(outcome.end, End::TripleFault | End::KvmFailure { .. }),
        "{:?}",
        outcome.end
    );
    let registers = outcome.registers.clone().unwrap();
    assert!(
        (1 << 20..(1 << 20) + 8192).contains(&registers.rip),
        "{registers}"
    );
    assert!(outcome.to_string().contains("rip"));
}

#[test]
fn a_reset_ends_the_guest_with_its_own_status() {
    requires!(system_tests::Need::Kvm);
    let (outcome, _) = run("reset", RESET, "");
    assert_eq!(
        (outcome.end.clone(), outcome.end.status()),
        (End::Reset, 104)
    );
}

#[test]
fn where_nothing_is_reads_give_ones_and_writes_vanish() {
    requires!(system_tests::Need::Kvm);
    let (outcome, _) = run("nothing", NOTHING_THERE, "");
    assert_eq!(outcome.end, End::DebugExit { value: 0xff });
}

#[test]
fn a_silent_guest_is_ended_by_its_watchdog() {
    requires!(system_tests::Need::Kvm);
    let (outcome, _) = run("hung", SPIN, "watchdog = \"300ms\"");
    assert_eq!(
        (outcome.end.clone(), outcome.end.status()),
        (End::Hung, 106)
    );
    assert!(outcome.registers.is_some());
}

#[test]
fn a_spinning_guest_can_be_paused_resumed_shown_and_stopped() {
    requires!(system_tests::Need::Kvm);
    let _together = GUESTS.read();
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().to_owned();
    let built = admit(plan("spin", ""), &run_dir)
        .unwrap()
        .build(&image(SPIN))
        .unwrap();
    let reception = Reception::open(&built, &run_dir).unwrap();
    let running = built.start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let asked = run_dir.clone();
    let outcome = runtime.block_on(async move {
        let ask = tokio::spawn(async move {
            let call = |request| client::call(&asked, "spin", request);
            for request in [
                Request::Pause {},
                Request::Pause {},
                Request::Status {},
                Request::Resume {},
                Request::Status {},
            ] {
                call(request.clone())
                    .await
                    .unwrap_or_else(|e| panic!("{request:?}: {e}"));
            }
            call(Request::Stop {}).await.unwrap();
        });
        let started = Instant::now();
        let outcome = supervise(running, reception, &mut Console::default())
            .await
            .unwrap();
        ask.await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(20));
        assert!(
            !run_dir.join("spin.sock").exists(),
            "the socket is left behind"
        );
        outcome
    });
    assert_eq!(outcome.end, End::Stopped);
}

#[test]
fn images_that_cannot_be_booted_are_refused_with_the_reason() {
    requires!(system_tests::Need::Kvm);
    let good = image(HELLO);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let note_type = 64 + 56;
    let (paddr, filesz, memsz) = (64 + 24, 64 + 32, 64 + 40);
    for (file, memory, part) in [
        (b"not an ELF file".to_vec(), "4MiB", "ELF"),
        (with(18, &[0xb7, 0]), "4MiB", "another machine"),
        (with(note_type, &[0]), "4MiB", "PVH"),
        (with(paddr, &[0, 0, 0, 0x10]), "4MiB", "more memory"),
        (with(paddr, &[0, 0x10, 0, 0]), "4MiB", "does not fit"),
        (with(memsz, &[0xff; 8]), "4MiB", "does not fit"),
        (with(filesz, &[0, 0, 1, 0]), "4MiB", "longer in the file"),
        (with(56, &[0xff, 0xff]), "4MiB", ""),
        (good[..90].to_vec(), "4MiB", ""),
    ] {
        let message = start_error(&file, memory);
        assert!(
            message.contains(part),
            "{message:?} does not mention {part:?}"
        );
    }
}

/// Runs a guest that never ends by itself; `meanwhile` comes when it can be reached, and before it runs.
fn reached_early(meanwhile: impl FnOnce(&Path)) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let built = admit(plan("early", ""), dir.path())
        .unwrap()
        .build(&image(SPIN))
        .unwrap();
    let reception = Reception::open(&built, dir.path()).unwrap();
    meanwhile(&dir.path().join("early.sock"));
    let running = built.start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(supervise(running, reception, &mut Console::default()))
        .unwrap()
}

#[test]
fn a_call_that_comes_before_the_guest_runs_is_answered() {
    requires!(system_tests::Need::Kvm);
    let _together = GUESTS.read();
    let mut caller = None;
    let outcome = reached_early(|socket| {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream
            .write_all(b"{\"version\":1,\"request\":{\"kind\":\"stop\"}}\n")
            .unwrap();
        caller = Some(stream);
    });
    assert_eq!(outcome.end, End::Stopped);
    let mut answer = String::new();
    caller.unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.contains("done"), "{answer}");
}

#[test]
fn a_signal_that_comes_before_the_guest_runs_stops_it_in_good_order() {
    use nix::sys::pthread::{pthread_kill, pthread_self};
    use nix::sys::signal::Signal;
    requires!(system_tests::Need::Kvm);
    let _alone = GUESTS.write();
    let outcome = reached_early(|_| pthread_kill(pthread_self(), Signal::SIGTERM).unwrap());
    assert_eq!(outcome.end, End::Stopped);
}

#[test]
fn a_guest_that_is_not_started_leaves_no_socket() {
    requires!(system_tests::Need::Kvm);
    let dir = tempfile::tempdir().unwrap();
    let built = admit(plan("unborn", ""), dir.path())
        .unwrap()
        .build(&image(SPIN))
        .unwrap();
    let reception = Reception::open(&built, dir.path()).unwrap();
    let socket = dir.path().join("unborn.sock");
    assert!(socket.exists());
    drop((built, reception));
    assert!(!socket.exists());
}

/// What `COUNT` has counted.
fn counted(pages: &GuestPages) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    pages.read(PageNumber(0x200), &mut page).unwrap();
    page.truncate(4);
    page
}

#[test]
fn a_guest_that_was_lent_goes_on_when_it_comes_back_and_ends_when_it_was_moved() {
    requires!(system_tests::Need::Kvm);
    let _together = GUESTS.read();
    let dir = tempfile::tempdir().unwrap();
    let built = admit(plan("lent", ""), dir.path()).unwrap();
    let built = built.build(&image(COUNT)).unwrap();
    let reception = Reception::open(&built, dir.path()).unwrap();
    let running = built.start().unwrap();
    let (lender, pages) = (running.lender(), running.pages());
    let mover = std::thread::spawn(move || {
        let mut loan = lender.borrow().unwrap();
        loan.guest().pause().unwrap();
        let first = loan.guest().save().unwrap();
        let before = counted(&pages);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(counted(&pages), before, "it runs while it is paused");
        loan.guest().resume().unwrap();
        drop(loan);
        until("the guest goes on", || counted(&pages) != before);
        // Somebody else's turn, while it runs.
        let mut loan = lender.borrow().unwrap();
        loan.guest().pause().unwrap();
        assert_eq!(first.len(), loan.guest().save().unwrap().len());
        loan.moved();
        lender
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = runtime.block_on(supervise(running, reception, &mut Console::default()));
    assert_eq!(outcome.unwrap().end, End::Moved);
    assert!(mover.join().unwrap().borrow().is_err());
}
