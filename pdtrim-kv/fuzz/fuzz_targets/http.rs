#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pdtrim_kv_fuzz::http(data);
});
