//! `--scorer`: another program chooses among candidates. Here it is a shell script.

#![cfg(unix)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::generators::{Recipe, chunk, classes};
use crate::place;
use crate::support::{Place, same_bytes};

/// Answers with the size of the file, and keeps what it was asked.
const LARGEST: &str = r#"while IFS= read -r line; do
    printf '%s\n' "$line" >> asked.jsonl
    path=${line#*\"path\":\"}; path=${path%%\"*}
    echo $(( $(wc -c < "$path") ))
done"#;

const ARGS: [&str; 8] =
    ["generate", "--model", "model", "--class", "1", "goldfish", "--count", "2"];

fn with(place: &Place, name: &str, script: &str) -> Result<String> {
    std::fs::write(place.path(name), script)?;
    Ok(format!("sh '{name}'"))
}

fn recipe(place: &Place, file: &str) -> Result<Value> {
    Ok(serde_json::from_str(&chunk(&place.path(file), "synth")?)?)
}

/// Bytes of a picture's pixels as a PNG without text.
fn plain_size(place: &Place, file: &str) -> Result<f64> {
    let path = place.path("plain.png");
    image_data::save_png(&path, &image::open(place.path(file))?.into_rgb8(), &[], true)?;
    Ok(std::fs::metadata(path)?.len() as f64)
}

#[test]
fn the_best_by_another_program_is_kept_and_drawn_again_without_it() -> Result<()> {
    let place = place()?;
    let scorer = with(&place, "my scorer.sh", LARGEST)?;
    let run = |out: &str, more: &[&str]| -> Result<Vec<String>> {
        place
            .run(&[&ARGS[..], &["--output", out, "--candidates", "4"], more].concat())?
            .exits(0)?;
        place.files(out)
    };
    let files = run("best", &["--scorer", &scorer])?;
    assert_eq!(files.len(), 4, "{files:?}");

    // It was asked about every candidate, and told what each was to show.
    let asked = std::fs::read_to_string(place.path("asked.jsonl"))?;
    let asked = asked.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    assert_eq!(asked.len(), 16);
    assert!(asked.iter().all(|line| line["kind"] == "class"));
    let cats = asked.iter().filter(|line| line["condition"] == "tabby cat" && line["class"] == 1);
    assert_eq!(cats.count(), 8);
    let path = asked[0]["path"].as_str().context("no path")?;
    assert!(path.ends_with(".png") && !std::path::Path::new(path).exists(), "{path} is left");

    // What was kept has the best score, which is the size of what is written, without its text.
    for file in &files {
        let file = format!("best/{file}");
        let candidate = recipe(&place, &file)?["candidate"].clone();
        assert_eq!((&candidate["of"], &candidate["scorer"]), (&json!(4), &json!(scorer)));
        assert!(candidate["bits_per_code"].is_null(), "{candidate}");
        let score = candidate["score"].as_f64().context("no score")?;
        assert_eq!(score, plain_size(&place, &file)?);
        let people = chunk(&place.path(&file), "parameters")?;
        assert!(people.contains("Best of: 4 by sh"), "{people}");
    }
    // The same however it is drawn, and another choice than the likelihood's.
    assert_eq!(run("one", &["--scorer", &scorer, "--batch", "1"])?, files);
    same_bytes(&place.path("best"), &place.path("one"), &files)?;
    let numbers = |out: &str| -> Result<Vec<Value>> {
        let number = |file: &String| {
            Ok(recipe(&place, &format!("{out}/{file}"))?["candidate"]["number"].clone())
        };
        files.iter().map(number).collect()
    };
    run("likeliest", &[])?;
    assert_ne!(numbers("best")?, numbers("likeliest")?);
    let candidate = recipe(&place, &format!("likeliest/{}", files[0]))?["candidate"].clone();
    assert!(candidate["bits_per_code"].is_number() && candidate["scorer"].is_null());

    // Drawn again, a picture needs no scorer.
    std::fs::remove_file(place.path("my scorer.sh"))?;
    for file in &files {
        let file = format!("best/{file}");
        place.run(&["generate", "--from", &file, "--output", "again"])?.exits(0)?;
    }
    same_bytes(&place.path("best"), &place.path("again"), &files)?;
    Ok(())
}

#[test]
fn a_scorer_sees_the_pixels_that_are_written() -> Result<()> {
    let place = place()?;
    place.picture("photo.png", 8, 8)?;
    let scorer = with(&place, "score.sh", LARGEST)?;
    let paste = ["--complete", "photo.png", "--paste", "--border", "2", "--candidates", "3"];
    place.run(&[&ARGS[..], &paste, &["--scorer", &scorer]].concat())?.exits(0)?;
    for file in place.files("generated")? {
        let file = format!("generated/{file}");
        let score = recipe(&place, &file)?["candidate"]["score"].as_f64();
        assert_eq!(score, Some(plain_size(&place, &file)?), "{file}");
    }
    Ok(())
}

#[test]
fn a_scorer_that_fails_hangs_or_babbles_is_one_error() -> Result<()> {
    let place = place()?;
    place.transformer("other", &Recipe::new(classes()))?;
    let cases: [(&str, &[&str]); 7] = [
        ("echo no such model >&2; exit 3", &["exit status: 3", "no such model"]),
        ("read -r line; echo 1; exit 0", &["exit status: 0", "before it had answered"]),
        ("sleep 20", &["no answer in 1 seconds", "flush", "--scorer-timeout"]),
        ("echo Loading; cat", &["\"Loading\"", "stderr"]),
        ("while read -r line; do echo nan; done", &["\"nan\"", "finite"]),
        ("while read -r line; do echo 1; echo 2; done", &["without being asked", "stderr"]),
        ("read -r line; head -c 100000 /dev/zero", &["no finite number"]),
    ];
    for (script, words) in cases {
        let scorer = with(&place, "score.sh", script)?;
        let args = ["--output", "no", "--candidates", "3", "--scorer", &scorer];
        let started = Instant::now();
        let run = place.run(&[&ARGS[..], &args, &["--scorer-timeout", "1"]].concat())?;
        let run = run.exits(2).context(script.to_owned())?;
        for words in [&["--scorer"], words].concat() {
            assert!(run.err.contains(words), "{script}: {words:?} is not in {}", run.err);
        }
        assert!(!run.err.contains("panicked"), "{script}: {}", run.err);
        assert_eq!(run.err.lines().count(), 1, "{}", run.err);
        assert!(place.files("no")?.is_empty(), "{script} left something behind");
        assert!(started.elapsed() < Duration::from_secs(15), "{script} was waited for");
    }
    let refused: [(&[&str], &str); 4] = [
        (&["--candidates", "2", "--scorer", "no-such-program x"], "cannot be started"),
        (&["--candidates", "2", "--scorer", "sh 'x"], "not closed"),
        (&["--scorer", "sh x"], "--candidates"),
        (&["--candidates", "2", "--scorer-timeout", "3"], "--scorer"),
    ];
    for (args, words) in refused {
        let run = place.run(&[&ARGS[..], &["--output", "no"], args].concat())?.exits(2)?;
        assert!(run.err.contains(words), "{args:?}: {}", run.err);
        assert!(place.files("no")?.is_empty(), "{args:?} left something behind");
    }
    Ok(())
}
