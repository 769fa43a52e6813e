//! Pictures to codes, shard by shard: a run that is stopped meanwhile goes on behind
//! the last whole shard.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use checkpoints::codes_file::{CodesFile, CodesItem};
use image_data::{Catalog, Dataset, Split, example_rng};
use pipeline::{Codec, RgbImage};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::codec_id;
use crate::config::PicturesConfig;
use crate::observer::{Event, Observer};
use crate::pictures::{held_out_centres, training_crops};
use crate::transformer::config::TransformerTrainConfig;

/// Pictures in a shard.
const SHARD: usize = 2048;
/// Pictures that the first stage reads at a time.
const BATCH: usize = 16;
const PLAN: &str = "plan.json";

/// The codes of the pictures of `catalog` under the augmentation of `config`, kept in
/// `folder`: to learn from, and held out.
pub(super) fn encode(
    config: &TransformerTrainConfig,
    codec: &Codec,
    catalog: &Catalog,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<(Vec<CodesFile>, Vec<CodesFile>)> {
    let side = config.pictures.side;
    ensure!(
        side.is_multiple_of(codec.factor()),
        "pictures.side = {side} is not a multiple of the first stage's factor {}",
        codec.factor()
    );
    codec.check_pictures()?;
    settle(folder, &plan(config, codec, catalog)?)?;
    let crops = training_crops(catalog, &config.pictures)?;
    let count = crops.len();
    let mut encoder = Encoder { codec, folder, observer, unreadable: 0 };
    let train = encoder.shards("train", count * config.crops, |i| {
        let (crop, index) = (i / count, i % count);
        let example = crops.get(index, &mut example_rng(config.seed, crop as u64, index))?;
        Ok((example.image, example.name))
    })?;
    let held_out = match held_out_centres(catalog, &config.pictures)? {
        Some(centres) => encoder.shards("held_out", centres.len(), |i| {
            let example = centres.get(i, &mut example_rng(config.seed, 0, i))?;
            Ok((example.image, example.name))
        })?,
        None => Vec::new(),
    };
    if encoder.unreadable > 0 {
        let message = format!("{} pictures cannot be read and are left out", encoder.unreadable);
        observer.see(&Event::Warning { message: &message });
    }
    Ok((train, held_out))
}

/// What the codes depend on.
fn plan(config: &TransformerTrainConfig, codec: &Codec, catalog: &Catalog) -> Result<Value> {
    let names = |split| catalog.of_split(split).map(|entry| &entry.name).collect::<Vec<_>>();
    let list = serde_json::to_vec(&(names(Split::Train), names(Split::Val)))?;
    // Where they come from and who decodes them does not matter.
    let pictures = PicturesConfig { workers: 0, cache_mb: 0, ..config.pictures.clone() };
    Ok(json!({
        "codec": codec.sha256(), "seed": config.seed, "crops": config.crops,
        "pictures": pictures, "names": checkpoints::sha256_bytes(&list),
    }))
}

/// Empties `folder` unless its codes were made by `plan`.
fn settle(folder: &Path, plan: &Value) -> Result<()> {
    let place = || folder.display().to_string();
    let file = folder.join(PLAN);
    let known = fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str(&text).ok());
    if known.as_ref() == Some(plan) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(place)?;
    }
    fs::create_dir_all(folder).with_context(place)?;
    let text = serde_json::to_string_pretty(plan)?;
    checkpoints::atomic_write(&file, |file| file.write_all(text.as_bytes()))?;
    Ok(())
}

struct Encoder<'a> {
    codec: &'a Codec,
    folder: &'a Path,
    observer: &'a mut dyn Observer,
    unreadable: usize,
}

impl Encoder<'_> {
    /// The shards of `count` pictures, of which `load` reads one by number.
    fn shards(
        &mut self,
        what: &'static str,
        count: usize,
        load: impl Fn(usize) -> Result<(RgbImage, String)> + Sync,
    ) -> Result<Vec<CodesFile>> {
        let id = codec_id(self.codec);
        let (mut shards, mut known) = (Vec::new(), 0);
        for (number, first) in (0..count).step_by(SHARD).enumerate() {
            let path = self.folder.join(format!("{what}-{number:05}.safetensors"));
            if path.exists() {
                known += SHARD.min(count - first);
                let shard = CodesFile::read(&path)?;
                shard.check_codec(&path, &id)?;
                shards.push(shard);
                continue;
            }
            let mut shard =
                CodesFile { codec: id.clone(), items: Vec::new(), grid: (0, 0), codes: Vec::new() };
            let end = count.min(first + SHARD);
            for start in (first..end).step_by(BATCH) {
                self.observer.see(&Event::Encoding { what, done: start, pictures: count });
                let range = start..end.min(start + BATCH);
                let loaded: Vec<_> = range.into_par_iter().map(&load).collect();
                self.add(loaded, &mut shard)?;
            }
            if !shard.items.is_empty() {
                shard.write(&path)?;
                shards.push(shard);
            }
        }
        if known < count {
            self.observer.see(&Event::Encoding { what, done: count, pictures: count });
        }
        Ok(shards)
    }

    fn add(
        &mut self,
        loaded: Vec<Result<(RgbImage, String)>>,
        shard: &mut CodesFile,
    ) -> Result<()> {
        let mut pictures = Vec::with_capacity(loaded.len());
        for result in loaded {
            match result {
                Ok((picture, name)) => {
                    let (width, height) = (picture.width() as usize, picture.height() as usize);
                    shard.items.push(CodesItem { name, height, width });
                    pictures.push(picture);
                }
                Err(error) => {
                    if self.unreadable == 0 {
                        let message = format!("{error:#}");
                        self.observer.see(&Event::Warning { message: &message });
                    }
                    self.unreadable += 1;
                }
            }
        }
        if !pictures.is_empty() {
            let grid = self.codec.encode_images(&pictures)?;
            let (_, height, width) = grid.dims();
            shard.grid = (height, width);
            shard.codes.extend(grid.to_vec()?);
        }
        Ok(())
    }
}
