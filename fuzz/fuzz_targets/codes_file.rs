//! Codes files.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::file("fuzz.codes.safetensors", data);
    synth_fuzz::read_codes(&path);
});
