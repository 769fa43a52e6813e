//! Pictures to codes, shard by shard: a run that is stopped meanwhile goes on behind
//! the last whole shard.

use std::path::Path;
use std::{fs, mem, thread};

use anyhow::{Context, Result, anyhow, ensure};
use checkpoints::codes_file::{CodesFile, CodesItem};
use image_data::{Catalog, Dataset, Example, Split, example_rng};
use pipeline::Codec;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{Part, codec_id};
use crate::config::PicturesConfig;
use crate::observer::{Event, Observer};
use crate::pictures::{held_out_centres, training_crops};
use crate::run::Limits;
use crate::transformer::config::TransformerTrainConfig;
use crate::transformer::grids::GridCodec;

/// Pictures in a shard: what is lost at most when the process ends meanwhile.
const SHARD: usize = 512;
/// Pictures that the first stage reads at a time.
const BATCH: usize = 16;
const PLAN: &str = "plan.json";

/// The codes of the pictures of `catalog` under the augmentation of `config`, kept in
/// `folder`: to learn from, and held out. With the codec of conditions, their codes too.
/// None if `limits` ask to stop.
pub(super) fn encode(
    config: &TransformerTrainConfig,
    (codec, grids): (&Codec, Option<&GridCodec>),
    catalog: &Catalog,
    folder: &Path,
    limits: Limits,
    observer: &mut dyn Observer,
) -> Result<Option<(Part, Part)>> {
    let side = config.pictures.side;
    ensure!(
        side.is_multiple_of(codec.factor()),
        "pictures.side = {side} is not a multiple of the first stage's factor {}",
        codec.factor()
    );
    codec.check_pictures()?;
    settle(folder, &plan(config, (codec, grids), catalog)?)?;
    let crops = training_crops(catalog, &config.pictures)?;
    let count = crops.len();
    let mut encoder = Encoder { codec, grids, folder, limits, observer, unreadable: 0 };
    let train = encoder.shards("train", count * config.crops, |i| {
        let (crop, index) = (i / count, i % count);
        Ok(crops.get(index, &mut example_rng(config.seed, crop as u64, index))?)
    })?;
    let Some(train) = train else { return Ok(None) };
    let held_out = match held_out_centres(catalog, &config.pictures)? {
        Some(centres) => encoder.shards("held_out", centres.len(), |i| {
            Ok(centres.get(i, &mut example_rng(config.seed, 0, i))?)
        })?,
        None => Some(Part::default()),
    };
    let Some(held_out) = held_out else { return Ok(None) };
    if encoder.unreadable > 0 {
        let message = format!("{} pictures cannot be read and are left out", encoder.unreadable);
        observer.see(&Event::Warning { message: &message });
    }
    Ok(Some((train, held_out)))
}

/// What the codes depend on.
fn plan(
    config: &TransformerTrainConfig,
    (codec, grids): (&Codec, Option<&GridCodec>),
    catalog: &Catalog,
) -> Result<Value> {
    let names = |split| catalog.of_split(split).map(|entry| &entry.name).collect::<Vec<_>>();
    let list = serde_json::to_vec(&(names(Split::Train), names(Split::Val)))?;
    // Where they come from and who decodes them does not matter.
    let pictures = PicturesConfig { workers: 0, cache_mb: 0, ..config.pictures.clone() };
    let mut plan = json!({
        "codec": codec.sha256(), "seed": config.seed, "crops": config.crops, "shard": SHARD,
        "pictures": pictures, "names": checkpoints::sha256_bytes(&list),
    });
    if let Some(grids) = grids {
        plan["condition"] = grids.plan();
    }
    Ok(plan)
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

/// A file of codes that `codec` made.
fn read(path: &Path, codec: &Codec) -> Result<CodesFile> {
    let file = CodesFile::read(path)?;
    file.check_codec(path, &codec_id(codec))?;
    Ok(file)
}

/// What codes of `codec` are added to.
fn empty(codec: &Codec) -> CodesFile {
    CodesFile { codec: codec_id(codec), items: Vec::new(), grid: (0, 0), codes: Vec::new() }
}

struct Encoder<'a> {
    codec: &'a Codec,
    grids: Option<&'a GridCodec>,
    folder: &'a Path,
    limits: Limits,
    observer: &'a mut dyn Observer,
    unreadable: usize,
}

impl Encoder<'_> {
    /// The shards of `count` pictures, of which `load` reads one by number. None if it was
    /// asked to stop; the shards that are whole stay.
    fn shards(
        &mut self,
        what: &'static str,
        count: usize,
        load: impl Fn(usize) -> Result<Example> + Sync,
    ) -> Result<Option<Part>> {
        let (mut shards, mut known) = (Part::default(), 0);
        for (number, first) in (0..count).step_by(SHARD).enumerate() {
            let path = self.folder.join(format!("{what}-{number:05}.safetensors"));
            let beside = self.folder.join(format!("{what}-{number:05}.condition.safetensors"));
            // The pictures' file is written last: where it is, the other one is.
            if path.exists() {
                known += SHARD.min(count - first);
                shards.codes.push(read(&path, self.codec)?);
                if let Some(grids) = self.grids {
                    shards.conditions.push(read(&beside, grids.codec())?);
                }
                continue;
            }
            let mut shard = empty(self.codec);
            let mut conditions = self.grids.map(|grids| (grids, empty(grids.codec())));
            let end = count.min(first + SHARD);
            let batch = |start: usize| -> Vec<Result<Example>> {
                (start..end.min(start + BATCH)).into_par_iter().map(&load).collect()
            };
            let mut loaded = batch(first);
            for start in (first..end).step_by(BATCH) {
                if self.limits.asked() {
                    return Ok(None);
                }
                self.observer.see(&Event::Encoding { what, done: start, pictures: count });
                // The next are read while a GPU encodes these. A CPU has its hands full: there
                // it takes a twelfth longer.
                if self.codec.device().is_cpu() {
                    self.add(mem::take(&mut loaded), &mut shard, &mut conditions)?;
                    loaded = batch(start + BATCH);
                    continue;
                }
                loaded = thread::scope(|scope| -> Result<_> {
                    let next = scope.spawn(|| batch(start + BATCH));
                    self.add(mem::take(&mut loaded), &mut shard, &mut conditions)?;
                    next.join().map_err(|_| anyhow!("a thread that reads pictures ended early"))
                })?;
            }
            if !shard.items.is_empty() {
                if let Some((_, conditions)) = conditions {
                    conditions.write(&beside)?;
                    shards.conditions.push(conditions);
                }
                shard.write(&path)?;
                shards.codes.push(shard);
            }
        }
        if known < count {
            self.observer.see(&Event::Encoding { what, done: count, pictures: count });
        }
        Ok(Some(shards))
    }

    fn add(
        &mut self,
        loaded: Vec<Result<Example>>,
        shard: &mut CodesFile,
        conditions: &mut Option<(&GridCodec, CodesFile)>,
    ) -> Result<()> {
        let mut pictures = Vec::with_capacity(loaded.len());
        for result in loaded {
            match result {
                Ok(example) => {
                    if let Some((grids, conditions)) = conditions {
                        let (item, codes) = grids.encode(&example)?;
                        let (_, height, width) = codes.dims();
                        conditions.grid = (height, width);
                        conditions.items.push(item);
                        conditions.codes.extend(codes.to_vec()?);
                    }
                    let Example { image, name, .. } = example;
                    let (width, height) = (image.width() as usize, image.height() as usize);
                    shard.items.push(CodesItem { name, height, width });
                    pictures.push(image);
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
