//! What keeps a partition's CPU quiet: interrupts and received packets go elsewhere, and it does not idle deeply.
//!
//! Interrupts: Documentation/core-api/irq/irq-affinity.rst. Packets: Documentation/networking/scaling.rst, "RPS" and
//! "XPS". Idle: Documentation/ABI/testing/sysfs-devices-power, "pm_qos_resume_latency_us", where `n/a` accepts no
//! latency at all, so that the CPU polls. Not touched: interrupts of a single CPU and those the kernel manages itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::record::{Setting, read};
use crate::cpus;

/// The value of `pm_qos_resume_latency_us` that lets the CPU poll only.
const NO_LATENCY: &str = "n/a";

/// Where the kernel shows its settings.
pub(crate) struct Kernel {
    proc: PathBuf,
    sys: PathBuf,
}

/// What may still disturb a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disturbances {
    /// Numbers of the interrupts that may be delivered to it.
    pub(crate) interrupts: Vec<u32>,
    /// Network queues whose packets are received on it, such as `eth0/rx-0`.
    pub(crate) queues: Vec<String>,
    /// Whether idle states that take time to leave are allowed.
    pub(crate) deep_idle: bool,
}

impl Kernel {
    /// The one that runs.
    pub(crate) fn running() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            sys: PathBuf::from("/sys"),
        }
    }

    /// The settings to change so that `cpus` are quiet, with nothing changed yet. What cannot do without these CPUs, as
    /// no other of `online` would be left, is not among them.
    pub(super) fn plan(&self, cpus: &[u32], online: &[u32]) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut change = |file: PathBuf, quieter: &dyn Fn(&str) -> Option<String>| {
            let Ok(before) = read(&file) else { return };
            if let Some(after) = quieter(&before).filter(|after| *after != before) {
                let undo = None;
                settings.push(Setting {
                    file,
                    before,
                    after,
                    undo,
                });
            }
        };
        let left = |remaining: &[u32]| remaining.iter().any(|cpu| online.contains(cpu));
        change(self.default_affinity(), &|mask| {
            let after = mask_without(mask, cpus)?;
            left(&mask_cpus(&after)?).then_some(after)
        });
        for (_, file) in self.interrupts() {
            change(file, &|list| {
                let mut remaining = cpus::parse(list)?;
                remaining.retain(|cpu| !cpus.contains(cpu));
                left(&remaining).then(|| cpus::format(&remaining))
            });
        }
        for (_, file) in self.queues() {
            // An empty mask is one too: packets then stay where their interrupt is.
            change(file, &|mask| mask_without(mask, cpus));
        }
        for &cpu in cpus {
            change(self.resume_latency(cpu), &|_| Some(NO_LATENCY.to_owned()));
        }
        settings
    }

    /// What may disturb `cpu` as things are.
    pub(crate) fn disturbances(&self, cpu: u32) -> Disturbances {
        let holds = |file: &Path, cpus: fn(&str) -> Option<Vec<u32>>| {
            let text = read(file).unwrap_or_default();
            cpus(&text).is_some_and(|cpus| cpus.contains(&cpu))
        };
        let interrupts = self.interrupts().into_iter();
        let queues = self.queues().into_iter();
        let received =
            queues.filter(|(_, file)| file.ends_with("rps_cpus") && holds(file, mask_cpus));
        let latency = read(&self.resume_latency(cpu));
        Disturbances {
            interrupts: interrupts
                .filter(|(_, file)| holds(file, cpus::parse))
                .map(|(number, _)| number)
                .collect(),
            queues: received.map(|(name, _)| name).collect(),
            deep_idle: latency.is_ok_and(|latency| latency != NO_LATENCY),
        }
    }

    fn default_affinity(&self) -> PathBuf {
        self.proc.join("irq/default_smp_affinity")
    }

    /// Number and affinity file of every interrupt.
    fn interrupts(&self) -> Vec<(u32, PathBuf)> {
        let folder = self.proc.join("irq");
        let numbers = names_in(&folder).into_iter();
        let mut all: Vec<_> = numbers
            .filter_map(|name| name.parse::<u32>().ok())
            .map(|number| (number, folder.join(format!("{number}/smp_affinity_list"))))
            .collect();
        all.sort_unstable();
        all
    }

    /// Name and mask file of every network queue.
    fn queues(&self) -> Vec<(String, PathBuf)> {
        let folder = self.sys.join("class/net");
        let mut all = Vec::new();
        for device in names_in(&folder) {
            let queues = folder.join(&device).join("queues");
            for queue in names_in(&queues) {
                let receives = queue.starts_with("rx-");
                let mask = if receives { "rps_cpus" } else { "xps_cpus" };
                all.push((format!("{device}/{queue}"), queues.join(&queue).join(mask)));
            }
        }
        all.sort_unstable();
        all
    }

    fn resume_latency(&self, cpu: u32) -> PathBuf {
        let file = format!("devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us");
        self.sys.join(file)
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// A mask as the kernel writes it, 32 bits between commas, the highest first: the lowest CPU of each group, and its bits.
fn groups(mask: &str) -> Option<Vec<(u32, &str, u32)>> {
    let mut all = Vec::new();
    for (digits, first) in mask.trim().rsplit(',').zip((0..).step_by(32)) {
        all.push((first, digits, u32::from_str_radix(digits, 16).ok()?));
    }
    Some(all)
}

/// The CPUs in a mask.
fn mask_cpus(mask: &str) -> Option<Vec<u32>> {
    let bits = |(first, _, bits): (u32, &str, u32)| {
        (0..32)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(move |bit| first + bit)
    };
    Some(groups(mask)?.into_iter().flat_map(bits).collect())
}

/// The mask without `cpus`, with as many digits: as the kernel will write it.
fn mask_without(mask: &str, cpus: &[u32]) -> Option<String> {
    let mut groups = groups(mask)?;
    groups.reverse();
    let cleared = groups.iter().map(|&(first, digits, bits)| {
        let of_group = cpus.iter().filter_map(|cpu| cpu.checked_sub(first));
        let taken = of_group
            .filter_map(|bit| 1u32.checked_shl(bit))
            .fold(0, |taken, bit| taken | bit);
        format!("{:0width$x}", bits & !taken, width = digits.len())
    });
    Some(cleared.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A kernel of files.
    struct Model {
        root: tempfile::TempDir,
    }

    impl Model {
        fn with(files: &[(&str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for (file, text) in files {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{text}\n")).unwrap();
            }
            Self { root }
        }

        fn kernel(&self) -> Kernel {
            Kernel {
                proc: self.root.path().join("proc"),
                sys: self.root.path().join("sys"),
            }
        }

        /// What is planned: file, before, after.
        fn plan(&self, cpus: &[u32], online: &[u32]) -> Vec<(String, String, String)> {
            let of = |setting: Setting| {
                let file = setting.file.strip_prefix(self.root.path()).unwrap();
                (
                    file.to_str().unwrap().to_owned(),
                    setting.before,
                    setting.after,
                )
            };
            self.kernel()
                .plan(cpus, online)
                .into_iter()
                .map(of)
                .collect()
        }
    }

    fn change(file: &str, before: &str, after: &str) -> (String, String, String) {
        (file.to_owned(), before.to_owned(), after.to_owned())
    }

    #[test]
    fn interrupts_are_steered_to_the_cpus_that_are_left() {
        let model = Model::with(&[
            ("proc/irq/default_smp_affinity", "f"),
            ("proc/irq/4/smp_affinity_list", "0-3"),
            ("proc/irq/5/smp_affinity_list", "0"),
            // For this CPU alone, and with one more that is offline.
            ("proc/irq/6/smp_affinity_list", "1"),
            ("proc/irq/7/smp_affinity_list", "1,9"),
        ]);
        assert_eq!(
            model.plan(&[1, 3], &[0, 1, 2, 3]),
            [
                change("proc/irq/default_smp_affinity", "f", "5"),
                change("proc/irq/4/smp_affinity_list", "0-3", "0,2"),
            ]
        );
        let one = model.kernel().disturbances(1);
        assert_eq!(one.interrupts, [4, 6, 7]);
        assert_eq!(model.kernel().disturbances(0).interrupts, [4, 5]);
    }

    #[test]
    fn packets_are_steered_away_where_they_are_steered_at_all() {
        let rx = "sys/class/net/eth0/queues/rx-0/rps_cpus";
        let only_here = "sys/class/net/eth0/queues/rx-1/rps_cpus";
        let off = "sys/class/net/lo/queues/rx-0/rps_cpus";
        let tx = "sys/class/net/eth0/queues/tx-0/xps_cpus";
        let model = Model::with(&[
            (rx, "ffffffff,ffffffff"),
            (only_here, "00000001,00000000"),
            (off, "00000000,00000000"),
            (tx, "00000001,00000001"),
        ]);
        assert_eq!(
            model.plan(&[32], &[0, 32]),
            [
                change(rx, "ffffffff,ffffffff", "fffffffe,ffffffff"),
                change(only_here, "00000001,00000000", "00000000,00000000"),
                change(tx, "00000001,00000001", "00000000,00000001"),
            ]
        );
        let here = model.kernel().disturbances(32);
        assert_eq!(here.queues, ["eth0/rx-0", "eth0/rx-1"]);
    }

    #[test]
    fn deep_idle_is_ruled_out_where_there_is_idling() {
        let file = |cpu| format!("sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us");
        let model = Model::with(&[(&file(0), "0"), (&file(1), "50"), (&file(2), "n/a")]);
        assert_eq!(
            model.plan(&[1, 2, 3], &[0, 1, 2, 3]),
            [change(&file(1), "50", "n/a")]
        );
        let deep = |cpu| model.kernel().disturbances(cpu).deep_idle;
        assert_eq!([0, 1, 2, 3].map(deep), [true, true, false, false]);
    }

    #[test]
    fn what_is_no_mask_is_left_alone() {
        for wrong in ["", "x", "1,", "1 2"] {
            assert_eq!(mask_without(wrong, &[0]), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_mask_loses_the_cpus_taken_from_it_and_nothing_else(
            words in prop::collection::vec(any::<u32>(), 1..5),
            taken in prop::collection::vec(0u32..160, 0..8),
        ) {
            let mask = words.iter().map(|word| format!("{word:08x}")).collect::<Vec<_>>().join(",");
            let after = mask_without(&mask, &taken).unwrap();
            let mut expected = mask_cpus(&mask).unwrap();
            expected.retain(|cpu| !taken.contains(cpu));
            prop_assert_eq!(mask_cpus(&after).unwrap(), expected);
            prop_assert_eq!(after.len(), mask.len());
            prop_assert_eq!(mask_without(&mask, &[]).unwrap(), mask);
        }
    }
}
