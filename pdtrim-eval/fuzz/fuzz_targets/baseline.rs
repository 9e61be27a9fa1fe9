#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pdtrim_eval_fuzz::unwind();
    pdtrim_eval_fuzz::baseline(data);
});
