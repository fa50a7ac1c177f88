//! Drives `chronovisor_fuzz::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronovisor_fuzz::records(data));
