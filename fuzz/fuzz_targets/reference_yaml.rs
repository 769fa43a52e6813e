//! The reference's YAML, up to the architecture that it describes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::file("fuzz.yaml", data);
    synth_fuzz::read_reference_config(&path);
});
