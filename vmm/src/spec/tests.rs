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
