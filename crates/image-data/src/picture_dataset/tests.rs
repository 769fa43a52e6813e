use std::path::Path;

use anyhow::{Context, Result};
use image::{GrayImage, Luma, Rgb, RgbImage, imageops};
use proptest::prelude::*;

use super::*;
use crate::resize::Interpolation;
use crate::{CatalogConfig, Crop, ResizeRule, example_rng, save_png};

/// A picture whose red is its number and whose other channels are a ramp.
fn numbered(number: u8, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([number, (x * 5) as u8, (y * 5) as u8]))
}

fn write(dir: &Path, name: &str, number: u8) -> Result<()> {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().context("parent")?)?;
    Ok(save_png(&path, &numbered(number, 20, 12), &[], false)?)
}

fn open(dir: &Path, view: ViewConfig) -> crate::Result<PictureDataset> {
    let catalog = Catalog::open(dir, &CatalogConfig::default())?;
    PictureDataset::new(&catalog, Split::All, view)
}

const RULES: [ResizeRule; 4] = [
    ResizeRule::Taming,
    ResizeRule::TamingCubic,
    ResizeRule::Adm,
    ResizeRule::Scales { smallest: 0, largest: 16, whole: 0.3 },
];

#[test]
fn examples_depend_on_seed_epoch_and_index_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for i in 0..4 {
        write(dir.path(), &format!("{i}.png"), i)?;
    }
    for resize in RULES {
        let view = ViewConfig { crop: Crop::Random, flip: true, resize, ..ViewConfig::new(8) };
        let cached = open(dir.path(), view.clone())?;
        let uncached = open(dir.path(), ViewConfig { cache_bytes: 0, ..view })?;
        let mut distinct = std::collections::HashSet::new();
        for epoch in 0..20 {
            for index in 0..4 {
                let example = cached.get(index, &mut example_rng(5, epoch, index))?;
                assert_eq!(example, uncached.get(index, &mut example_rng(5, epoch, index))?);
                assert_eq!(example.image.dimensions(), (8, 8));
                assert_eq!(example.name, format!("{index}.png"));
                distinct.insert(example.image.into_raw());
            }
        }
        // 4 pictures, 6 or more places, 2 sides: most of the 80 draws differ.
        assert!(distinct.len() > 25, "{resize:?}: {}", distinct.len());
    }
    Ok(())
}

#[test]
fn centre_crops_are_the_reference_s() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "0.png", 7)?;
    for (rule, interpolation) in [
        (ResizeRule::Taming, Interpolation::Linear),
        (ResizeRule::TamingCubic, Interpolation::Cubic),
    ] {
        let dataset = open(dir.path(), ViewConfig { resize: rule, ..ViewConfig::new(8) })?;
        let image = dataset.get(0, &mut example_rng(0, 0, 0))?.image;
        let resized = resize::resize_u8(&numbered(7, 20, 12), 13, 8, interpolation)?;
        assert_eq!(image, resize::crop(&resized, 2, 0, 8)?);
        assert!(dataset.get(1, &mut example_rng(0, 0, 0)).is_err());
    }
    let adm = open(dir.path(), ViewConfig { resize: ResizeRule::Adm, ..ViewConfig::new(5) })?;
    let image = adm.get(0, &mut example_rng(0, 0, 0))?.image;
    assert_eq!(image, resize::adm::center_crop(&numbered(7, 20, 12), 5)?);
    Ok(())
}

#[test]
fn random_adm_crops_are_the_reference_s() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "0.png", 7)?;
    let view = ViewConfig { resize: ResizeRule::Adm, crop: Crop::Random, ..ViewConfig::new(5) };
    let dataset = open(dir.path(), view)?;
    for epoch in 0..10 {
        let image = dataset.get(0, &mut example_rng(0, epoch, 0))?.image;
        let mut rng = example_rng(0, epoch, 0);
        let expected = resize::adm::random_crop(&numbered(7, 20, 12), 5, (0.8, 1.0), &mut rng)?;
        assert_eq!(image, expected);
    }
    Ok(())
}

#[test]
fn flips_mirror_half_of_the_examples() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "0.png", 7)?;
    let plain = open(dir.path(), ViewConfig::new(8))?.get(0, &mut example_rng(0, 0, 0))?.image;
    let dataset = open(dir.path(), ViewConfig { flip: true, ..ViewConfig::new(8) })?;
    let mut flipped = 0;
    for epoch in 0..200 {
        let image = dataset.get(0, &mut example_rng(0, epoch, 0))?.image;
        if image != plain {
            assert_eq!(image, imageops::flip_horizontal(&plain));
            flipped += 1;
        }
    }
    assert!((70..130).contains(&flipped), "{flipped}");
    Ok(())
}

/// A picture whose channels are x, y and 0, with a label map of x and a depth map of y.
fn write_pair(dir: &Path, size: (u32, u32)) -> Result<()> {
    for folder in ["images", "labels", "depth"] {
        std::fs::create_dir_all(dir.join(folder))?;
    }
    let image = RgbImage::from_fn(size.0, size.1, |x, y| Rgb([x as u8, y as u8, 0]));
    image.save(dir.join("images/a.png"))?;
    GrayImage::from_fn(size.0, size.1, |x, _| Luma([x as u8])).save(dir.join("labels/a.png"))?;
    GrayImage::from_fn(size.0, size.1, |_, y| Luma([y as u8])).save(dir.join("depth/a.png"))?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Where nothing is scaled, every pixel of the maps says where its picture's pixel
    /// was; where something is, they agree within a pixel of the original.
    #[test]
    fn maps_share_crop_and_flip(
        width in 16_u32..60,
        height in 16_u32..60,
        size in 4_u32..17,
        rule in 0_usize..4,
        seed in any::<u64>(),
    ) {
        let fail = |e: anyhow::Error| TestCaseError::fail(format!("{e:#}"));
        let dir = tempfile::tempdir().map_err(|e| fail(e.into()))?;
        write_pair(dir.path(), (width, height)).map_err(fail)?;
        let resize = match RULES[rule] {
            ResizeRule::Scales { whole, .. } => {
                ResizeRule::Scales { smallest: 0, largest: size + 9, whole }
            },
            rule => rule,
        };
        let view = ViewConfig { crop: Crop::Random, flip: true, resize, ..ViewConfig::new(size) };
        let dataset = open(dir.path(), view).map_err(|e| fail(e.into()))?;
        let example = dataset.get(0, &mut example_rng(seed, 0, 0)).map_err(|e| fail(e.into()))?;
        let (labels, depth) = (example.labels.as_ref(), example.depth.as_ref());
        let (Some(labels), Some(depth)) = (labels, depth) else {
            return Err(TestCaseError::fail("no maps"));
        };
        // Edges: kernels that look further than a pixel fold there.
        let smaller = f64::from(width.min(height));
        let slack = 1.5 + 1.5 * smaller / f64::from(size);
        for (x, y, pixel) in example.image.enumerate_pixels() {
            let label = f64::from(labels.get_pixel(x, y)[0]);
            prop_assert!((label - f64::from(pixel[0])).abs() <= slack, "{label} at {x}, {y}: {pixel:?}");
            let row = f64::from(depth.get_pixel(x, y)[0] + 1.0) / 2.0 * f64::from(height - 1);
            prop_assert!((row - f64::from(pixel[1])).abs() <= slack, "{row} at {x}, {y}: {pixel:?}");
        }
    }
}

#[test]
fn maps_of_another_shape_are_refused_and_smaller_ones_fit() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write_pair(dir.path(), (40, 20))?;
    GrayImage::from_fn(20, 10, |x, _| Luma([2 * x as u8])).save(dir.path().join("labels/a.png"))?;
    let dataset = open(dir.path(), ViewConfig::new(20))?;
    let example = dataset.get(0, &mut example_rng(0, 0, 0))?;
    let labels = example.labels.context("labels")?;
    assert_eq!((labels.dimensions(), labels.get_pixel(0, 0)[0]), ((20, 20), 10));
    GrayImage::new(20, 20).save(dir.path().join("labels/a.png"))?;
    let message = dataset_error(dir.path())?;
    assert!(message.contains("20x20 is another shape") && message.contains("labels"), "{message}");
    std::fs::remove_file(dir.path().join("labels/a.png"))?;
    assert!(dataset_error(dir.path())?.contains("labels"));
    Ok(())
}

fn dataset_error(dir: &Path) -> Result<String> {
    let dataset = open(dir, ViewConfig::new(16))?;
    Ok(dataset.get(0, &mut example_rng(0, 0, 0)).err().context("read")?.to_string())
}

#[test]
fn a_thin_line_is_refused_when_enlarged_beyond_the_limit() -> Result<()> {
    let dir = tempfile::tempdir()?;
    save_png(&dir.path().join("line.png"), &RgbImage::new(5000, 1), &[], false)?;
    let error = open(dir.path(), ViewConfig::new(512))?.get(0, &mut example_rng(0, 0, 0));
    assert!(matches!(error, Err(Error::Limit { .. })), "{error:?}");
    Ok(())
}

#[test]
fn views_have_defaults_and_limits() -> Result<()> {
    let view: ViewConfig = serde_json::from_str("{\"size\": 64}")?;
    assert_eq!(view, ViewConfig::new(64));
    let json = serde_json::to_string(&ViewConfig { crop: Crop::Random, ..view })?;
    assert!(json.contains("\"random\""));
    assert!(serde_json::from_str::<ViewConfig>("{\"size\": 64, \"corp\": 1}").is_err());

    let dir = tempfile::tempdir()?;
    write(dir.path(), "0.png", 7)?;
    assert!(open(dir.path(), ViewConfig::new(0)).is_err());
    for (smallest, largest) in [(0, 7), (9, 8)] {
        let resize = ResizeRule::Scales { smallest, largest, whole: 0.0 };
        assert!(open(dir.path(), ViewConfig { resize, ..ViewConfig::new(8) }).is_err());
    }
    Ok(())
}
