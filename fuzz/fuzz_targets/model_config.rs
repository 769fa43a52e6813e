//! `config.json` of our model folders.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    synth_fuzz::read_model_config(data);
});
