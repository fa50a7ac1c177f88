//! What is fuzzed: every place where bytes that nobody vouches for become values.
//!
//! Each target takes any bytes, and must neither panic, nor hang, nor accept what contradicts itself. `cargo fuzz` drives
//! them for hours (tests/fuzz/README.md); tests/tests/fuzzing.rs for seconds in every run of the tests.

use rt_abi::record::ring_size;
use rt_abi::taskset::TaskSet;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::boot::{BootLayout, RING_CAPACITY, load_image, write_boot_data};
use vmm::design::{Basis, design};
use vmm::spec::{EXAMPLE, VmSpec};
use vmm::telemetry::{Event, Reader};

#[path = "migration_wire.rs"]
pub mod migration_wire;
#[path = "network_queues.rs"]
pub mod network_queues;

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is that of its file in fuzz_targets.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Bytes to start from: the valid and the nearly valid.
    pub corpus: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "spec",
        run: spec,
        corpus: spec_corpus,
    },
    Target {
        name: "command_line",
        run: command_line,
        corpus: command_line_corpus,
    },
    Target {
        name: "image",
        run: image,
        corpus: image_corpus,
    },
    Target {
        name: "records",
        run: records,
        corpus: records_corpus,
    },
    Target {
        name: "snapshot",
        run: snapshot,
        corpus: snapshot_corpus,
    },
    Target {
        name: "control",
        run: control,
        corpus: control_corpus,
    },
    Target {
        name: "network_queues",
        run: network_queues::run,
        corpus: network_queues::corpus,
    },
    Target {
        name: "migration",
        run: migration_wire::run,
        corpus: migration_wire::corpus,
    },
];

/// A specification: what becomes a plan asks for something that exists.
pub fn spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(spec) = VmSpec::parse(text) else {
        return;
    };
    let basis = Basis {
        speed: spec.guest.reference,
        ..Basis::default()
    };
    let Ok(designed) = design(&spec, &basis) else {
        return;
    };
    let Ok(plan) = designed.spec.plan() else {
        return;
    };
    assert!(!plan.name.contains('/') && plan.name.len() < 108);
    assert!((1..=64).contains(&plan.requests.len()));
    for request in &plan.requests {
        if let Some(reservation) = request.reservation {
            assert!(reservation.runtime() <= reservation.period());
        }
    }
    if let Some(tasks) = &plan.tasks {
        assert!(plan.requests.len() >= usize::from(tasks.vcpus));
    }
}

fn spec_corpus() -> Vec<Vec<u8>> {
    let two = "name = \"a\"\n[guest]\nhugepages = true\nmemory = \"64MiB\"\ncommand_line = \"hog=1\"\nwatchdog = \"1s\"\n\
        [cpu]\nvcpus = 2\nruntime = \"1.5ms\"\nperiod = \"10ms\"\nbackend = \"rt-cgroup\"\nfifo_priority = 3\n\
        [[cpu.vcpu]]\nruntime = \"2ms\"\ncpu = 1\n";
    let tasks = "name = \"a\"\n[guest]\nscheduler = \"dm\"\n\
        reference = { integer = \"1ms\", float = \"1ms\", memory = \"1ms\" }\n\
        [[guest.task]]\nname = \"a\"\nexecution = \"1ms\"\nperiod = \"10ms\"\n[cpu]\nperiod = \"5ms\"\n";
    [EXAMPLE, two, tasks]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// A command line of the guest: what is accepted is written back the same.
pub fn command_line(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(set) = TaskSet::parse(text) {
        let written = set.to_string();
        assert_eq!(TaskSet::parse(&written), Ok(set), "{written}");
        assert_eq!(set.check(), Ok(()));
    }
}

fn command_line_corpus() -> Vec<Vec<u8>> {
    [
        "sched=rm duration=10s seed=1 gap=300us start=50ms stream=1 tsc_khz=2000000 vcpus=2 \
         task=a,c=30ms,t=150ms,d=100ms,o=1ms,cpu=1,prio=3,gaps=1 hog=0",
        "sched=edf task=b,c=3ms..8ms,t=20ms task=c,t=10ms,dirty=16,region=16M,pattern=hot",
        "bench=pio,n=20000,port=0x80",
        "storm=mmio seed=3",
        "fault=triple",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}

/// Bytes of the memory that images are loaded into.
const RAM: usize = 4 << 20;

fn guest() -> (GuestMemoryMmap, BootLayout) {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).expect("4 MiB can be had");
    let layout = BootLayout::new(RAM as u64, 2).expect("two vCPUs fit into 4 MiB");
    (ram, layout)
}

/// A guest image: what is loaded is entered inside of usable memory, and the VMM's own areas are untouched.
pub fn image(data: &[u8]) {
    let (ram, layout) = guest();
    // A command line that any two bytes choose the length of.
    let length = data
        .iter()
        .take(2)
        .fold(0, |n, &byte| n * 256 + usize::from(byte));
    let _ = write_boot_data(&ram, &layout, &"x".repeat(length));
    let mark = |ram: &GuestMemoryMmap| {
        let mut bytes = vec![0; 4096];
        let read = ram.read_slice(&mut bytes, GuestAddress(layout.start_info));
        read.map(|()| bytes).unwrap_or_default()
    };
    let before = mark(&ram);
    if let Ok(entry) = load_image(&ram, data, &layout) {
        assert!(
            entry.0 >= 1 << 20 && entry.0 < layout.start_info,
            "{entry:?}"
        );
    }
    assert_eq!(mark(&ram), before);
}

fn image_corpus() -> Vec<Vec<u8>> {
    vec![tiny_image()]
}

/// An ELF file with a PVH note and one instruction, `hlt`, at 1 MiB.
fn tiny_image() -> Vec<u8> {
    const BASE: u64 = 1 << 20;
    const HEADERS: u64 = 64 + 2 * 56;
    let halves = |file: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    let words = |file: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    let longs = |file: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    halves(&mut file, &[2, 62]);
    words(&mut file, &[1]);
    longs(&mut file, &[BASE + 20, 64, 0]);
    words(&mut file, &[0]);
    halves(&mut file, &[64, 56, 2, 64, 0, 0]);
    for (kind, in_file, in_memory) in [(1, 21, 4096), (4, 20, 20)] {
        words(&mut file, &[kind, 7]);
        longs(&mut file, &[HEADERS, BASE, BASE, in_file, in_memory, 16]);
    }
    words(&mut file, &[4, 4, 18]);
    file.extend(b"Xen\0");
    words(&mut file, &[(1 << 20) + 20]);
    file.push(0xf4);
    file
}

/// The record rings as a guest may fill them, between two looks of the reader.
pub fn records(data: &[u8]) {
    let (ram, layout) = guest();
    let mut reader = Reader::new(layout);
    // Per look: which ring, where its head is, and bytes for the records before it.
    for look in data.chunks(64 + 9) {
        let (control, record) = look.split_at(look.len().min(9));
        let Some((ring, head)) = control.split_first() else {
            continue;
        };
        let mut number = [0; 8];
        number[..head.len()].copy_from_slice(head);
        let head = u64::from_le_bytes(number);
        let base = layout.records + u64::from(ring % 2) * ring_size(RING_CAPACITY);
        let slot = base + 64 + (head.wrapping_sub(1) % RING_CAPACITY) * 64;
        let _ = ram.write_slice(record, GuestAddress(slot));
        let _ = ram.write_obj(head, GuestAddress(base + 24));
        let mut events = 0;
        reader.poll(&ram, |event| {
            events += 1;
            if let Event::Job(job) = event {
                assert!(job.response() <= job.finish && job.start <= job.finish);
                let _ = job.missed();
            }
        });
        assert!(events <= 2 * RING_CAPACITY);
    }
}

fn records_corpus() -> Vec<Vec<u8>> {
    let record = |kind, job| rt_abi::record::Record {
        kind,
        job,
        release: 10,
        start: 20,
        finish: 50,
        deadline: 40,
        executed: 30,
        ..rt_abi::record::Record::default()
    };
    let look = |ring: u8, head: u64, kind| {
        let mut bytes = vec![ring];
        bytes.extend(head.to_le_bytes());
        bytes.extend(record(kind, head).to_bytes());
        bytes
    };
    vec![
        [look(0, 1, 1), look(1, 1, 2), look(0, 2, 3)].concat(),
        [look(0, 5000, 1), look(0, 3, 1), look(0, u64::MAX, 2)].concat(),
    ]
}

/// A saved state: what is read is written back the same, and none takes more memory than it has bytes.
pub fn snapshot(data: &[u8]) {
    if let Ok(state) = vmm::snapshot::decode(data) {
        let _ = state.clock.resumed_ns(std::time::SystemTime::now());
        for vcpu in &state.vcpus {
            let _ = vcpu.deadline().map(|tsc| state.clock.guest_time_of(tsc));
        }
        vmm::snapshot::encode(&state).expect("what was read can be written");
    }
}

fn snapshot_corpus() -> Vec<Vec<u8>> {
    vec![
        b"\x05guest\x01\x00".to_vec(),
        b"\x05guest\x01\xff\xff\xff\xff\x0f".to_vec(),
    ]
}

/// A line over the control socket.
pub fn control(data: &[u8]) {
    if let Ok(request) = vmm::control::parse_request(data) {
        let _ = format!("{request:?}");
    }
}

fn control_corpus() -> Vec<Vec<u8>> {
    let reservation = "{\"runtime_ns\":5000000,\"period_ns\":50000000}";
    let adapt = format!("{{\"kind\":\"adapt\",\"vcpu\":0,\"reservation\":{reservation}}}");
    let transfer = format!(
        "{{\"kind\":\"transfer\",\"vcpu\":0,\"reservation\":{reservation},\"from\":\"a\",\"from_socket\":\"/a\",\
         \"from_vcpu\":1,\"from_before\":{reservation},\"from_reservation\":{reservation}}}"
    );
    let save = "{\"kind\":\"save\",\"path\":\"/a\"}".to_owned();
    let stop = "{\"kind\":\"stop\"}".to_owned();
    [adapt, transfer, save, stop]
        .map(|request| format!("{{\"version\":1,\"request\":{request}}}\n").into_bytes())
        .to_vec()
}
