//! Drives `chronovisor_fuzz::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronovisor_fuzz::image(data));
