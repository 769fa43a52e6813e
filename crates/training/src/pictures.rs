//! The pictures of a run: which are held out, and how examples are cut.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use image_data::{
    Batch, BatchPlan, Batches, Catalog, CatalogConfig, Crop, Dataset, Error, Example,
    PictureDataset, ResizeRule, Split, ViewConfig,
};
use rand_chacha::ChaCha8Rng;

use crate::config::{PicturesConfig, Resizing, ValidationConfig};

/// Opens the dataset `data`, whatever its form: see [`Catalog::open`]. Where nothing
/// else splits it, `held_out_fraction` of it is held out.
///
/// # Errors
/// If it is no dataset, or there is nothing to train on.
pub fn open_pictures(data: &Path, held_out_fraction: f64) -> Result<Catalog> {
    ensure!(!data.as_os_str().is_empty(), "no pictures: give a folder with data=FOLDER");
    ensure!(data.exists(), "data={}: there is no such folder or file", data.display());
    let config = CatalogConfig { val_fraction: held_out_fraction, ..CatalogConfig::default() };
    let catalog = Catalog::open(data, &config)?;
    if catalog.of_split(Split::Train).next().is_none() {
        let path = data.to_path_buf();
        return Err(Error::NoPictures { path, split: "to train on".to_string() }.into());
    }
    Ok(catalog)
}

/// Squares out of the training pictures of `catalog`.
///
/// # Errors
/// If `config` makes no sense.
pub fn training_crops(catalog: &Catalog, config: &PicturesConfig) -> Result<PictureDataset> {
    let side = config.side as u32;
    let view = ViewConfig {
        crop: Crop::Random,
        flip: config.flip,
        resize: rule(config, (config.largest as u32).max(side)),
        cache_bytes: config.cache_mb << 20,
        ..ViewConfig::new(side)
    };
    Ok(PictureDataset::new(catalog, Split::Train, view)?)
}

/// Held-out pictures, spread over all, for measurements and previews, as batches of what `read`
/// takes of them, `[B, ..., side, side]`: the centre of each, its shorter side
/// scaled to `largest` (cut to a multiple of `factor`). With them, what was
/// wrong with those that cannot be read; these are left out.
///
/// # Errors
/// If not one of them can be read, and those of `read`.
pub fn held_out_batches(
    catalog: &Catalog,
    pictures: &PicturesConfig,
    validation: &ValidationConfig,
    factor: usize,
    batch: usize,
    read: impl Fn(&Batch, &PictureDataset) -> Result<Tensor>,
) -> Result<(Vec<Tensor>, Vec<String>)> {
    if validation.pictures == 0 || catalog.of_split(Split::Val).next().is_none() {
        return Ok((Vec::new(), Vec::new()));
    }
    let side = (pictures.largest / factor * factor) as u32;
    let view = ViewConfig { resize: rule(pictures, side), cache_bytes: 0, ..ViewConfig::new(side) };
    let dataset = Arc::new(PictureDataset::new(catalog, Split::Val, view)?);
    let batch = batch.clamp(1, validation.pictures);
    let plan = BatchPlan { shuffle: false, end_epoch: Some(1), ..BatchPlan::new(batch, 0) };
    let spread = Arc::new(Spread::new(dataset.clone(), validation.pictures));
    let mut batches = Batches::with_plan(spread.clone(), plan)?;
    let (mut held_out, mut left) = (Vec::new(), validation.pictures);
    while left > 0 {
        let Some(batch) = batches.next() else { break };
        let mut batch = batch?;
        for index in &mut batch.indices {
            *index = spread.order[*index];
        }
        let part = read(&batch, &dataset)?;
        let count = left.min(part.dim(0)?);
        held_out.push(part.narrow(0, 0, count)?);
        left -= count;
    }
    Ok((held_out, batches.unreadable().values().cloned().collect()))
}

/// `count` of the places `0..len` in even steps, some of them again where there are fewer.
pub(crate) fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..if len == 0 { 0 } else { count }).map(move |i| i * len / count)
}

/// A dataset in another order: first some pictures spread over all of them, then the
/// others, which take the place of those that cannot be read. A list is often sorted, and
/// its beginning is then of one kind.
struct Spread {
    dataset: Arc<PictureDataset>,
    order: Vec<usize>,
}

impl Spread {
    fn new(dataset: Arc<PictureDataset>, count: usize) -> Self {
        let len = dataset.len();
        let mut order: Vec<_> = spread(len, count.min(len)).collect();
        let first: BTreeSet<_> = order.iter().copied().collect();
        order.extend((0..len).filter(|i| !first.contains(i)));
        Self { dataset, order }
    }
}

impl Dataset for Spread {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn get(&self, index: usize, rng: &mut ChaCha8Rng) -> image_data::Result<Example> {
        self.dataset.get(self.order[index], rng)
    }
}

/// The middles of the held-out pictures of `catalog`, as squares of `config.side`; none
/// where nothing is held out.
///
/// # Errors
/// If `config` makes no sense.
pub(crate) fn held_out_centres(
    catalog: &Catalog,
    config: &PicturesConfig,
) -> Result<Option<PictureDataset>> {
    if catalog.of_split(Split::Val).next().is_none() {
        return Ok(None);
    }
    let side = config.side as u32;
    let view = ViewConfig { resize: rule(config, side), cache_bytes: 0, ..ViewConfig::new(side) };
    Ok(Some(PictureDataset::new(catalog, Split::Val, view)?))
}

fn rule(config: &PicturesConfig, largest: u32) -> ResizeRule {
    match config.resize {
        Resizing::Scales => {
            let smallest = (config.smallest as u32).min(largest);
            ResizeRule::Scales { smallest, largest, whole: config.whole.clamp(0.0, 1.0) }
        }
        Resizing::Taming => ResizeRule::Taming,
        Resizing::Adm => ResizeRule::Adm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;
    use image_data::example_rng;

    fn folder(count: u32) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir()?;
        for i in 0..count {
            let picture = RgbImage::from_fn(20 + i, 30, |x, y| image::Rgb([x as u8, y as u8, 7]));
            picture.save(dir.path().join(format!("{i:02}.png")))?;
        }
        Ok(dir)
    }

    #[test]
    fn a_folder_is_split_in_two() -> Result<()> {
        let dir = folder(12)?;
        let catalog = open_pictures(dir.path(), 0.4)?;
        let count = |split| catalog.of_split(split).count();
        assert!(count(Split::Train) + count(Split::Val) == 12 && count(Split::Val) > 0);
        assert_eq!(open_pictures(dir.path(), 0.0)?.of_split(Split::Val).count(), 0);
        assert!(open_pictures(&dir.path().join("no"), 0.0).is_err());
        assert!(open_pictures(dir.path(), 1.0).is_err_and(|e| e.to_string().contains("train")));
        Ok(())
    }

    #[test]
    fn crops_have_their_side_and_repeat() -> Result<()> {
        let dir = folder(3)?;
        let catalog = open_pictures(dir.path(), 0.0)?;
        for resize in [Resizing::Scales, Resizing::Taming, Resizing::Adm] {
            let config =
                PicturesConfig { side: 16, largest: 40, resize, ..PicturesConfig::default() };
            let crops = training_crops(&catalog, &config)?;
            for index in 0..3 {
                let one = crops.get(index, &mut example_rng(1, 2, index))?.image;
                let again = crops.get(index, &mut example_rng(1, 2, index))?.image;
                assert_eq!(one.dimensions(), (16, 16));
                assert_eq!(one, again);
            }
        }
        Ok(())
    }

    #[test]
    fn measured_pictures_are_spread_and_others_take_the_place_of_broken_ones() -> Result<()> {
        assert_eq!(spread(10, 4).collect::<Vec<_>>(), [0, 2, 5, 7]);
        assert_eq!(spread(2, 4).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_eq!(spread(0, 4).count(), 0);
        let dir = folder(6)?;
        std::fs::write(dir.path().join("train.txt"), "00.png\n")?;
        std::fs::write(dir.path().join("val.txt"), "01.png\n02.png\n03.png\n04.png\n05.png\n")?;
        let catalog = open_pictures(dir.path(), 0.0)?;
        let view = ViewConfig::new(8);
        let dataset = Arc::new(PictureDataset::new(&catalog, Split::Val, view)?);
        assert_eq!(Spread::new(dataset.clone(), 3).order, [0, 1, 3, 2, 4]);
        assert_eq!(Spread::new(dataset, 9).order, [0, 1, 2, 3, 4]);
        Ok(())
    }

    #[test]
    fn held_out_pictures_that_cannot_be_read_are_named() -> Result<()> {
        let dir = folder(6)?;
        std::fs::write(dir.path().join("02.png"), "no picture")?;
        std::fs::write(dir.path().join("train.txt"), "00.png\n")?;
        std::fs::write(dir.path().join("val.txt"), "01.png\n02.png\n03.png\n04.png\n05.png\n")?;
        let catalog = open_pictures(dir.path(), 0.0)?;
        let pictures = PicturesConfig { side: 8, largest: 19, ..PicturesConfig::default() };
        let validation = ValidationConfig { pictures: 3, ..ValidationConfig::default() };
        let images = |batch: &Batch, dataset: &PictureDataset| {
            let named = batch.indices.iter().map(|&i| &dataset.entries()[i].name);
            assert!(named.eq(&batch.names));
            Ok(batch.images.clone())
        };
        let (batches, unreadable) =
            held_out_batches(&catalog, &pictures, &validation, 8, 2, images)?;
        let shapes: Vec<_> = batches.iter().map(|batch| batch.dims().to_vec()).collect();
        assert_eq!(shapes, [[2, 3, 16, 16], [1, 3, 16, 16]]);
        assert!(unreadable.len() == 1 && unreadable[0].contains("02.png"), "{unreadable:?}");
        Ok(())
    }
}
