//! Drives `chronovisor_fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronovisor_fuzz::control(data));
