//! The pickle machine alone: the input is the pickle of a zip checkpoint with one
//! storage of 64 bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::file("fuzz.ckpt", &synth_fuzz::zip_with_pickle(data));
    synth_fuzz::read_checkpoint(&path);
});
