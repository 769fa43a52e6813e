//! Torch checkpoints from before 1.6: five pickles and storages. The magic number
//! stands in front of the input, so that every input gets past it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::file("fuzz.pth", &[synth_fuzz::LEGACY_HEAD, data].concat());
    synth_fuzz::read_checkpoint(&path);
});
