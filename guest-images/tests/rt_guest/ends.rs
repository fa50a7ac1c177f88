//! How the guest ends: with which status, having said what; and that it needs little.

use crate::qemu::Machine;
use system_tests::{Need, requires};

const QEMU: Need = Need::Program("qemu-system-x86_64");
const MICROVM: Machine = Machine::new("tcg", "microvm");

// Values of `Exit` in rt-guest, as QEMU's isa-debug-exit passes them on: value * 2 + 1.
const DONE: Option<i32> = Some(0x10 * 2 + 1);
const BAD_COMMAND_LINE: Option<i32> = Some(0x11 * 2 + 1);
const EXCEPTION: Option<i32> = Some(0x12 * 2 + 1);
const BAD_MACHINE: Option<i32> = Some(0x13 * 2 + 1);

#[test]
fn a_command_line_with_an_unknown_word_is_refused_by_name() {
    requires!(QEMU);
    let run = MICROVM.run("task=a,c=1ms,t=5ms nonsense=1");
    assert_eq!(run.status, BAD_COMMAND_LINE);
    assert!(run.lines[1].contains("nonsense"), "{:?}", run.lines);
}

#[test]
fn an_empty_command_line_idles_and_ends() {
    requires!(QEMU);
    let run = MICROVM.run("");
    assert_eq!(run.status, DONE);
    assert_eq!(run.lines, ["rt-guest: ready"]);
}

#[test]
fn four_mebibytes_are_enough_for_tasks_that_touch_memory() {
    requires!(QEMU);
    let machine = Machine {
        memory: 4,
        ..MICROVM
    };
    let run = machine.run("task=a,t=20ms,dirty=64,region=256K task=b,t=20ms,dirty=9,region=64K,pattern=hot duration=100ms");
    assert_eq!(run.status, DONE, "{:?}", run.lines);
    assert!(run.lines.iter().any(|l| l.starts_with("task b jobs ")));
}

#[test]
fn a_region_that_does_not_fit_is_refused() {
    requires!(QEMU);
    let run = MICROVM.run("task=a,t=20ms,dirty=64,region=1G");
    assert_eq!(run.status, BAD_MACHINE);
    assert!(
        run.lines[1].contains("not enough memory"),
        "{:?}",
        run.lines
    );
}

#[test]
fn an_exception_is_reported_with_its_vector_and_place() {
    requires!(QEMU);
    let ud = MICROVM.run("fault=ud");
    assert_eq!(ud.status, EXCEPTION);
    assert!(
        ud.lines[1].starts_with("rt-guest: exception 6 error 0x0 rip 0x10"),
        "{:?}",
        ud.lines
    );
    let memory = MICROVM.run("fault=memory");
    assert_eq!(memory.status, EXCEPTION);
    let report = &memory.lines[1];
    assert!(
        report.starts_with("rt-guest: exception 14 error 0x6 "),
        "{report}"
    );
    assert!(report.contains("cr2 0x10000000000 cpl 3"), "{report}");
}

#[test]
fn a_triple_fault_resets_the_machine() {
    requires!(QEMU);
    // QEMU ends with 0 where -no-reboot makes a reset the end.
    assert_eq!(MICROVM.run("fault=triple").status, Some(0));
}

#[test]
fn the_bench_prints_ordered_times() {
    requires!(QEMU);
    let run = MICROVM.run("bench=pio,n=500");
    assert_eq!(run.status, DONE);
    let line = run
        .lines
        .iter()
        .find_map(|l| l.strip_prefix("bench pio n=500 "));
    let times: Vec<u64> = line
        .unwrap()
        .split(' ')
        .map(|word| word.split_once('=').unwrap().1.parse().unwrap())
        .collect();
    assert_eq!(times.len(), 4);
    assert!(times.is_sorted() && times[3] > 0, "{times:?}");
}

#[test]
fn a_storm_on_addresses_without_memory_ends_in_order() {
    requires!(QEMU);
    let run = MICROVM.run("storm=mmio duration=100ms seed=3");
    assert_eq!(run.status, DONE, "{:?}", run.lines);
    assert!(run.lines.last().unwrap().starts_with("storm "));
}
