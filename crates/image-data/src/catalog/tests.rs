use std::path::Path;

use anyhow::{Context, Result};

use super::*;

/// Files that are listed, never decoded.
fn touch(dir: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().context("parent")?)?;
        std::fs::write(path, [])?;
    }
    Ok(())
}

fn open(dir: &Path) -> crate::Result<Catalog> {
    Catalog::open(dir, &CatalogConfig::default())
}

fn names(catalog: &Catalog, split: Split) -> Vec<String> {
    catalog.of_split(split).map(|entry| entry.name.clone()).collect()
}

fn error_of(dir: &Path) -> Result<String> {
    Ok(open(dir).err().context("opened")?.to_string())
}

/// Entries as (name, class name).
fn classed(catalog: &Catalog) -> Vec<(&str, &str)> {
    let class = |entry: &Entry| entry.class.map(|i| catalog.classes()[i as usize].as_str());
    let entries = catalog.entries().iter();
    entries.map(|entry| (entry.name.as_str(), class(entry).unwrap_or("-"))).collect()
}

#[test]
fn lists_say_what_belongs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    touch(dir.path(), &["a/1.png", "a/2.png", "images/s.png", "images/t.webp", "flat.png"])?;
    std::fs::write(at("train.txt"), "\u{feff}a/2.png\r\n\r\ns\r\nflat.png\r\n")?;
    std::fs::write(at("val.txt"), "a/1.png\nt\n")?;
    let catalog = open(dir.path())?;
    assert_eq!(names(&catalog, Split::Train), ["a/2.png", "images/s.png", "flat.png"]);
    assert_eq!(names(&catalog, Split::Val), ["a/1.png", "images/t.webp"]);
    assert_eq!(names(&catalog, Split::All).len(), 5);
    assert!(catalog.classes().is_empty());
    assert!(catalog.description().contains("train.txt and val.txt"));

    for line in ["nowhere", "../a/1.png", "/etc/passwd", "a/../../x.png"] {
        std::fs::write(at("train.txt"), format!("a/1.png\n{line}\n"))?;
        let message = error_of(dir.path())?;
        assert!(message.contains("train.txt:2") && message.contains(line), "{message}");
    }
    // One of many stems may be missing: reading it names the file.
    std::fs::write(at("train.txt"), "nowhere\ns\n")?;
    assert_eq!(names(&open(dir.path())?, Split::Train), ["images/nowhere.jpg", "images/s.png"]);
    std::fs::remove_file(at("val.txt"))?;
    let catalog = open(dir.path())?;
    assert!(catalog.warnings()[0].contains("val.txt"), "{:?}", catalog.warnings());
    std::fs::write(at("val.txt"), "s\n")?;
    std::fs::remove_file(at("train.txt"))?;
    assert!(error_of(dir.path())?.contains("no train.txt"));
    Ok(())
}

#[test]
fn lists_may_name_classes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    touch(dir.path(), &["a b.jpg", "c.jpg", "d.jpg"])?;
    std::fs::write(dir.path().join("train.txt"), "a b.jpg 2\nc.jpg 0\n")?;
    std::fs::write(dir.path().join("val.txt"), "d.jpg 2\n")?;
    std::fs::write(dir.path().join("classes.txt"), "fox\nhen\nowl\n")?;
    let catalog = open(dir.path())?;
    assert_eq!(catalog.classes(), ["fox", "hen", "owl"]);
    assert_eq!(classed(&catalog), [("a b.jpg", "owl"), ("c.jpg", "fox"), ("d.jpg", "owl")]);
    Ok(())
}

#[test]
fn a_list_file_stands_for_itself() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    touch(dir.path(), &["here/a.png", "there/b.png", "there/c.png"])?;
    let absolute = at("there/b.png");
    std::fs::write(at("here/xx_train.txt"), format!("a.png\n{}\n", absolute.display()))?;
    std::fs::write(at("here/xx_test.txt"), "../there/c.png\n")?;
    let catalog = open(&at("here/xx_train.txt"))?;
    let files = |split| -> Vec<_> { catalog.of_split(split).map(|e| e.picture.path()).collect() };
    assert_eq!(files(Split::Train), [at("here/a.png"), absolute]);
    assert_eq!(catalog.entries()[0].name, "a.png");
    assert_eq!(files(Split::Val), [at("here/../there/c.png")]);
    Ok(())
}

#[test]
fn without_lists_a_hash_holds_some_out() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pictures: Vec<String> = (0..40).map(|i| format!("c{}/{i}.png", i % 3)).collect();
    touch(dir.path(), &pictures.iter().map(String::as_str).collect::<Vec<_>>())?;
    touch(dir.path(), &["top.png"])?;
    let config = CatalogConfig { val_fraction: 0.3, ..CatalogConfig::default() };
    let catalog = Catalog::open(dir.path(), &config)?;
    let held_out = names(&catalog, Split::Val);
    assert_eq!(names(&catalog, Split::All).len(), 41);
    assert!((5..20).contains(&held_out.len()), "{}", held_out.len());
    touch(dir.path(), &["new.png"])?;
    let more = names(&Catalog::open(dir.path(), &config)?, Split::Val);
    assert!(held_out.iter().all(|name| more.contains(name)));

    let flat = CatalogConfig { recursive: false, ..config };
    assert_eq!(names(&Catalog::open(dir.path(), &flat)?, Split::All), ["new.png", "top.png"]);
    Ok(())
}

#[test]
fn class_folders_number_their_classes_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    touch(dir.path(), &["tulip/1.jpg", "daisy/2.jpg", "daisy/deep/3.jpg", ".hidden/4.jpg"])?;
    let catalog = open(dir.path())?;
    assert_eq!(catalog.classes(), ["daisy", "tulip"]);
    let expected =
        [("daisy/2.jpg", "daisy"), ("daisy/deep/3.jpg", "daisy"), ("tulip/1.jpg", "tulip")];
    assert_eq!(classed(&catalog), expected);
    assert!(catalog.description().starts_with("class folders (2 classes)"));

    // The same with the split on top, as ImageNet comes; one class is held out only.
    let dir = tempfile::tempdir()?;
    touch(dir.path(), &["train/b/1.png", "train/c/2.png", "val/a/3.png", "val/b/4.png"])?;
    let catalog = open(dir.path())?;
    assert_eq!(catalog.classes(), ["a", "b", "c"]);
    assert_eq!(names(&catalog, Split::Val), ["val/a/3.png", "val/b/4.png"]);
    Ok(())
}

#[test]
fn captions_come_with_pictures() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    touch(dir.path(), &["images/a.png", "images/b.png", "images/c.png"])?;
    let lines = r#"{"file": "images/a.png", "caption": "an a", "text": "long a", "split": "val"}
        {"file_name": "./images/b.png", "text": "a b", "split": "train", "class": "late"}"#;
    std::fs::write(at("captions.jsonl"), lines)?;
    let catalog = open(dir.path())?;
    let captions: Vec<_> = catalog.entries().iter().map(|e| e.caption.as_deref()).collect();
    assert_eq!(captions, [Some("an a"), Some("a b"), None]);
    assert_eq!(names(&catalog, Split::Val), ["images/a.png"]);
    assert!(catalog.description().contains("captions for 2 of 3 from captions.jsonl"));
    let config = CatalogConfig { caption_field: "text".into(), ..CatalogConfig::default() };
    let longer = Catalog::open(dir.path(), &config)?;
    assert_eq!(longer.entries()[0].caption.as_deref(), Some("long a"));

    for (line, expected) in [("[1]", "object"), ("{\"caption\": \"x\"}", "no file"), ("{", "EOF")] {
        std::fs::write(at("captions.jsonl"), format!("{{\"file\": \"x.png\"}}\n{line}\n"))?;
        let message = error_of(dir.path())?;
        assert!(message.contains("captions.jsonl:2") && message.contains(expected), "{message}");
    }
    std::fs::remove_file(at("captions.jsonl"))?;
    std::fs::write(at("images/b.txt"), " beside\n")?;
    assert_eq!(open(dir.path())?.entries()[1].caption.as_deref(), Some("beside"));
    Ok(())
}

#[test]
fn maps_belong_to_pictures_of_their_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    touch(dir.path(), &["images/x/a.jpg", "images/b.jpg", "labels/x/a.png", "labels/b.png"])?;
    touch(dir.path(), &["depth/x/a.png"])?;
    std::fs::write(at("classes.json"), r##"[{"id": 0, "name": "sky", "color": "#00F"}]"##)?;
    let catalog = open(dir.path())?;
    assert_eq!(names(&catalog, Split::All), ["images/b.jpg", "images/x/a.jpg"]);
    let a = &catalog.entries()[1];
    assert_eq!(a.labels, Some(Location::File(at("labels/x/a.png"))));
    assert_eq!(a.depth, Some(Location::File(at("depth/x/a.png"))));
    assert_eq!(catalog.label_classes()[0].name, "sky");
    assert!(catalog.warnings()[0].contains("1 label or depth maps are missing"));

    for (text, reason) in [
        ("{\"0\": \"sky\"}", "expected a sequence"),
        ("[{\"id\": 0}]", "missing field `name`"),
        ("[{\"id\": 0, \"name\": \"sky\"}", "EOF"),
        (r#"[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]"#, "id 3 comes twice"),
    ] {
        std::fs::write(at("classes.json"), text)?;
        let message = error_of(dir.path())?;
        let named = message.starts_with(&at("classes.json").display().to_string());
        assert!(named && message.contains(reason), "{message}");
    }

    // Only maps: they are the pictures, too. And maps from elsewhere, for other pictures.
    let only = tempfile::tempdir()?;
    touch(only.path(), &["labels/a.png", "labels/b.png"])?;
    std::fs::write(only.path().join("train.txt"), "a\n")?;
    std::fs::write(only.path().join("val.txt"), "b\n")?;
    let catalog = open(only.path())?;
    assert_eq!(names(&catalog, Split::Train), ["labels/a.png"]);
    assert_eq!(catalog.entries()[0].labels, Some(catalog.entries()[0].picture.clone()));
    let plain = tempfile::tempdir()?;
    touch(plain.path(), &["images/a.png"])?;
    let labels = only.path().join("labels");
    let config = CatalogConfig { labels: labels.clone(), ..CatalogConfig::default() };
    let catalog = Catalog::open(plain.path(), &config)?;
    assert_eq!(catalog.entries()[0].labels, Some(Location::File(labels.join("a.png"))));
    Ok(())
}

#[test]
fn what_is_no_dataset_is_said_with_what_would_be() -> Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(error_of(dir.path())?.contains("the folder is empty"));
    touch(dir.path(), &["notes.md", "deep/data.csv"])?;
    let message = error_of(dir.path())?;
    assert!(message.contains("only deep, notes.md") && message.contains("captions.jsonl"));
    let message = error_of(&dir.path().join("notes.md"))?;
    assert!(message.contains("neither a .tar shard nor a .txt list"), "{message}");
    assert!(error_of(&dir.path().join("missing"))?.contains("missing"));
    Ok(())
}

#[test]
fn the_hash_is_spread_evenly_and_pinned() {
    let n = 20_000;
    let below = (0..n).filter(|i| unit_hash(&format!("images/{i:05}.png")) < 0.05).count();
    assert!((900..1100).contains(&below), "{below}");
    // A change here moves pictures between training and validation.
    assert_eq!((unit_hash("images/a.png") * 1e9).floor(), 120_476_759.0);
}
