//! PNG: the text chunks with our recipe, and the picture.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = synth_fuzz::file("fuzz.png", data);
    synth_fuzz::read_png(&path);
});
