//! Drives `chronovisor_fuzz::migration_wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronovisor_fuzz::migration_wire::run(data));
