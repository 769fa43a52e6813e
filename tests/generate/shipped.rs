//! The transformer in the repository, as the README uses it.

use anyhow::Result;
use image::RgbImage;

use crate::support::Place;

/// The mean colour of what is not nearly white.
fn colour(picture: &RgbImage) -> [f64; 3] {
    let inked = picture.pixels().filter(|pixel| pixel.0.iter().any(|&value| value < 200));
    let (mut sum, mut count) = ([0.0; 3], 0.0_f64);
    for pixel in inked {
        (0..3).for_each(|i| sum[i] += f64::from(pixel[i]));
        count += 1.0;
    }
    sum.map(|value| value / count.max(1.0))
}

#[test]
fn words_decide_what_the_shipped_model_draws() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/emoji-text");
    let prompts = ["red heart", "deciduous tree", "fish"];
    let args = ["generate", "--model", model, "--seed", "1", "--output", "out", "--prompt"];
    place.run(&[&args[..], &prompts].concat())?.exits(0)?;
    let mut seen = Vec::new();
    for file in ["red-heart-1-00000", "deciduous-tree-1-00001", "fish-1-00002"] {
        let picture = image::open(place.path(&format!("out/{file}.png")))?.to_rgb8();
        assert_eq!(picture.dimensions(), (64, 64));
        seen.push(colour(&picture));
    }
    let [heart, tree, fish] = [seen[0], seen[1], seen[2]];
    assert!(heart[0] > heart[1] + 60.0 && heart[0] > heart[2] + 40.0, "heart: {heart:?}");
    assert!(tree[1] > tree[0] + 20.0 && tree[1] > tree[2], "tree: {tree:?}");
    assert!(fish[2] > fish[0] + 40.0, "fish: {fish:?}");
    Ok(())
}

#[test]
fn a_class_decides_what_the_shipped_flowers_are() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/flowers");
    let args = ["generate", "--model", model, "--seed", "1", "--output", "out", "--count", "2"];
    let classes = ["--class", "sunflower", "--class", "tulip"];
    place.run(&[&args[..], &classes].concat())?.exits(0)?;
    let mut mean = [[0.0; 3]; 2];
    for (class, name) in ["sunflower", "tulip"].into_iter().enumerate() {
        for index in 0..2 {
            let file = format!("out/{name}-1-{:05}.png", 2 * class + index);
            let picture = image::open(place.path(&file))?.to_rgb8();
            assert_eq!(picture.dimensions(), (128, 128));
            let seen = colour(&picture);
            (0..3).for_each(|i| mean[class][i] += seen[i] / 2.0);
        }
    }
    // Yellow has green in it, red has not.
    let [sunflower, tulip] = mean.map(|[red, green, _]| green - red);
    assert!(sunflower > tulip + 30.0, "sunflowers {sunflower:.0}, tulips {tulip:.0}");
    Ok(())
}
