#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pdtrim_core_fuzz::unwind();
    pdtrim_core_fuzz::plan(data);
});
