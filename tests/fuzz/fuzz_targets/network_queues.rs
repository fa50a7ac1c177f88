//! Drives `chronovisor_fuzz::network_queues`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronovisor_fuzz::network_queues::run(data));
