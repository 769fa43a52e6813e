//! What a first stage reads of its examples: pictures, or the maps beside them.

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use image::{GrayImage, RgbImage};
use image_data::{
    Batch, Catalog, LabelClass, LabelColors, PictureDataset, from_tensor, likeliest_labels, one_hot,
};
use pipeline::CodecInput;
use vq_autoencoder::{ImageCodec, VqModel};

use crate::config::{InputKind, TrainConfig};

/// The examples of a run as its model reads them.
pub(crate) struct Input {
    kind: InputKind,
    /// The model's channels: labels, for label maps.
    channels: usize,
    names: Vec<String>,
    colors: LabelColors,
}

impl Input {
    /// What `config` asks for, out of `catalog`.
    ///
    /// # Errors
    /// If losses and channels do not fit it, the data lack the maps, or have another
    /// number of labels.
    pub fn new(config: &TrainConfig, catalog: &Catalog) -> Result<Self> {
        config.check_input()?;
        let (kind, channels) = (config.input, config.model.in_channels);
        let what = match kind {
            InputKind::Pictures => "",
            InputKind::Labels => "label",
            InputKind::Depth => "depth",
        };
        let without = catalog.entries().iter().filter(|entry| match kind {
            InputKind::Pictures => false,
            InputKind::Labels => entry.labels.is_none(),
            InputKind::Depth => entry.depth.is_none(),
        });
        let names: Vec<_> = without.map(|entry| entry.name.as_str()).collect();
        if let Some(first) = names.first() {
            let path = catalog.path().display();
            let (count, of) = (names.len(), catalog.entries().len());
            bail!(
                "{path}: {count} of {of} pictures have no {what} map, {first} for one, and the \
                 run is to learn from these (input = \"{kind}\"); docs/data.md shows where maps are",
                kind = if kind == InputKind::Labels { "labels" } else { "depth" }
            );
        }
        let classes = catalog.label_classes();
        let names = names_by_number(classes);
        if kind == InputKind::Labels && !names.is_empty() {
            let (known, path) = (names.len(), catalog.path().display());
            ensure!(
                known == channels,
                "{path}: classes.json numbers {known} labels, 0 to {}, and the model has \
                 {channels}: set model.in_channels={known} model.out_channels={known}",
                known - 1
            );
        }
        Ok(Self { kind, channels, names, colors: LabelColors::new(classes) })
    }

    /// What is measured, and how.
    pub fn kind(&self) -> InputKind {
        self.kind
    }

    /// What the model folder says of it.
    pub fn of_codec(&self) -> CodecInput {
        match self.kind {
            InputKind::Pictures => CodecInput::Pictures,
            InputKind::Labels => CodecInput::Labels(self.names.clone()),
            InputKind::Depth => CodecInput::Depth,
        }
    }

    /// The part of `batch`, of `dataset`, that is read: pictures or depth `[B, C, H, W]`
    /// in `[-1, 1]`, or labels `[B, H, W]`, u8.
    ///
    /// # Errors
    /// A label that the model does not have, naming the file.
    pub fn of_batch(&self, batch: &Batch, dataset: &PictureDataset) -> Result<Tensor> {
        match self.kind {
            InputKind::Pictures => Ok(batch.images.clone()),
            InputKind::Depth => batch.depth.clone().context("a picture without a depth map"),
            InputKind::Labels => {
                let labels = batch.labels.clone().context("a picture without a label map")?;
                self.check_labels(&labels, batch, dataset)?;
                Ok(labels)
            }
        }
    }

    fn check_labels(&self, maps: &Tensor, batch: &Batch, dataset: &PictureDataset) -> Result<()> {
        let (_, height, width) = maps.dims3()?;
        let labels = maps.flatten_all()?.to_vec1::<u8>()?;
        let beyond = |&label: &u8| usize::from(label) >= self.channels;
        let Some(place) = labels.iter().position(beyond) else { return Ok(()) };
        let example = place / (height * width);
        let entry = &dataset.entries()[batch.indices[example]];
        let file = entry.labels.as_ref().map_or(entry.name.clone().into(), |map| map.path());
        bail!(
            "{}: label {} is beyond the {} labels of the model (model.in_channels), which are \
             numbered from 0; 255 usually marks what nobody labelled, and needs a number of its own",
            file.display(),
            labels[place],
            self.channels
        )
    }

    /// What [`of_batch`](Self::of_batch) gave as the model reads it, `[B, C, H, W]`.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn for_model(&self, part: &Tensor) -> Result<Tensor> {
        match self.kind {
            InputKind::Pictures | InputKind::Depth => Ok(part.clone()),
            InputKind::Labels => Ok(one_hot(part, self.channels)?),
        }
    }

    /// What [`of_batch`](Self::of_batch) gave, to look at, and what `model` makes of it:
    /// depth in grey, labels in their colours, the likeliest of the logits.
    ///
    /// # Errors
    /// If it does not fit the model.
    pub fn show(&self, model: &VqModel, part: &Tensor) -> Result<[Vec<RgbImage>; 2]> {
        let made = model.decode(&model.encode(&self.for_model(part)?)?)?;
        match self.kind {
            InputKind::Pictures | InputKind::Depth => Ok([pictures(part)?, pictures(&made)?]),
            InputKind::Labels => {
                Ok([self.painted(part)?, self.painted(&likeliest_labels(&made)?)?])
            }
        }
    }

    /// Labels `[B, H, W]` in colours.
    fn painted(&self, labels: &Tensor) -> Result<Vec<RgbImage>> {
        let (count, height, width) = labels.dims3()?;
        let paint = |i: usize| {
            let map = labels.get(i)?.flatten_all()?.to_vec1::<u8>()?;
            let map = GrayImage::from_raw(width as u32, height as u32, map);
            Ok(self.colors.paint(&map.context("a label map of another size")?))
        };
        (0..count).map(paint).collect()
    }
}

/// `[B, C, H, W]` in `[-1, 1]` as pictures.
fn pictures(tensor: &Tensor) -> Result<Vec<RgbImage>> {
    (0..tensor.dim(0)?).map(|i| Ok(from_tensor(&tensor.get(i)?)?)).collect()
}

/// The names of all labels up to the last one that `classes` knows.
fn names_by_number(classes: &[LabelClass]) -> Vec<String> {
    /// Labels fit a byte; what is beyond is no label.
    const LABELS: u32 = 256;
    let known = classes.iter().filter(|class| class.id < LABELS);
    let count = known.clone().map(|class| class.id + 1).max().unwrap_or(0);
    let mut names: Vec<_> = (0..count).map(|id| format!("label {id}")).collect();
    for class in known {
        names[class.id as usize].clone_from(&class.name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        let class = |id, name: &str| LabelClass { id, name: name.into(), color: String::new() };
        assert_eq!(names_by_number(&[]), Vec::<String>::new());
        let classes = [class(3, "sea"), class(0, "sky"), class(70_000, "far")];
        assert_eq!(names_by_number(&classes), ["sky", "label 1", "label 2", "sea"]);
    }
}
