//! What cannot be, said in one message.

use anyhow::{Context, Result};
use serde_json::json;

use crate::generators::{CODES, Recipe, TOKENIZER, classes};
use crate::{place, support};

#[test]
fn one_clear_message_for_everything_that_cannot_be() -> Result<()> {
    let place = place()?;
    place.transformer(
        "text",
        &Recipe {
            tokenizer: Some(TOKENIZER),
            ..Recipe::new(json!({ "kind": "text", "tokens": 3, "offset": CODES + 1, "pad": CODES,
                              "null": CODES }))
        },
    )?;
    place.transformer(
        "mute",
        &Recipe::new(json!({ "kind": "text", "tokens": 3, "offset": CODES + 1, "pad": CODES })),
    )?;
    place.transformer("broken", &Recipe { spoiled: Some(f32::NAN), ..Recipe::new(classes()) })?;
    place.transformer("start", &Recipe::new(json!({ "kind": "start", "token": CODES })))?;
    place.transformer(
        "image",
        &Recipe::new(json!({ "kind": "grid", "input": "image", "grid": [4, 4] })),
    )?;
    place.transformer("greedy-eyes", &Recipe::new(classes()))?;
    place.picture("small.png", 6, 8)?;
    place.picture("wide.png", 8, 10)?;
    place.transformer("narrow", &Recipe { width: 40, ..Recipe::new(classes()) })?;
    let cases: [(&[&str], &[&str]); 28] = [
        (&["--model", "model", "--class", "goldfisch"], &["goldfisch", "\"goldfish\""]),
        (&["--model", "model", "--class", "3"], &["no class 3", "numbered from 0"]),
        (&["--model", "model"], &["takes a class", "--class"]),
        (&["--model", "model", "--prompt", "red"], &["takes a class", "not a text"]),
        (&["--model", "model", "--condition", "wide.png"], &["takes a class", "not a picture"]),
        (&["--model", "start", "--class", "1"], &["unconditional"]),
        (&["--model", "image", "--class", "1"], &["takes a picture"]),
        (&["--model", "image", "--condition", "small.png"], &["6x8", "8x8"]),
        (
            &["--model", "image", "--condition", "wide.png", "--complete", "small.png"],
            &["8x10", "6x8"],
        ),
        (&["--model", "text", "--prompt", "red green red apple"], &["4 tokens", "3 at most"]),
        (&["--model", "mute", "--prompt", "red"], &["mute", "tokenizer.json"]),
        (&["--model", "mute", "--prompt", "red", "--cfg-scale", "2"], &["tokenizer.json"]),
        (&["--model", "start", "--cfg-scale", "2"], &["cannot be guided"]),
        (&["--model", "broken", "--class", "0"], &["NaN", "weights"]),
        (&["--model", "model", "--class", "0", "--top-k", "0"], &["top-k 0"]),
        (&["--model", "model", "--class", "0", "--top-p", "0"], &["top-p 0", "(0, 1]"]),
        (&["--model", "model", "--class", "0", "--top-p", "1.01"], &["top-p 1.01"]),
        (&["--model", "model", "--class", "0", "--temperature", "0"], &["temperature 0"]),
        (&["--model", "model", "--class", "0", "--cfg-scale", "0.5"], &["cfg-scale 0.5"]),
        (&["--model", "model", "--class", "0", "--width", "6"], &["6x8", "8x8"]),
        (
            &["--model", "model", "--class", "0", "--complete", "wide.png", "--keep", "1"],
            &["--keep 1"],
        ),
        (&["--model", "model", "--class", "0", "--shard", "0/2"], &["i from 1 to n"]),
        (&["--model", "model", "--class", "0", "--shard", "1/2", "--grid"], &["--shard"]),
        (
            &["--model", "narrow", "--class", "0", "--weights", "q8"],
            &["blocks of 32", "40", "bf16"],
        ),
        (&["--model", "model", "--class", "0", "--weights", "q5"], &["q5", "q8, q4"]),
        (&["--from", "small.png", "--weights", "q8"], &["--from", "--weights"]),
        (&["--model", "vqgan"], &["vq_autoencoder"]),
        (&["--class", "0"], &["--model"]),
    ];
    for (args, words) in cases {
        let run = place.run(&[&["generate", "--output", "no"], args].concat())?;
        let run = run.exits(2).context(format!("{args:?}"))?;
        for words in words {
            assert!(run.err.contains(words), "{args:?}: {words:?} is not in {}", run.err);
        }
        assert!(!run.err.contains("panicked"), "{}", run.err);
        assert!(place.files("no")?.is_empty(), "{args:?} left something behind");
    }
    place.run(&["generate", "--model", "nowhere"])?.exits(1)?;
    place.run(&["generate", "--model", "image", "--condition", "nowhere.png"])?.exits(1)?;
    // What works.
    place.run(&["generate", "--model", "text", "--prompt", "red apple", "green"])?.exits(0)?;
    place.run(&["generate", "--model", "image", "--condition", "wide.png"])?.exits(0)?;
    assert_eq!(place.files("generated")?.len(), 3);
    Ok(())
}

#[test]
fn another_codec_is_refused() -> Result<()> {
    let place = place()?;
    std::fs::remove_dir_all(place.path("vqgan"))?;
    let run = place.run(&["generate", "--model", "model", "--class", "0"])?.exits(2)?;
    assert!(run.err.contains("--first-stage"), "{}", run.err);
    place.model("vqgan", &support::tiny(2), 7)?;
    let run = place.run(&["generate", "--model", "model", "--class", "0"])?.exits(2)?;
    assert!(run.err.contains("not the first stage"), "{}", run.err);
    Ok(())
}
