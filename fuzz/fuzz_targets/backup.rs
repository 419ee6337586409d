//! The fuzz target `backup`: see `tests/src/fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    terrace_tests::fuzz::backup(data);
});
