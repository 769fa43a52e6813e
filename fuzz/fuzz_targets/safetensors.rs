//! Safetensors files.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::file("fuzz.safetensors", data);
    synth_fuzz::read_checkpoint(&path);
});
