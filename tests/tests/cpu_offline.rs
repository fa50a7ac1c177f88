//! CPUs that are taken offline, on an emulated host: a cgroup v1 host's cpusets would not get such a CPU back.

use std::time::Duration;

use system_tests::{EmulatedHost, Need, built, requires};

/// A case: guests that would run for a minute end in a few seconds, or did not notice.
const LIMIT: Duration = Duration::from_secs(60);

fn guest(name: &str, cpu: &str) -> String {
    format!(
        "cat >/{name}.toml <<'END'\nname = \"{name}\"\n[guest]\nduration = \"60s\"\n[[guest.task]]\nname = \"a\"\n\
         execution = \"5ms\"\nperiod = \"500ms\"\n[cpu]\n{cpu}END\n"
    )
}

/// What the scripts share. `begin NAME` starts a guest and waits until it runs; `end` says how it ended.
const SHELL: &str = r#"
cpu() { echo "$2" >/sys/devices/system/cpu/cpu"$1"/online; }
begin() {
    chronovisor run /"$1".toml &
    vm=$!
    until chronovisor status "$1" 2>/dev/null | grep -q 'thread'; do
        kill -0 $vm || exit 9
        sleep 0.1
    done
}
end() { wait $vm; echo "ended $?"; }
"#;

const REFUSED: &str = r#"
cpu 1 0
chronovisor run /pinned.toml; echo "run $?"
chronovisor check /pinned.toml; echo "check $?"
chronovisor host prepare --cpus 1; echo "prepare $?"
cpu 1 1
"#;

const PINNED: &str = "begin pinned; cpu 1 0; end; cpu 1 1";

/// Off and on again before anybody could look: the kernel has moved the thread all the same.
const BRIEF: &str = "begin quota; cpu 1 0; cpu 1 1; end";

/// The kernel refuses; but if the thread wakes while it tries, it has moved it away for good.
const PARTITION: &str = r#"
chronovisor host prepare --cpus 1
begin reserved
cpu 1 0 || echo "refused"
cat /sys/devices/system/cpu/online
chronovisor status reserved
chronovisor stop reserved; end
chronovisor host restore
"#;

#[test]
fn a_guest_whose_cpu_is_taken_offline_ends_with_a_broken_promise_unless_the_kernel_refuses() {
    requires!(Need::EmulatedHost);
    let on_cpu_1 = "cpu = 1\nruntime = \"100ms\"\nperiod = \"400ms\"\n";
    let pinned = guest("pinned", "cpu = 1\nbackend = \"fifo\"\n");
    let quota = guest("quota", &format!("backend = \"cfs-quota\"\n{on_cpu_1}"));
    let reserved = guest("reserved", on_cpu_1);
    let report = EmulatedHost::new()
        .executable(built::chronovisor().unwrap())
        .case("refused", LIMIT, &(pinned.clone() + SHELL + REFUSED))
        .case("pinned", LIMIT, &(pinned + SHELL + PINNED))
        .case("brief", LIMIT, &(quota + SHELL + BRIEF))
        .case("partition", LIMIT, &(reserved + SHELL + PARTITION))
        .boot()
        .unwrap();
    let output = |name| report.case(name).assert_success();
    for part in ["run 3", "check 3", "prepare 1"] {
        assert!(output("refused").contains(part), "{}", output("refused"));
    }
    let named = output("refused").matches("CPU 1").count();
    assert!(named >= 3, "{}", output("refused"));
    for name in ["pinned", "brief"] {
        assert!(output(name).contains("ended 105"), "{}", output(name));
        assert!(
            output(name).contains("was CPU 1 taken offline"),
            "{}",
            output(name)
        );
    }
    let partition = output("partition");
    assert!(partition.contains("refused\n0-1\n"), "{partition}");
    let kept = ["in force", "ended 0"];
    let moved = ["was CPU 1 taken offline", "ended 105"];
    let told = |all: [&str; 2]| all.iter().all(|part| partition.contains(part));
    assert!(told(kept) || told(moved), "{partition}");
}

#[test]
fn a_cpu_that_the_kernel_gives_up_but_the_global_test_needs_breaks_the_promise() {
    requires!(Need::EmulatedHost);
    // Two vCPUs of 0.7: three CPUs have room for every deadline (1.4 <= 3 - 2 * 0.7), two only on average.
    let spread = guest(
        "spread",
        "runtime = \"280ms\"\nperiod = \"400ms\"\nvcpus = 2\n",
    );
    let script = spread + SHELL + "begin spread; cpu 2 0 || exit 1; end; cpu 2 1";
    let report = EmulatedHost::new()
        .cpus(3)
        .executable(built::chronovisor().unwrap())
        .case("spread", LIMIT, &script)
        .boot()
        .unwrap();
    let spread = report.case("spread").assert_success();
    for part in [
        "ended 105",
        "CPUs 2 were taken offline",
        "global EDF test over 2 CPUs",
    ] {
        assert!(spread.contains(part), "{part}: {spread}");
    }
}
