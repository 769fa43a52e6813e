//! The model and the pictures of the experiments.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var};
use codebook::{CodeGrid, Quantizer};
use image_data::{
    Catalog, CatalogConfig, Dataset, PictureDataset, Split, ViewConfig, example_rng, stack,
};
use layers::{Gradients, Tape};
use pipeline::{Codec, LoadOptions, ModelSpec};
use training::{PicturesConfig, training_crops};
use vq_autoencoder::VqModel;

use super::{Questions, existing};

/// Side of the whole pictures that are shown to the model.
pub const SIDE: u32 = 128;
/// Side of crops.
const CROP: usize = 64;

/// A first stage, and a few pictures.
pub struct Subject {
    pub codec: Codec,
    /// `[N, 3, SIDE, SIDE]`.
    pub pictures: Tensor,
    crops: PictureDataset,
}

impl Subject {
    pub fn load(questions: &Questions) -> Result<Self> {
        let model = ModelSpec::new(existing(&questions.model, "a first stage")?);
        let codec = Codec::load(&model, &LoadOptions::default())?;
        codec.check_pictures()?;
        let data = existing(&questions.data, "pictures")?;
        let catalog =
            Catalog::open(data, &CatalogConfig { val_fraction: 0.0, ..CatalogConfig::default() })?;
        let whole = PictureDataset::new(&catalog, Split::Train, ViewConfig::new(SIDE))?;
        let count = whole.len().min(8);
        ensure!(count > 1, "{}: two pictures or more are needed", data.display());
        let pictures = (0..count)
            .map(|i| Ok(whole.get(i, &mut example_rng(0, 0, i))?.image))
            .collect::<Result<Vec<_>>>()?;
        let pictures = stack(&pictures, &Device::Cpu)?;
        let config = PicturesConfig {
            side: CROP,
            largest: SIDE as usize,
            whole: 0.2,
            flip: true,
            ..PicturesConfig::default()
        };
        Ok(Self { codec, pictures, crops: training_crops(&catalog, &config)? })
    }

    pub fn model(&self) -> &VqModel {
        self.codec.model()
    }

    /// Random crops `[count, 3, 64, 64]`, the same for the same `draw`.
    pub fn crops(&self, draw: u64, count: usize) -> Result<Tensor> {
        let images = (0..count)
            .map(|i| {
                let index = (draw as usize * count + i) % self.crops.len();
                Ok(self.crops.get(index, &mut example_rng(draw, i as u64, index))?.image)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(stack(&images, &Device::Cpu)?)
    }
}

/// `mean((D(e) - x)^2)` for code vectors `e`, its gradient at them, and into
/// `gradients` those of the decoder's variables.
pub fn decoder_pass(
    model: &VqModel,
    embeddings: &Tensor,
    x: &Tensor,
    gradients: &mut Gradients,
) -> Result<(f64, Tensor)> {
    let mut tape = Tape::default();
    let hidden = model.decode_hidden_taped(&embeddings.detach(), &mut tape)?;
    let made = model.last_convolution_taped(&hidden, &mut tape)?;
    drop(hidden);
    let difference = (made - x)?;
    let loss = f64::from(difference.sqr()?.mean_all()?.to_scalar::<f32>()?);
    let upstream = (&difference * (2.0 / difference.elem_count() as f64))?;
    let gradient = tape.backward(&upstream, gradients)?;
    Ok((loss, gradient.context("the decoder's input has no gradient")?))
}

/// Loss, codes, and the straight-through gradient at `z` `[B, D, h, w]`, as the trainer
/// takes it.
pub fn straight_through(
    model: &VqModel,
    z: &Tensor,
    x: &Tensor,
) -> Result<(f64, CodeGrid, Tensor)> {
    let z = Var::from_tensor(z)?;
    let quantized = model.quantizer().quantize(z.as_tensor())?;
    let (loss, upstream) =
        decoder_pass(model, &quantized.embeddings, x, &mut Gradients::default())?;
    let mut store = (quantized.embeddings * upstream)?.sum_all()?.backward()?;
    let gradient = store.remove(z.as_tensor()).context("the encoder gets no gradient")?;
    Ok((loss, quantized.codes, gradient))
}

/// The loss at `z`, and nothing else.
pub fn loss(model: &VqModel, z: &Tensor, x: &Tensor) -> Result<f64> {
    let quantizer = model.quantizer();
    let made = model.decode_embeddings(&quantizer.embed(&quantizer.codes(z)?)?)?;
    Ok(f64::from((made - x)?.sqr()?.mean_all()?.to_scalar::<f32>()?))
}

/// PSNR in dB of a mean squared difference of values in [-1, 1].
pub fn psnr(mean_square: f64) -> f64 {
    10.0 * (4.0 / mean_square.max(1e-12)).log10()
}

/// The vectors of a map `[B, D, h, w]` scaled to length one.
pub fn on_sphere(z: &Tensor) -> Result<Tensor> {
    let norm = z.sqr()?.sum_keepdim(1)?.sqrt()?;
    Ok(z.broadcast_div(&norm.maximum(1e-12)?)?)
}
