//! Torch checkpoints, zip: directory, pickle, views.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::file("fuzz.ckpt", data);
    synth_fuzz::read_checkpoint(&path);
});
