//! What to learn from where LPIPS has no weights: random features and a pyramid.
//!
//! A network that was never trained still sees edges, textures and where they are: Liu
//! et al. 2021 ("Generic Perceptual Loss for Modeling Structured Output Dependencies")
//! train with the features of a VGG-16 with random weights. Here it is a quarter as wide,
//! its weights are a function of nothing, and each filter's weights add up to zero: with
//! plain random filters the features of all pictures point the same way after a few
//! layers, and their distances vanish. What such filters cannot see, shades and colours
//! of whole areas, a pyramid compares: the `Lap_1` of Bojanowski et al. 2018 ("Optimizing
//! the Latent Space of Generative Networks"), on bands made by 2x2 means.
//!
//! It is no LPIPS: nothing in it knows what people look at. `docs/training.md` has
//! measurements.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::lpips::unit_length;
use crate::vgg::{CONVOLUTIONS, SLICES, Vgg16};

/// A quarter of VGG-16's channels.
const CHANNELS: [usize; SLICES] = [16, 32, 64, 128, 128];
/// Part of the definition: another one is another loss.
const SEED: u64 = 0x5eed;
/// Bands of the pyramid, the coarsest picture not counted.
const BANDS: usize = 4;

/// The distance; it has no weights to load and none to train.
#[derive(Clone, Debug)]
pub struct Substitute {
    net: Vgg16,
}

impl Substitute {
    /// The one that there is.
    ///
    /// # Errors
    /// If memory on the device cannot be had.
    pub fn new(dtype: DType, device: &Device) -> Result<Self> {
        let vb = VarBuilder::from_tensors(random_weights(device)?, dtype, device);
        Ok(Self { net: Vgg16::new(&CHANNELS, vb)? })
    }

    /// The distance of each picture of `x` from that of `y`, both `[B, 3, H, W]` in
    /// `[-1, 1]` with sides of at least 16: `[B, 1, 1, 1]`, at least 0. The sum of
    /// [`features`](Self::features) and [`pyramid`].
    ///
    /// # Errors
    /// When the shapes differ or do not fit.
    pub fn forward(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        if x.shape() != y.shape() {
            candle_core::bail!(
                "substitute: images {:?} and {:?} differ in shape",
                x.shape(),
                y.shape()
            )
        }
        (self.features(x, y)? + pyramid(&(x - y)?)?)?.reshape(((), 1, 1, 1))
    }

    /// The part of the random features, `[B]`: the squared difference of unit feature
    /// vectors, averaged over positions and over slices; 0 to 2.
    ///
    /// # Errors
    /// When the images do not have 3 channels or a side is below 16 pixels.
    pub fn features(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (x, y) = (self.net.features(x)?, self.net.features(y)?);
        let mut distances = Vec::with_capacity(SLICES);
        for (x, y) in x.iter().zip(&y) {
            let difference = (unit_length(x)? - unit_length(y)?)?.sqr()?.sum(1)?;
            distances.push(difference.flatten_from(1)?.mean(1)?);
        }
        Tensor::stack(&distances, 0)?.mean(0)
    }
}

/// The mean absolute value of each band of `difference` `[B, C, H, W]`, summed over
/// bands, `[B]`: each of four bands is what 2x2 means lose, the last is what is left. An
/// odd last row or column is seen by the finer bands only.
///
/// # Errors
/// When `difference` is not of rank 4.
pub fn pyramid(difference: &Tensor) -> Result<Tensor> {
    let mean = |x: &Tensor| layers::abs(x)?.flatten_from(1)?.mean(1);
    let mut bands = Vec::with_capacity(BANDS + 1);
    let mut rest = difference.clone();
    for _ in 0..BANDS {
        let (b, c, h, w) = rest.dims4()?;
        let (h, w) = (h / 2, w / 2);
        if h == 0 || w == 0 {
            break;
        }
        let even = rest.narrow(2, 0, 2 * h)?.narrow(3, 0, 2 * w)?;
        let coarse = even.avg_pool2d(2)?;
        let shape = (b, c, h, 2, w, 2);
        let again =
            coarse.reshape((b, c, h, 1, w, 1))?.broadcast_as(shape)?.reshape(even.shape())?;
        bands.push(mean(&(even - again)?)?);
        rest = coarse;
    }
    bands.push(mean(&rest)?);
    Tensor::stack(&bands, 0)?.sum(0)
}

/// Weights of variance `2 / fan_in` (He et al. 2015), each filter's less their mean;
/// biases 0.
fn random_weights(device: &Device) -> Result<HashMap<String, Tensor>> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut tensors = HashMap::new();
    let mut from = 3;
    for (slice, (indices, to)) in CONVOLUTIONS.iter().zip(CHANNELS).enumerate() {
        for i in *indices {
            let fan_in = from * 9;
            let bound = (6.0 / fan_in as f64).sqrt() as f32;
            let mut values = Vec::with_capacity(to * fan_in);
            for _ in 0..to {
                let mut filter: Vec<f32> = (0..fan_in)
                    .map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0)
                    .map(|uniform| bound * uniform)
                    .collect();
                let mean = filter.iter().sum::<f32>() / fan_in as f32;
                filter.iter_mut().for_each(|weight| *weight -= mean);
                values.extend(filter);
            }
            let name = format!("slice{}.{i}", slice + 1);
            tensors.insert(
                format!("{name}.weight"),
                Tensor::from_vec(values, (to, from, 3, 3), device)?,
            );
            tensors.insert(format!("{name}.bias"), Tensor::zeros(to, DType::F32, device)?);
            from = to;
        }
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests;
