//! `synth-cli encode`, `decode` and `inspect`, as a user runs them.

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use checkpoints::codes_file::CodesFile;
use serde_json::json;
use support::{Place, same_bytes, tiny};

fn place() -> Result<Place> {
    let place = Place::new()?;
    place.model("model", &tiny(3), 1)?;
    for (name, w, h) in
        [("in/a.png", 33, 17), ("in/sub/b.png", 24, 40), ("in/c.png", 33, 17), ("d.png", 1, 1)]
    {
        place.picture(name, w, h)?;
    }
    Ok(place)
}

#[test]
fn encode_then_decode_is_reconstruct_byte_for_byte() -> Result<()> {
    let place = place()?;
    place.run(&["reconstruct", "--model", "model", "in", "d.png"])?.exits(0)?;
    place.run(&["encode", "--model", "model", "in", "d.png"])?.exits(0)?;
    assert_eq!(
        place.files("codes")?,
        [
            "a.codes.safetensors",
            "c.codes.safetensors",
            "d.codes.safetensors",
            "sub/b.codes.safetensors"
        ]
    );
    place.run(&["decode", "--model", "model", "codes"])?.exits(0)?;
    let files = place.files("reconstructed")?;
    assert_eq!(files, place.files("decoded")?);
    same_bytes(&place.path("reconstructed"), &place.path("decoded"), &files)?;

    let codes = CodesFile::read(place.path("codes/a.codes.safetensors"))?;
    assert_eq!(codes.grid, (5, 9));
    let mut different = codes.codes.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 3, "a test on one code alone says little: {different:?}");
    Ok(())
}

#[test]
fn one_file_of_all() -> Result<()> {
    let place = place()?;
    let args = ["encode", "--model", "model", "in/a.png", "in/c.png", "--single", "all/x.st"];
    place.run(&[&args[..], &["--batch", "8"]].concat())?.exits(0)?;
    let all = CodesFile::read(place.path("all/x.st"))?;
    let names: Vec<_> = all.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["a.png", "c.png"]);
    let run = place.run(&args)?.exits(2)?;
    assert!(run.err.contains("exists already"), "{}", run.err);

    place.run(&["decode", "--model", "model", "all/x.st", "--batch", "2"])?.exits(0)?;
    place.run(&["reconstruct", "--model", "model", "in/a.png", "in/c.png"])?.exits(0)?;
    let files = place.files("reconstructed")?;
    same_bytes(&place.path("reconstructed"), &place.path("decoded"), &files)?;

    // Another grid does not fit into the file: it is reported, the rest is kept.
    let args = ["encode", "--model", "model", "in", "--single", "y.st", "--json"];
    let run = place.run(&args)?.exits(2)?;
    let failure = run.line("failure")?;
    assert_eq!(failure["source"], "in/sub/b.png");
    assert!(run.err.contains("6x10") && run.err.contains("9x5"), "{}", run.err);
    assert_eq!(CodesFile::read(place.path("y.st"))?.items.len(), 2);
    Ok(())
}

#[test]
fn codes_of_another_codec_are_refused() -> Result<()> {
    let place = place()?;
    place.model("other", &tiny(3), 2)?;
    place.run(&["encode", "--model", "model", "in/a.png"])?.exits(0)?;
    let run = place.run(&["decode", "--model", "other", "codes"])?.exits(2)?;
    let sha256 = |model: &str| -> Result<String> {
        let line = place.run(&["inspect", model, "--json"])?.exits(0)?.line("model")?;
        Ok(line["sha256"].as_str().context("no sha256")?.to_owned())
    };
    let (own, other) = (sha256("model")?, sha256("other")?);
    assert_ne!(own, other);
    assert!(run.err.contains(&own) && run.err.contains(&other), "{}", run.err);
    assert_eq!(place.files("decoded")?, Vec::<String>::new());
    Ok(())
}

/// Writes a safetensors file of one tensor, byte by byte.
fn safetensors(path: &Path, metadata: &BTreeMap<String, String>, codes: &[u16]) -> Result<()> {
    let bytes: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
    let header = json!({
        "__metadata__": metadata,
        "codes": { "dtype": "U16", "shape": [1, 2, 2], "data_offsets": [0, bytes.len()] },
    });
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(bytes);
    Ok(std::fs::write(path, file)?)
}

#[test]
fn hostile_codes_files() -> Result<()> {
    let place = place()?;
    let folder = place.path("hostile");
    std::fs::create_dir(&folder)?;
    place.picture("tiny.png", 8, 8)?;
    place.run(&["encode", "--model", "model", "tiny.png"])?.exits(0)?;
    let good = place.path("codes/tiny.codes.safetensors");
    let file = checkpoints::TensorFile::open(&good)?;
    let honest = file.metadata().clone();
    let lie = |name: &str, key: &str, value: &str, codes: &[u16]| -> Result<()> {
        let mut metadata = honest.clone();
        metadata.insert(key.to_owned(), value.to_owned());
        safetensors(&folder.join(name), &metadata, codes)
    };
    lie("honest.codes.safetensors", "extra", "", &[0, 1, 2, 3])?;
    lie("beyond.codes.safetensors", "extra", "", &[0, 1, 2, 64])?;
    lie("larger.codes.safetensors", "codebook_len", "65536", &[0, 1, 2, 64])?;
    lie("factor.codes.safetensors", "factor", "7", &[0, 1, 2, 3])?;
    lie("count.codes.safetensors", "items", "[]", &[0, 1, 2, 3])?;
    lie("size.codes.safetensors", "items", "[[\"x\", 800000, 8]]", &[0, 1, 2, 3])?;
    lie("escape.codes.safetensors", "items", "[[\"../../up\\u001b[2J.png\", 8, 8]]", &[0; 4])?;
    lie("hash.codes.safetensors", "codec_sha256", "00", &[0, 1, 2, 3])?;
    std::fs::write(folder.join("empty.codes.safetensors"), "")?;
    std::fs::write(folder.join("text.codes.safetensors"), "{\"codes\": 1}")?;
    let bytes = std::fs::read(&good)?;
    std::fs::write(folder.join("cut.codes.safetensors"), &bytes[..bytes.len() - 3])?;
    std::fs::copy(place.path("model/model.safetensors"), folder.join("m.codes.safetensors"))?;

    let run = place.run(&["decode", "--model", "model", "hostile", "--json"])?.exits(2)?;
    let files = place.files("decoded")?;
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().any(|name| name == "tiny.png"), "{files:?}");
    assert!(files.iter().all(|name| !name.chars().any(char::is_control)), "{files:?}");
    assert!(!run.err.contains('\u{1b}') && !run.out.contains('\u{1b}'));
    for bad in ["beyond", "larger", "factor", "count", "size", "hash", "empty", "text", "cut", "m"]
    {
        let name = format!("hostile/{bad}.codes.safetensors");
        ensure!(run.err.contains(&name), "nothing is said of {bad}: {}", run.err);
    }
    assert_eq!(run.lines("failure")?.len(), 10);
    Ok(())
}

#[test]
fn inspect_tells_what_things_are() -> Result<()> {
    let place = place()?;
    place.run(&["encode", "--model", "model", "in/a.png"])?.exits(0)?;
    place.run(&["reconstruct", "--model", "model", "in/a.png"])?.exits(0)?;
    let model = place.run(&["inspect", "model", "--json"])?.exits(0)?.line("model")?;
    assert_eq!((&model["factor"], &model["codes"]), (&4.into(), &64.into()));
    assert_eq!(model["provenance"], json!({ "data": "a formula" }));
    let codes = "codes/a.codes.safetensors";
    let codes = place.run(&["inspect", codes, "--json"])?.exits(0)?.line("codes")?;
    assert_eq!(codes["grid"], json!([9, 5]));
    assert_eq!(codes["codec_sha256"], model["sha256"]);
    let picture = place.run(&["inspect", "reconstructed/a.png", "--json"])?.exits(0)?;
    let picture = picture.line("picture")?;
    assert_eq!(picture["size"], json!([33, 17]));
    assert_eq!(picture["synth"]["codec_sha256"], model["sha256"]);

    let run = place.run(&["inspect", "model", "in/a.png", "nowhere"])?.exits(2)?;
    assert!(run.out.contains("perplexity") || run.out.contains("parameters"), "{}", run.out);
    assert!(run.err.contains("nowhere"), "{}", run.err);
    place.run(&["inspect", "nowhere"])?.exits(1)?;
    std::fs::write(place.path("text.txt"), "hello")?;
    place.run(&["inspect", "text.txt"])?.exits(2)?;
    Ok(())
}

#[test]
fn nothing_to_decode() -> Result<()> {
    let place = place()?;
    std::fs::create_dir(place.path("empty"))?;
    place.run(&["decode", "--model", "model", "empty"])?.exits(1)?;
    place.run(&["decode", "--model", "model", "nowhere"])?.exits(1)?;
    place.run(&["encode", "--model", "model", "empty"])?.exits(1)?;
    let args = ["encode", "--model", "model", "in", "--single", "x", "--output", "y"];
    place.run(&args)?.exits(2)?;
    Ok(())
}
