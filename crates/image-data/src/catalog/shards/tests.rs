use std::io::{Cursor, Write};

use anyhow::Result;
use proptest::prelude::*;
use tar::{Builder, Header};

use super::*;
use crate::{PictureDataset, Split, ViewConfig};

/// An archive of (name, bytes).
fn archive(members: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes)?;
    }
    Ok(builder.into_inner()?)
}

fn picture(value: u8) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(8, 8, image::Rgb([value; 3]));
    image.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

fn label_map() -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image::GrayImage::new(8, 8).write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

fn open(path: &Path) -> Result<Catalog> {
    Ok(Catalog::open(path, &CatalogConfig::default())?)
}

#[test]
fn members_of_one_key_are_one_example() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (red, blue) = (picture(10)?, picture(20)?);
    let long = format!("{}/c.png", "d".repeat(200));
    let first = archive(&[
        ("./a.cls", b"1"),
        ("./a.png", &red),
        ("./a.txt", b"a red one\n"),
        ("b.seg.png", &label_map()?),
        ("b.json", br#"{"caption": "a blue one", "cls": 0}"#),
        ("b.PNG", &blue),
        ("._a.png", b"resource fork"),
        ("readme", b"no example"),
    ])?;
    std::fs::write(dir.path().join("x-000.tar"), first)?;
    std::fs::write(dir.path().join("x-001.tar"), archive(&[(&long, &red), ("c.cls", b"1")])?)?;
    let catalog = open(dir.path())?;
    let seen: Vec<_> = catalog
        .entries()
        .iter()
        .map(|e| (e.name.as_str(), e.caption.as_deref(), e.labels.is_some()))
        .collect();
    let long = format!("x-001.tar/{long}");
    let expected = [
        ("x-000.tar/a.png", Some("a red one"), false),
        ("x-000.tar/b.PNG", Some("a blue one"), true),
        (&long, None, false),
    ];
    assert_eq!(seen, expected);
    // The third has no class: then the set has none.
    assert!(catalog.classes().is_empty(), "{:?}", catalog.classes());
    assert!(catalog.description().contains("2 tar shards"), "{}", catalog.description());

    let dataset = PictureDataset::new(&catalog, Split::All, ViewConfig::new(8))?;
    let values: Vec<u8> = (0..3)
        .map(|i| {
            use crate::Dataset;
            Ok(dataset.get(i, &mut crate::example_rng(0, 0, i))?.image.get_pixel(3, 3)[0])
        })
        .collect::<Result<_>>()?;
    assert_eq!(values, [10, 20, 10]);
    Ok(())
}

#[test]
fn shards_split_by_name_and_class_by_number() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let red = picture(10)?;
    for (name, class) in
        [("set-train-0.tar", "2"), ("set-train-1.tar", "0"), ("set-val-0.tar", "1")]
    {
        let bytes = archive(&[("k.png", &red), ("k.cls", class.as_bytes())])?;
        std::fs::write(dir.path().join(name), bytes)?;
    }
    let catalog = open(dir.path())?;
    assert_eq!(catalog.classes(), ["0", "1", "2"]);
    let numbers: Vec<_> = catalog.entries().iter().map(|e| (e.class, e.held_out)).collect();
    assert_eq!(numbers, [(Some(2), false), (Some(0), false), (Some(1), true)]);
    // One shard by itself; a plain `tar cf` of class folders.
    let bytes = archive(&[("set/cat/1.png", &red), ("set/dog/1.2.png", &red)])?;
    std::fs::write(dir.path().join("one.tar"), bytes)?;
    let catalog = open(&dir.path().join("one.tar"))?;
    assert_eq!(catalog.classes(), ["cat", "dog"]);
    assert_eq!(catalog.entries()[1].name, "one.tar/set/dog/1.2.png");
    Ok(())
}

#[test]
fn damaged_and_foreign_archives_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let red = picture(10)?;
    let whole = archive(&[("a.png", &red), ("b.png", &red)])?;
    std::fs::write(at("cut.tar"), &whole[..1024 + red.len().next_multiple_of(512) + 20])?;
    let catalog = open(&at("cut.tar"))?;
    assert_eq!(catalog.entries().len(), 1);
    assert!(catalog.warnings()[0].contains("cut.tar: damaged after 1 files: b.png goes on"));

    let mut pax = Header::new_ustar();
    pax.set_entry_type(tar::EntryType::XHeader);
    pax.set_size(1 << 40);
    pax.set_cksum();
    let mut bomb = pax.as_bytes().to_vec();
    bomb.resize(4096, b'7');
    for (name, bytes, expected) in [
        ("text.tar", b"hello, I am no archive".to_vec(), "no pictures in its shards"),
        ("gz.tar", vec![0x1f, 0x8b, 8, 0], "gunzip"),
        ("noise.tar", vec![0x55; 2048], "damaged after 0 files"),
        ("bomb.tar", bomb, "goes on beyond the end"),
        ("empty.tar", Vec::new(), "no pictures in its shards"),
    ] {
        std::fs::File::create(at(name))?.write_all(&bytes)?;
        let message = open(&at(name)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(name) && message.contains(expected), "{message}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the bytes, opening ends, and what is listed lies within the file.
    #[test]
    fn hostile_headers_lead_nowhere(
        place in 0_usize..2048,
        bytes in prop::collection::vec(any::<u8>(), 1..24),
        fix_checksum in any::<bool>(),
    ) {
        let fail = |e: anyhow::Error| TestCaseError::fail(e.to_string());
        let red = picture(10).map_err(fail)?;
        let mut file = archive(&[("a.png", &red), ("b/b.png", &red)]).map_err(fail)?;
        let end = (place + bytes.len()).min(file.len());
        file[place..end].copy_from_slice(&bytes[..end - place]);
        if fix_checksum && place < 512 {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&file[..512]);
            header.set_cksum();
            file[..512].copy_from_slice(header.as_bytes());
        }
        let dir = tempfile::tempdir().map_err(|e| fail(e.into()))?;
        let path = dir.path().join("x.tar");
        std::fs::write(&path, &file).map_err(|e| fail(e.into()))?;
        let (members, _) = index(&path).map_err(|e| fail(e.into()))?;
        prop_assert!(members.len() <= 2 + file.len() / 512);
        for member in members {
            prop_assert!(member.offset + member.len <= file.len() as u64);
        }
    }
}
