//! What kind of KVM this host has.

use std::path::Path;

/// The hardware (or software) that KVM uses here, for people.
#[must_use]
pub fn kvm_kind() -> String {
    if !Path::new("/dev/kvm").exists() {
        return "absent: there is no /dev/kvm".to_owned();
    }
    let modules = [("kvm_intel", "Intel VMX"), ("kvm_amd", "AMD SVM")];
    let loaded = |(module, _): &&(&str, &str)| Path::new("/sys/module").join(module).exists();
    if let Some((_, kind)) = modules.iter().find(loaded) {
        return (*kind).to_owned();
    }
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    match (has("vmx"), has("svm")) {
        (true, _) => "Intel VMX",
        (_, true) => "AMD SVM",
        _ => "without VMX or SVM: guest kernels run in an instruction emulator",
    }
    .to_owned()
}
