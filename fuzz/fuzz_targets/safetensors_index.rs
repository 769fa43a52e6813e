//! The index of a sharded checkpoint, beside two shards that are valid.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::beside_shards("fuzz.index.json", data);
    synth_fuzz::read_checkpoint(&path);
});
