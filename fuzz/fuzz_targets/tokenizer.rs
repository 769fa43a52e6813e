//! `tokenizer.json` of our model folders, and the ids of some texts.

#![no_main]

libfuzzer_sys::fuzz_target!(
    // Our reader makes an error of a panic in the library `tokenizers`, so not every panic
    // ends the run, and the log has them; one that comes out of the reader still ends it.
    init: std::panic::set_hook(Box::new(|panic| eprintln!("panic: {panic}"))),
    |data: &[u8]| {
        synth_fuzz::read_tokenizer(data);
    }
);
