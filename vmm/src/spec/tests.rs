use super::*;
use proptest::prelude::*;

fn plan(text: &str) -> Result<VmPlan, SpecError> {
    VmSpec::parse(text)?.plan()
}

fn error(text: &str) -> String {
    plan(text).unwrap_err().to_string()
}

#[test]
fn the_example_is_a_plan() {
    let plan = plan(EXAMPLE).unwrap();
    assert_eq!(plan.requests.len(), 1);
    assert_eq!(
        plan.requests[0].reservation.unwrap().period(),
        Duration::from_millis(50)
    );
    assert!(
        plan.command_line.contains("task=t1,c=30ms,t=150ms"),
        "{}",
        plan.command_line
    );
}

#[test]
fn errors_name_the_key_the_value_and_what_would_fit() {
    let with = |cpu: &str| format!("name = \"a\"\n[guest]\n[cpu]\n{cpu}");
    for (text, parts) in [
        (with("speed = 3"), &["speed"][..]),
        (with("runtime = \"28\"\nperiod = \"50ms\""), &["28", "ms"]),
        (with("runtime = \"60ms\"\nperiod = \"50ms\""), &["60", "50"]),
        (with("runtime = \"1us\"\nperiod = \"50ms\""), &["1024"]),
        (with("runtime = \"2us\"\nperiod = \"5us\""), &["5", "100"]),
        (with("runtime = \"1s\"\nperiod = \"5s\""), &["5000", "4194"]),
        (with("runtime = \"1ms\""), &["cpu.period"]),
        (
            with("runtime = \"9ms\"\nperiod = \"50ms\"\ndeadline = \"8ms\""),
            &["deadline 8 ms", "9 ms"],
        ),
        (
            with("runtime = \"9ms\"\nperiod = \"50ms\"\ndeadline = \"60ms\""),
            &["deadline 60 ms", "50 ms"],
        ),
        (
            with("backend = \"other\"\ndeadline = \"60ms\""),
            &["cpu.runtime", "a deadline"],
        ),
        (with("vcpus = 0\nbackend = \"other\""), &["cpu.vcpus", "0"]),
        (with("backend = \"magic\""), &["magic", "deadline"]),
        (
            with(
                "runtime = \"1ms\"\nperiod = \"10ms\"\naligned = false\n[[cpu.vcpu]]\nphase = \"1ms\"",
            ),
            &["cpu.vcpu.phase", "aligned = false"],
        ),
        (
            with("runtime = \"1ms\"\nperiod = \"10ms\"\n[[cpu.vcpu]]\nphase = \"10ms\""),
            &["cpu.vcpu 0.phase", "10ms", "less than the vCPU's period"],
        ),
        (
            with("backend = \"other\"\n[[cpu.vcpu]]\nphase = \"1ms\""),
            &["cpu.vcpu 0.phase", "backend = \"deadline\""],
        ),
        ("name = \"a/b\"\n[guest]\n".to_owned(), &["a/b"]),
        (
            format!("name = \"{}\"\n[guest]\n", "x".repeat(108)),
            &["48"],
        ),
        (
            "name = \"a\"\n[guest]\nmemory = \"1KiB\"\n".to_owned(),
            &["guest.memory", "2MiB"],
        ),
    ] {
        let message = error(&text);
        for part in parts {
            assert!(
                message.contains(part),
                "{message:?} does not mention {part:?}"
            );
        }
    }
}

#[test]
fn a_vcpu_can_differ_from_the_others() {
    let plan = plan(
        "name = \"a\"\n[guest]\n[cpu]\nvcpus = 2\nruntime = \"1ms\"\nperiod = \"10ms\"\ndeadline = \"5ms\"\n[[cpu.vcpu]]\nruntime = \"2ms\"\ndeadline = \"8ms\"\n",
    )
    .unwrap();
    let runtimes: Vec<_> = plan
        .requests
        .iter()
        .map(|r| r.reservation.unwrap())
        .map(|r| (r.runtime().as_millis(), r.deadline().as_millis()))
        .collect();
    assert_eq!(runtimes, [(2, 8), (1, 5)]);
}

#[test]
fn vcpus_are_aligned_unless_told_otherwise() {
    let phases = |more: &str| {
        let cpu = "vcpus = 2\nruntime = \"1ms\"\nperiod = \"10ms\"";
        plan(&format!("name = \"a\"\n[guest]\n[cpu]\n{cpu}\n{more}"))
            .unwrap()
            .phases
    };
    let (none, three) = (Duration::ZERO, Duration::from_millis(3));
    assert_eq!(phases(""), Some(vec![none, none]));
    assert_eq!(
        phases("[[cpu.vcpu]]\n[[cpu.vcpu]]\nphase = \"3ms\""),
        Some(vec![none, three])
    );
    assert_eq!(phases("aligned = false"), None);
    // Those that cannot be moved are not, nor are the others then.
    assert_eq!(phases("[[cpu.vcpu]]\ndeadline = \"5ms\""), None);
    assert_eq!(phases("deadline = \"10ms\""), phases(""));
    let feedback = "[cpu.feedback]\nleast = \"1ms\"\ngreatest = \"3ms\"";
    assert_eq!(phases(feedback), None);
}

#[test]
fn vcpus_that_cannot_be_aligned_are_not_asked_for_it() {
    let feedback = "[cpu.feedback]\nleast = \"1ms\"\ngreatest = \"3ms\"";
    for (more, parts) in [
        (
            format!("aligned = true\n{feedback}"),
            ["aligned", "cpu.feedback"],
        ),
        (
            format!("{feedback}\n[[cpu.vcpu]]\nphase = \"1ms\""),
            ["phase", "cpu.feedback"],
        ),
        (
            "aligned = true\ndeadline = \"5ms\"".to_owned(),
            ["aligned", "deadline"],
        ),
        (
            "[[cpu.vcpu]]\nphase = \"1ms\"\ndeadline = \"5ms\"".to_owned(),
            ["phase", "deadline"],
        ),
    ] {
        let cpu = "vcpus = 2\nruntime = \"1ms\"\nperiod = \"10ms\"";
        let message = error(&format!("name = \"a\"\n[guest]\n[cpu]\n{cpu}\n{more}"));
        for part in parts {
            assert!(
                message.contains(part),
                "{message:?} does not mention {part:?}"
            );
        }
    }
}

#[test]
fn a_critical_section_becomes_a_key_of_the_task() {
    let text = "name = \"a\"\n[guest]\n[[guest.task]]\nname = \"t\"\nexecution = \"4ms\"\nperiod = \"20ms\"\ncritical = \"5ms\"\n[cpu]\nbackend = \"other\"";
    let message = error(text);
    assert!(
        message.contains("s=5ms is above the least execution time"),
        "{message}"
    );
    let plan = plan(&text.replace("5ms", "2ms")).unwrap();
    assert_eq!(plan.tasks.unwrap().tasks()[0].critical, 2_000_000);
}

proptest! {
    #[test]
    fn any_text_is_a_plan_or_an_error(text: String) {
        let _ = plan(&text);
    }

    #[test]
    fn any_values_are_a_plan_or_an_error(name: String, memory: String, runtime: String, vcpus: i64, line: String) {
        let _ = plan(&format!(
            "name = {name:?}\n[guest]\nmemory = {memory:?}\ncommand_line = {line:?}\n[cpu]\nvcpus = {vcpus}\nruntime = {runtime:?}\nperiod = \"50ms\"\n"
        ));
    }
}
