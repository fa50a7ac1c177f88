//! Admission of migrations on both hosts, two run directories of one machine: what is held, what is refused, and that all of it is given back.

#![cfg(test)]

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use migration::wire::{Boot, Offer};
use nix::sys::signal::SigSet;
use sched::framework::{Factory, Job};
use sched::ledger::Ledger;
use sched::prepare;
use sched::reservation::Reservation;
use system_tests::requires::Capability;
use system_tests::turn::Turn;
use system_tests::{Need, requires};
use vmm::control::{Request, client};
use vmm::guest::{Lender, Observer, Reception, Vms, supervise};
use vmm::moving::admission::{DestinationSide, HeldAtSource, Observed, SourceSide, Subject, Watch};
use vmm::moving::facts::{HostBasis, join};
use vmm::moving::promise::{Refusal, Wish};
use vmm::spec::{VmPlan, VmSpec};
use vmm::speed::SpeedFigures;
use vmm::telemetry::Event;
use vmm::units::Span;

const NICE: Need = Need::Capability(Capability::SysNice);

/// Counts up the word at 2 MiB for ever.
const COUNT: &[u8] = &[
    0xff, 0x05, 0x00, 0x00, 0x20, 0x00, // inc dword [0x200000]
    0xeb, 0xf8, // jmp to it
];
/// Writes to each of the 512 pages from 2 MiB on, for ever.
const FLOOD: &[u8] = &[
    0xbf, 0x00, 0x00, 0x20, 0x00, // mov edi, 0x200000
    0xfe, 0x07, // inc byte [edi]
    0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add edi, 0x1000
    0x81, 0xff, 0x00, 0x00, 0x40, 0x00, // cmp edi, 0x400000
    0x72, 0xf0, // jb to the inc
    0xeb, 0xe9, // jmp to the beginning
];

/// An ELF file with one segment at 1 MiB that holds a PVH note and `code`.
fn image(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 1 << 20;
    const HEADERS: u64 = 64 + 2 * 56;
    let note_size = 20u64;
    let entry = BASE + note_size;
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
    for word in [4u32, 4, 18] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(b"Xen\0");
    file.extend_from_slice(&u32::try_from(entry).unwrap().to_le_bytes());
    file.extend_from_slice(code);
    file
}

struct Nobody;

impl Observer for Nobody {
    fn output(&mut self, _: &[u8]) {}
    fn event(&mut self, _: &Event) {}
}

/// A supervised guest of some instructions, of which the specification says that it has tasks.
struct Guest {
    dir: tempfile::TempDir,
    name: String,
    lender: Lender,
    thread: Option<JoinHandle<()>>,
}

fn plan(name: &str, tasks: &str, cpu: &str) -> VmPlan {
    let text = format!("name = \"{name}\"\n[guest]\nmemory = \"8MiB\"\n{tasks}\n[cpu]\n{cpu}\n");
    VmSpec::parse(&text).unwrap().plan().unwrap()
}

impl Guest {
    fn start(plan: VmPlan, code: &'static [u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tell, told) = mpsc::channel();
        let (name, run_dir) = (plan.name.clone(), dir.path().to_owned());
        let thread = std::thread::spawn(move || {
            let built = Vms { run_dir: &run_dir }.make(plan).unwrap();
            let built = built.build(&image(code)).unwrap();
            let reception = Reception::open(&built, &run_dir).unwrap();
            let running = built.start().unwrap();
            tell.send(running.lender()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let outcome = runtime.block_on(supervise(running, reception, &mut Nobody));
            outcome.unwrap();
        });
        Self {
            lender: told.recv().unwrap(),
            dir,
            name,
            thread: Some(thread),
        }
    }

    fn subject(&self) -> Subject {
        Subject::of(self.lender.borrow().unwrap().guest().vm())
    }

    fn reservation(&self) -> Reservation {
        let mut loan = self.lender.borrow().unwrap();
        loan.guest().vm().sched_param()[0].unwrap()
    }

    fn side(&self) -> SourceSide {
        SourceSide::new(basis(None), self.dir.path()).unwrap()
    }

    fn held(&self, wish: &Wish) -> Result<HeldAtSource, Refusal> {
        let mut subject = self.subject();
        let seen = subject.observe(&Watch::default())?;
        let side = self.side();
        let proposal = side.propose(&subject, &seen, wish)?;
        println!("{}", proposal.promise);
        side.hold((subject, seen), proposal, &self.lender)
    }

    fn entries(&self) -> Vec<String> {
        entries(self.dir.path())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stop = client::call(self.dir.path(), &self.name, Request::Stop {});
        if let (Ok(_), Some(thread)) = (runtime.block_on(stop), self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// What this process has in a ledger.
fn entries(run_dir: &Path) -> Vec<String> {
    let entries = Ledger::open(run_dir).unwrap().entries().unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    let own = entries.iter().filter(|entry| entry.process.pid == own);
    let mut names: Vec<_> = own.map(|entry| entry.vm.clone()).collect();
    names.retain(|name| !name.starts_with("recovered"));
    names.sort();
    names
}

fn basis(speed: Option<u64>) -> HostBasis {
    let figure = |ms| Span::from(Duration::from_millis(ms));
    HostBasis {
        overheads: [Duration::from_micros(10); 3],
        speed: speed.map(|ms| SpeedFigures {
            integer: figure(ms),
            float: figure(ms),
            memory: figure(ms),
        }),
        model: "this one".to_owned(),
    }
}

const WISH: Wish = Wish {
    downtime: Duration::from_millis(20),
    finish: Duration::from_secs(5),
    confidence: 0.95,
    rate: None,
    streams: 1,
    compress: false,
    protected: true,
    best_effort: false,
};

fn offer(held: &HeldAtSource) -> Offer {
    Offer {
        spec: join(b"", &held.terms()),
        memory_bytes: 8 << 20,
        downtime_ns: 20_000_000,
        finish_ns: 5_000_000_000,
        confidence_ppm: 950_000,
        streams: 1,
        features: 0,
        boot: Boot([0; 16]),
        inquiries: String::new(),
    }
}

fn turn() -> Turn {
    let restore = |dir: &Path| {
        prepare::restore(dir)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    // Signals that stop vCPUs reach no thread of the tests.
    SigSet::all().thread_block().unwrap();
    Turn::take(restore)
}

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const TASK: &str = "[[guest.task]]\nname = \"t\"\nexecution = \"4ms\"\nperiod = \"200ms\"";
const PAPER: &str = "[[guest.task]]\nname = \"t1\"\nexecution = \"30ms\"\nperiod = \"150ms\"\n\
    [[guest.task]]\nname = \"t2\"\nexecution = \"50ms\"\nperiod = \"200ms\"";

/// The policy and the reservation that the kernel has for the calling thread.
fn own_policy() -> String {
    let text = std::fs::read_to_string("/proc/thread-self/sched").unwrap();
    let policy = text
        .lines()
        .find(|line| line.starts_with("policy"))
        .unwrap();
    policy.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn both_hosts_hold_what_is_promised_and_give_it_back() {
    requires!(Need::Kvm, NICE, Need::Cpus(2));
    let _turn = turn();
    let guest = Guest::start(
        plan("moves", TASK, "runtime = \"20ms\"\nperiod = \"50ms\""),
        COUNT,
    );
    let before = guest.reservation();
    let mut held = guest.held(&WISH).unwrap();
    assert_eq!(guest.entries(), ["moves", "moves.migration"]);
    assert!(
        held.seen().faults > 0 && held.seen().zero_pages > 1000,
        "{:?}",
        held.seen().faults
    );
    let raised = held.promise().contract.held[0].raised;
    assert!(raised.runtime() > before.runtime(), "{raised}");
    assert_eq!(guest.reservation(), raised);

    let there = tempfile::tempdir().unwrap();
    let side = DestinationSide::new(basis(None), there.path()).unwrap();
    let mut taken = side.admit(&offer(&held), held.plan().clone()).unwrap();
    assert_eq!(entries(there.path()), ["moves", "moves.migration"]);
    let promise = held.agree(&taken.facts()).unwrap().clone();
    assert_eq!(promise.threads.len(), 2);
    let vm = taken.take_vm().unwrap();
    assert_eq!(vm.admitted().vcpus()[0].request.reservation, Some(before));

    for setup in [held.thread_setup(), taken.thread_setup()] {
        let policies = std::thread::spawn(move || {
            setup(0).unwrap();
            own_policy()
        });
        // SCHED_DEADLINE.
        assert_eq!(policies.join().unwrap(), "6");
        let one_too_many = held.thread_setup()(1).unwrap_err().to_string();
        assert!(
            one_too_many.contains("stream 1 has no reservation"),
            "{one_too_many}"
        );
    }
    let switching = held.enter_switch_over().unwrap();
    assert_eq!(own_policy(), "6");
    drop(switching);
    assert_eq!(own_policy(), "0");

    drop((taken, vm));
    assert!(entries(there.path()).is_empty());
    drop(held);
    assert_eq!(guest.entries(), ["moves"]);
    assert_eq!(guest.reservation(), before);
}

#[test]
fn the_papers_reservation_is_refused_and_the_named_one_is_not() {
    requires!(Need::Kvm, NICE, Need::Cpus(2));
    let _turn = turn();
    let guest = Guest::start(
        plan("paper", PAPER, "runtime = \"28ms\"\nperiod = \"50ms\""),
        COUNT,
    );
    let refusal = guest.held(&WISH).err().unwrap();
    println!("{refusal}");
    let (vcpu, least) = refusal.nearest.unwrap().budgets[0];
    assert_eq!((vcpu, guest.entries()), (0, vec!["paper".to_owned()]));
    let named = guest.reservation().with_runtime(least).unwrap();
    guest
        .lender
        .borrow()
        .unwrap()
        .guest()
        .vm_mut()
        .set_sched_param(vec![Some(named)])
        .unwrap();
    let held = guest.held(&WISH).unwrap();
    assert!(held.promise().contract.held[0].raised.runtime() >= least);
    assert!(held.promise().contract.unchecked.is_empty());
}

#[test]
fn a_guest_that_writes_more_than_its_period_pays_for_is_refused_and_left_as_it_was() {
    requires!(Need::Kvm, NICE, Need::Cpus(2));
    let _turn = turn();
    let guest = Guest::start(
        plan("floods", TASK, "runtime = \"40ms\"\nperiod = \"50ms\""),
        FLOOD,
    );
    let before = guest.reservation();
    let refusal = guest.held(&WISH).err().unwrap().to_string();
    assert!(
        refusal.contains("tracking its writes takes") || refusal.contains("the guest writes"),
        "{refusal}"
    );
    assert_eq!(guest.reservation(), before);
    let effort = Wish {
        best_effort: true,
        rate: None,
        downtime: ms(200),
        ..WISH
    };
    let held = guest.held(&effort).unwrap();
    assert!(!held.is_raised() && !held.promise().contract.unchecked.is_empty());
    assert!(held.promise().threads.is_empty() && held.rate().is_none());
    assert_eq!(guest.entries(), ["floods"]);
}

#[test]
fn a_slower_destination_gives_more_or_says_that_it_has_not_enough() {
    requires!(Need::Kvm, NICE, Need::Cpus(2));
    let _turn = turn();
    let guest = Guest::start(
        plan("slower", TASK, "runtime = \"10ms\"\nperiod = \"50ms\""),
        COUNT,
    );
    let mut subject = guest.subject();
    let seen: Observed = subject
        .observe(&Watch {
            limit: ms(50),
            ..Watch::default()
        })
        .unwrap();
    let side = SourceSide::new(basis(Some(10)), guest.dir.path()).unwrap();
    let proposal = side.propose(&subject, &seen, &WISH).unwrap();
    let mut held = side.hold((subject, seen), proposal, &guest.lender).unwrap();
    let there = tempfile::tempdir().unwrap();
    let admitted = |speed, plan: VmPlan| {
        let side = DestinationSide::new(basis(speed), there.path()).unwrap();
        side.admit(&offer(&held), plan)
    };
    let taken = admitted(Some(20), held.plan().clone()).unwrap();
    let mut half = admitted(Some(60), held.plan().clone());
    let refusal = half.as_mut().err().unwrap().to_string();
    assert!(
        refusal.contains("would need Q = 59.95ms at the destination"),
        "{refusal}"
    );
    let mut other = held.plan().clone();
    other.memory.size = vmm::units::ByteSize::mebibytes(16);
    let refusal = admitted(Some(10), other).err().unwrap().to_string();
    assert!(
        refusal.contains("8MiB") && refusal.contains("16MiB"),
        "{refusal}"
    );
    // What is held there is taken: the name.
    let refusal = admitted(Some(10), held.plan().clone())
        .err()
        .unwrap()
        .to_string();
    assert!(refusal.contains("is the name of a VM"), "{refusal}");
    held.agree(&taken.facts()).unwrap();
    let mut taken = taken;
    let vm = taken.take_vm().unwrap();
    let here = vm.admitted().vcpus()[0].request.reservation.unwrap();
    assert_eq!(here.runtime(), Duration::from_micros(2 * 9_990 + 10));
    drop((vm, taken));
    // What it has there is less than it has here.
    let as_fast = DestinationSide::new(basis(Some(10)), there.path()).unwrap();
    let mut less = held.plan().clone();
    less.requests[0].reservation = Some(Reservation::new(ms(6), ms(50)).unwrap());
    let taken = as_fast.admit(&offer(&held), less).unwrap();
    let refusal = held.agree(&taken.facts()).unwrap_err().to_string();
    assert!(
        refusal.contains("vCPU 0, which has (10 ms, 50 ms) here"),
        "{refusal}"
    );
}
