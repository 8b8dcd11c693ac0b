//! libFuzzer's way into `entry::decode`.
#![no_main]

#[path = "../entry.rs"]
#[allow(dead_code, reason = "each target uses its own entry")]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::decode(data));
