//! Conditions: maps, and none.

use anyhow::Result;
use serde_json::{Value, json};

use crate::generators::{CODES, Recipe, chunk};
use crate::support::{self, Place, same_bytes};

#[test]
fn maps_as_conditions() -> Result<()> {
    let place = Place::new()?;
    let channels = |n: usize| {
        let mut config = support::tiny(2);
        (config.in_channels, config.out_channels) = (n, n);
        config
    };
    place.model("labels", &channels(5), 3)?;
    place.model("depth", &channels(1), 4)?;
    let grid = |input: &str, codec: &str| {
        json!({ "kind": "grid", "input": input, "codec": codec, "grid": [4, 4], "offset": CODES,
                "labels": if codec == "labels" { json!(["sky", "sea", "sand", "sun", "sail"]) }
                          else { Value::Null } })
    };
    place.transformer("from-labels", &Recipe::new(grid("segmentation", "labels")))?;
    place.transformer("from-depth", &Recipe::new(grid("depth", "depth")))?;
    let gray = |name: &str, size: (u32, u32), most: u32| -> Result<()> {
        let value = |x: u32, y: u32| image::Luma([((x / 3 + y / 2) % most) as u8]);
        Ok(image::GrayImage::from_fn(size.0, size.1, value).save(place.path(name))?)
    };
    gray("map.png", (8, 8), 5)?;
    gray("other.png", (8, 8), 3)?;
    gray("large.png", (14, 10), 5)?;
    gray("seven.png", (8, 8), 8)?;
    place.picture("photo.png", 8, 8)?;
    let wide = |x: u32, y: u32| image::Luma([(x * 7000 + y) as u16]);
    image::ImageBuffer::<image::Luma<u16>, Vec<u16>>::from_fn(8, 8, wide)
        .save(place.path("depth16.png"))?;
    let run = |args: &[&str]| place.run(&[&["generate", "--model"], args].concat());
    run(&["from-labels", "--condition", "map.png", "other.png", "--output", "small"])?.exits(0)?;
    run(&["from-labels", "--condition", "large.png", "--output", "large"])?.exits(0)?;
    run(&["from-depth", "--condition", "depth16.png", "map.png", "--output", "deep"])?.exits(0)?;
    assert_eq!(place.files("deep")?.len(), 2);
    assert_eq!(image::image_dimensions(place.path("large/large-0-00000.png"))?, (14, 10));
    // Scaled where the user says so.
    let sized = ["from-labels", "--condition", "large.png", "--width", "8", "--height", "8"];
    run(&[&sized[..], &["--output", "sized"]].concat())?.exits(0)?;
    for (file, words) in [("seven.png", "label 5"), ("photo.png", "colours")] {
        let run = run(&["from-labels", "--condition", file])?.exits(2)?;
        assert!(run.err.contains(words) && run.err.contains(file), "{}", run.err);
    }
    // The map is in the picture: its file is not needed again.
    std::fs::remove_file(place.path("large.png"))?;
    place.run(&["generate", "--from", "large/large-0-00000.png", "--output", "again"])?.exits(0)?;
    same_bytes(&place.path("large"), &place.path("again"), &place.files("large")?)?;
    let line = place.run(&["inspect", "from-labels", "--json"])?.exits(0)?.line("generator")?;
    assert_eq!((&line["input"], &line["first_names"][4]), (&json!("segmentation"), &json!("sail")));
    Ok(())
}

#[test]
fn nothing_is_needed_where_there_is_no_choice() -> Result<()> {
    let place = Place::new()?;
    place.transformer("start", &Recipe::new(json!({ "kind": "start", "token": CODES })))?;
    place.transformer(
        "one",
        &Recipe::new(json!({ "kind": "class", "names": ["picture"], "offset": CODES })),
    )?;
    for model in ["start", "one"] {
        let out = format!("{model}-drawn");
        place.run(&["generate", "--model", model, "--count", "2", "--output", &out])?.exits(0)?;
        assert_eq!(place.files(&out)?, ["picture-0-00000.png", "picture-0-00001.png"]);
    }
    Ok(())
}

#[test]
fn layouts_of_pictures_larger_than_the_models() -> Result<()> {
    let place = Place::new()?;
    let condition = json!({ "kind": "layout", "names": ["cat", "dog"], "categories": 2,
        "max_objects": 3, "vocabulary": 40, "places": "boxes", "encode_crop": true,
        "tell_groups": false, "tell_attributes": false, "offset": CODES });
    place.transformer("model", &Recipe::new(condition))?;
    let layout = |name: &str, crop: Value, dog: [f64; 4]| -> Result<()> {
        let cat = json!({ "category": "cat", "box": [0.0, 0.0, 0.3, 0.5] });
        let mut layout =
            json!({ "objects": [cat, { "category": "dog", "box": dog }], "crop": crop });
        if layout["crop"].is_null() {
            layout = json!({ "objects": layout["objects"] });
        }
        Ok(std::fs::write(place.path(name), layout.to_string())?)
    };
    layout("a.json", Value::Null, [0.6, 0.1, 0.4, 0.9])?;
    layout("b.json", Value::Null, [0.7, 0.7, 0.1, 0.2])?;
    layout("part.json", json!([0.5, 0.0, 0.5, 1.0]), [0.6, 0.1, 0.4, 0.9])?;
    let run = |condition: &str, out: &str, more: &[&str]| -> Result<Vec<String>> {
        let args = ["generate", "--model", "model", "--condition", condition, "--output", out];
        place.run(&[&args[..], more].concat())?.exits(0)?;
        place.files(out)
    };
    let wide = ["--width", "24", "--height", "10", "--count", "2"];
    let files = run("a.json", "one", &[&wide[..], &["--batch", "1"]].concat())?;
    run("a.json", "two", &[&wide[..], &["--batch", "2", "--threads", "1"]].concat())?;
    assert_eq!(files, ["a-0-00000.png", "a-0-00001.png"]);
    same_bytes(&place.path("one"), &place.path("two"), &files)?;
    // The objects are in the picture: their file is not needed again.
    let replay = ["generate", "--from", "one/a-0-00001.png", "--output", "again"];
    let pixels =
        |file: &str| -> Result<image::RgbImage> { Ok(image::open(place.path(file))?.into_rgb8()) };
    run("b.json", "other", &wide)?;
    run("part.json", "part", &wide)?;
    std::fs::rename(place.path("a.json"), place.path("gone.json"))?;
    place.run(&replay)?.exits(0)?;
    same_bytes(&place.path("one"), &place.path("again"), &files[1..])?;
    // Objects decide, also those that only later windows have in them.
    let (one, other) = (pixels("one/a-0-00000.png")?, pixels("other/b-0-00000.png")?);
    assert_eq!(one.dimensions(), (24, 10));
    assert_ne!(one, other);
    assert_ne!(one, pixels("part/part-0-00000.png")?);

    // At the training size the layout is told once, whole, as before.
    let small = run("gone.json", "small", &[])?;
    let recipe: Value =
        serde_json::from_str(&chunk(&place.path("small").join(&small[0]), "synth")?)?;
    assert!(recipe.to_string().contains("\"tokens\""), "{recipe}");
    assert!(!recipe.to_string().contains("\"scene\""), "{recipe}");
    let score = |layout: &str| -> Result<Value> {
        let args = ["score", "one/a-0-00000.png", "--model", "model", "--full-size", "--json"];
        let run = place.run(&[&args[..], &["--condition", layout]].concat())?.exits(0)?;
        Ok(run.line("picture")?["bits_per_code"].clone())
    };
    assert_ne!(score("gone.json")?, score("b.json")?);
    let args = ["generate", "--model", "model", "--condition", "b.json", "--width", "6"];
    let run = place.run(&[&args[..], &["--output", "no"]].concat())?.exits(2)?;
    assert!(run.err.contains("8x8"), "{}", run.err);
    Ok(())
}
