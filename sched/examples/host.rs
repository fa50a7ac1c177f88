//! Prints the host check, with a second of noise per CPU: `cargo run --release -p sched --example host`.

fn main() {
    let noise = std::time::Duration::from_secs(1);
    print!("{}", sched::host::HostCheck::run("not looked for", noise));
}
