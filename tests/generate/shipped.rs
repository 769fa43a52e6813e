//! The transformers in the repository, as the README uses them.

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

/// The mean colour of the pixels in `part`.
fn mean(picture: &RgbImage, part: &dyn Fn(u32, u32) -> bool) -> [f64; 3] {
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for (_, _, pixel) in picture.enumerate_pixels().filter(|(x, y, _)| part(*x, *y)) {
        (0..3).for_each(|i| sum[i] += f64::from(pixel[i]));
        count += 1.0;
    }
    sum.map(|value: f64| value / count)
}

#[test]
fn words_decide_what_the_shipped_model_draws() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/emoji");
    let prompts = ["red heart", "deciduous tree", "fish"];
    let args = ["generate", "--model", model, "--seed", "1", "--output", "out", "--prompt"];
    place.run(&[&args[..], &prompts].concat())?.exits(0)?;
    let mut seen = Vec::new();
    for file in ["red-heart-1-00000", "deciduous-tree-1-00001", "fish-1-00002"] {
        let picture = image::open(place.path(&format!("out/{file}.png")))?.to_rgb8();
        assert_eq!(picture.dimensions(), (128, 128));
        seen.push(colour(&picture));
    }
    let [heart, tree, fish] = [seen[0], seen[1], seen[2]];
    assert!(heart[0] > heart[1] + 60.0 && heart[0] > heart[2] + 40.0, "heart: {heart:?}");
    assert!(tree[1] > tree[0] + 20.0 && tree[1] > tree[2], "tree: {tree:?}");
    assert!(fish[2] > fish[0] + 40.0, "fish: {fish:?}");
    Ok(())
}

#[test]
fn a_skin_tone_decides_how_dark_a_hand_is() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/emoji");
    let prompts = ["thumbs up, light skin tone", "thumbs up, dark skin tone"];
    let args = ["generate", "--model", model, "--seed", "1", "--output", "out", "--prompt"];
    place.run(&[&args[..], &prompts].concat())?.exits(0)?;
    let mut light = Vec::new();
    for file in place.files("out")? {
        let picture = image::open(place.path(&format!("out/{file}")))?.to_rgb8();
        light.push(colour(&picture).iter().sum::<f64>());
    }
    // The files in the order of their names: dark, light.
    assert_eq!(light.len(), 2);
    assert!(light[0] + 150.0 < light[1], "{light:.0?}");
    Ok(())
}

#[test]
fn a_colour_decides_what_the_shipped_model_draws() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/emoji");
    let prompts = ["blue heart", "green thumbs up", "red fish"];
    let args = ["generate", "--model", model, "--seed", "1", "--output", "out", "--prompt"];
    place.run(&[&args[..], &prompts].concat())?.exits(0)?;
    for (file, most) in
        [("blue-heart-1-00000", 2), ("green-thumbs-up-1-00001", 1), ("red-fish-1-00002", 0)]
    {
        let picture = image::open(place.path(&format!("out/{file}.png")))?.to_rgb8();
        let seen = colour(&picture);
        let others = (0..3).filter(|i| *i != most).map(|i| seen[i]);
        assert!(others.fold(0.0, f64::max) + 20.0 < seen[most], "{file}: {seen:.0?}");
    }
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

#[test]
fn a_map_decides_where_the_shipped_fruit_lie_and_which() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/fruit-scenes");
    // A disk to the left above, of papaya (17) and of plum (18).
    let inside = |x: u32, y: u32| (x as f64 - 44.0).hypot(y as f64 - 48.0) < 34.0;
    for label in [17, 18] {
        let value = |x, y| image::Luma([if inside(x, y) { label } else { 0 }]);
        image::GrayImage::from_fn(128, 128, value).save(place.path(&format!("{label}.png")))?;
    }
    let args = ["generate", "--model", model, "--seed", "1", "--count", "2", "--output", "out"];
    place.run(&[&args[..], &["--condition", "17.png", "18.png"]].concat())?.exits(0)?;
    let mut fruit = [[0.0; 3]; 2];
    for (kind, label) in [17, 18].into_iter().enumerate() {
        for index in 0..2 {
            let file = format!("out/{label}-1-{:05}.png", 2 * kind + index);
            let picture = image::open(place.path(&file))?.to_rgb8();
            assert_eq!(picture.dimensions(), (128, 128));
            let mean = |part: &dyn Fn(u32, u32) -> bool| mean(&picture, part);
            let (disk, floor) = (mean(&inside), mean(&|x, y| x.min(y) > 90));
            let blue = [disk, floor].map(|[_, _, blue]| blue);
            assert!(blue[1] > 140.0 && blue[0] < blue[1] - 50.0, "{file}: {disk:.0?}, {floor:.0?}");
            (0..3).for_each(|i| fruit[kind][i] += disk[i] / 2.0);
        }
    }
    let [papaya, plum] = fruit.map(|[red, green, _]| red.min(green));
    assert!(papaya > plum + 50.0, "papayas {papaya:.0}, plums {plum:.0}");
    Ok(())
}

#[test]
fn depth_decides_where_the_shipped_fruit_lie() -> Result<()> {
    let place = Place::new()?;
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/models/fruit-depth");
    // A ball on a floor that comes nearer, to the left and to the right.
    let inside = |left: f64, x: u32, y: u32| (x as f64 - left).hypot(y as f64 - 60.0) / 30.0;
    for (name, left) in [("left", 40.0), ("right", 88.0)] {
        let value = |x: u32, y: u32| match inside(left, x, y) {
            within if within < 1.0 => 130.0 + 22.0 * (1.0 - within * within).sqrt(),
            _ => 20.0 + 48.0 * f64::from(y) / 127.0,
        };
        let depth = image::GrayImage::from_fn(128, 128, |x, y| image::Luma([value(x, y) as u8]));
        depth.save(place.path(&format!("{name}.png")))?;
    }
    let args = ["generate", "--model", model, "--seed", "1", "--count", "2", "--output", "out"];
    place.run(&[&args[..], &["--condition", "left.png", "right.png"]].concat())?.exits(0)?;
    for (name, own, other, first) in [("left", 40.0, 88.0, 0), ("right", 88.0, 40.0, 2)] {
        for index in first..first + 2 {
            let file = format!("out/{name}-1-{index:05}.png");
            let picture = image::open(place.path(&file))?.to_rgb8();
            assert_eq!(picture.dimensions(), (128, 128));
            let ball = mean(&picture, &|x, y| inside(own, x, y) < 0.8);
            let floor =
                mean(&picture, &|x, y| inside(other, x, y) < 0.8 && inside(own, x, y) > 1.2);
            // Every fruit has less blue in it than any floor.
            assert!(ball[2] < floor[2] - 40.0, "{file}: {ball:.0?}, {floor:.0?}");
        }
    }
    Ok(())
}
