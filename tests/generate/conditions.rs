//! Conditions: maps, and none.

use anyhow::Result;
use serde_json::{Value, json};

use crate::generators::{CODES, Recipe};
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
