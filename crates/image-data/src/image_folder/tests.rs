use std::path::Path;

use anyhow::{Context, Result};
use image::{Rgb, RgbImage};

use super::*;
use crate::{example_rng, save_png};

/// A picture whose red is its number and whose other channels are a ramp.
fn numbered(number: u8, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([number, (x * 5) as u8, (y * 5) as u8]))
}

fn write(dir: &Path, name: &str, number: u8) -> Result<()> {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().context("parent")?)?;
    Ok(save_png(&path, &numbered(number, 20, 12), &[], false)?)
}

fn names(folder: &ImageFolder) -> Vec<String> {
    folder.files().iter().map(|file| super::split::name(file)).collect()
}

fn open(dir: &Path, split: Split) -> crate::Result<ImageFolder> {
    ImageFolder::open(dir, split, FolderConfig::new(8))
}

#[test]
fn lists_say_what_belongs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (i, name) in
        ["a/1.png", "a/2.png", "images/s.png", "images/t.webp", "flat.png"].iter().enumerate()
    {
        write(dir.path(), name, i as u8)?;
    }
    std::fs::write(dir.path().join("train.txt"), "\u{feff}a/2.png\r\n\r\ns\r\nflat.png\r\n")?;
    std::fs::write(dir.path().join("val.txt"), "a/1.png\nt\n")?;
    assert_eq!(names(&open(dir.path(), Split::Train)?), ["a/2.png", "images/s.png", "flat.png"]);
    assert_eq!(names(&open(dir.path(), Split::Val)?), ["a/1.png", "images/t.webp"]);
    assert_eq!(open(dir.path(), Split::All)?.len(), 5);

    for line in ["nowhere", "../a/1.png", "/etc/passwd", "a/../../x.png"] {
        std::fs::write(dir.path().join("train.txt"), format!("a/1.png\n{line}\n"))?;
        let message = open(dir.path(), Split::Train).err().context("opened")?.to_string();
        assert!(message.contains("train.txt:2") && message.contains(line), "{message}");
    }
    std::fs::write(dir.path().join("train.txt"), "nowhere\ns\n")?;
    let folder = open(dir.path(), Split::Train)?;
    let message = folder.get(0, &mut example_rng(0, 0, 0)).err().context("read")?.to_string();
    assert!(message.contains("nowhere") && folder.get(1, &mut example_rng(0, 0, 1)).is_ok());
    std::fs::remove_file(dir.path().join("val.txt"))?;
    let message = open(dir.path(), Split::Val).err().context("opened")?.to_string();
    assert!(message.contains("val.txt"), "{message}");
    Ok(())
}

#[test]
fn without_lists_a_hash_holds_some_out() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for i in 0..40 {
        write(dir.path(), &format!("c{}/{i}.png", i % 3), i)?;
    }
    write(dir.path(), "top.png", 40)?;
    let config = FolderConfig { val_fraction: 0.3, ..FolderConfig::new(8) };
    let open = |split| ImageFolder::open(dir.path(), split, config.clone());
    let (all, train, val) = (open(Split::All)?, open(Split::Train)?, open(Split::Val)?);
    assert_eq!((all.len(), train.len() + val.len()), (41, 41));
    assert!((5..20).contains(&val.len()), "{}", val.len());
    assert!(names(&val).iter().all(|name| !names(&train).contains(name)));
    write(dir.path(), "new.png", 41)?;
    let before: Vec<_> = names(&val);
    assert!(before.iter().all(|name| open(Split::Val).is_ok_and(|f| names(&f).contains(name))));

    let flat = FolderConfig { recursive: false, ..config };
    let flat = ImageFolder::open(dir.path(), Split::All, flat)?;
    assert_eq!(names(&flat), ["new.png", "top.png"]);
    let empty = tempfile::tempdir()?;
    let message = open_error(empty.path())?;
    assert!(message.contains("no pictures"), "{message}");
    assert!(open_error(&empty.path().join("missing"))?.contains("missing"));
    Ok(())
}

fn open_error(dir: &Path) -> Result<String> {
    Ok(open(dir, Split::All).err().context("opened")?.to_string())
}

#[test]
fn examples_depend_on_seed_epoch_and_index_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for i in 0..4 {
        write(dir.path(), &format!("{i}.png"), i)?;
    }
    for resize in [ResizeRule::Taming, ResizeRule::Adm] {
        let config =
            FolderConfig { crop: Crop::Random, flip: true, resize, ..FolderConfig::new(8) };
        let cached = ImageFolder::open(dir.path(), Split::All, config.clone())?;
        let uncached = FolderConfig { cache_bytes: 0, ..config };
        let uncached = ImageFolder::open(dir.path(), Split::All, uncached)?;
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
    let folder = open(dir.path(), Split::All)?;
    let image = folder.get(0, &mut example_rng(0, 0, 0))?.image;
    let resized = resize::resize_u8(&numbered(7, 20, 12), 13, 8, Interpolation::Linear)?;
    assert_eq!(image, resize::crop(&resized, 2, 0, 8)?);
    assert!(folder.get(1, &mut example_rng(0, 0, 0)).is_err());
    assert!(ImageFolder::from_files(vec![], FolderConfig::new(0)).is_err());
    Ok(())
}

#[test]
fn flips_mirror_half_of_the_examples() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write(dir.path(), "0.png", 7)?;
    let plain = open(dir.path(), Split::All)?.get(0, &mut example_rng(0, 0, 0))?.image;
    let config = FolderConfig { flip: true, ..FolderConfig::new(8) };
    let folder = ImageFolder::open(dir.path(), Split::All, config)?;
    let mut flipped = 0;
    for epoch in 0..200 {
        let image = folder.get(0, &mut example_rng(0, epoch, 0))?.image;
        if image != plain {
            assert_eq!(image, imageops::flip_horizontal(&plain));
            flipped += 1;
        }
    }
    assert!((70..130).contains(&flipped), "{flipped}");
    Ok(())
}

#[test]
fn a_thin_line_is_refused_when_enlarged_beyond_the_limit() -> Result<()> {
    let dir = tempfile::tempdir()?;
    save_png(&dir.path().join("line.png"), &RgbImage::new(5000, 1), &[], false)?;
    let folder = ImageFolder::open(dir.path(), Split::All, FolderConfig::new(512))?;
    let error = folder.get(0, &mut example_rng(0, 0, 0));
    assert!(matches!(error, Err(Error::Limit { .. })), "{error:?}");
    Ok(())
}

#[test]
fn configurations_have_defaults() -> Result<()> {
    let config: FolderConfig = serde_json::from_str("{\"size\": 64}")?;
    assert_eq!(config, FolderConfig::new(64));
    let json = serde_json::to_string(&FolderConfig { crop: Crop::Random, ..config.clone() })?;
    assert!(json.contains("\"random\""));
    assert!(serde_json::from_str::<FolderConfig>("{\"size\": 64, \"corp\": 1}").is_err());
    Ok(())
}
