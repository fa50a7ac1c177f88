//! Prints what /dev/kvm answers to the first questions of any VMM: its interface version, whether
//! it makes a VM and a vCPU, and the vCPU's code segment at reset.

use std::process::ExitCode;

use kvm_ioctls::Kvm;

fn main() -> ExitCode {
    match probe() {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("/dev/kvm does not work: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> Result<String, kvm_ioctls::Error> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let vcpu = vm.create_vcpu(0)?;
    let base = vcpu.get_sregs()?.cs.base;
    Ok(format!(
        "api_version={} reset_cs_base={base:#x}",
        kvm.get_api_version()
    ))
}
