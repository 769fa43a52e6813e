//! The convolutional part of VGG-16 (Simonyan & Zisserman 2015), cut in the five
//! slices that LPIPS looks at.

use candle_core::{Result, Tensor};
use candle_nn::{Module, VarBuilder};
use layers::{
    Conv2d, Conv2dConfig, Tape, Taped, conv2d, max_pool2x2, max_pool2x2_taped, relu, relu_taped,
};

/// Outputs of the network: after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
pub const SLICES: usize = 5;

/// The index of every convolution in torchvision's `vgg16().features`, by slice.
/// A ReLU follows each; a 2x2 max pool precedes every slice but the first.
pub(crate) const CONVOLUTIONS: [&[usize]; SLICES] =
    [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21], &[24, 26, 28]];

/// VGG-16 features; keys `slice{1..5}.{i}.{weight,bias}`, `i` as in torchvision.
///
/// Weights are frozen: they carry no gradient even if `vb` holds variables.
#[derive(Clone, Debug)]
pub struct Vgg16 {
    slices: Vec<Vec<Conv2d>>,
}

impl Vgg16 {
    /// The network with `channels[i]` channels in slice `i`; see
    /// [`LpipsConfig`](crate::LpipsConfig) for the usual widths.
    ///
    /// # Errors
    /// When `vb` lacks a key or holds it in another shape.
    pub fn new(channels: &[usize; SLICES], vb: VarBuilder) -> Result<Self> {
        let mut from = 3;
        let mut slices = Vec::with_capacity(SLICES);
        for (s, (indices, &to)) in CONVOLUTIONS.iter().zip(channels).enumerate() {
            let vb = vb.pp(format!("slice{}", s + 1));
            let mut slice = Vec::with_capacity(indices.len());
            for i in *indices {
                slice.push(frozen(&conv2d(from, to, 3, Conv2dConfig::same(3), vb.pp(i))?));
                from = to;
            }
            slices.push(slice);
        }
        Ok(Self { slices })
    }

    /// The five feature maps of images `[B, 3, H, W]`, normalised as the weights
    /// expect: `[B, channels[i], H / 2^i, W / 2^i]`, rounded down.
    ///
    /// # Errors
    /// When the images do not have 3 channels or a side is below 16 pixels.
    pub fn features(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        check(images)?;
        let mut features: Vec<Tensor> = Vec::with_capacity(SLICES);
        for slice in &self.slices {
            let mut x = match features.last() {
                Some(last) => max_pool2x2(last)?,
                None => images.clone(),
            };
            for conv in slice {
                x = relu(&conv.forward(&x)?)?;
            }
            features.push(x);
        }
        Ok(features)
    }

    /// [`features`](Self::features) without candle's graph, and the way back through each slice, whose
    /// input is the map before it, if it is `kept`: layers are run on what `tape` makes.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn features_taped(
        &self,
        images: &Tensor,
        tape: impl Fn() -> Tape,
        kept: bool,
    ) -> Result<(Vec<Tensor>, Vec<Tape>)> {
        check(images)?;
        let (mut features, mut tapes): (Vec<Tensor>, Vec<Tape>) = Default::default();
        for slice in &self.slices {
            let mut back = tape();
            let mut x = match features.last() {
                Some(last) => max_pool2x2_taped(last, &mut back)?,
                None => images.detach(),
            };
            for conv in slice {
                x = relu_taped(conv.forward_taped(&x, &mut back)?, &mut back)?;
                if !kept {
                    back = tape();
                }
            }
            features.push(x);
            tapes.push(back);
        }
        Ok((features, tapes))
    }
}

fn check(images: &Tensor) -> Result<()> {
    let (_, c, h, w) = images.dims4()?;
    let min = 1 << (SLICES - 1);
    if c != 3 || h < min || w < min {
        candle_core::bail!(
            "vgg16: images {:?} do not fit: 3 channels and sides of at least {min} pixels are needed",
            images.shape()
        )
    }
    Ok(())
}

fn frozen(conv: &Conv2d) -> Conv2d {
    Conv2d::new(conv.weight().detach(), conv.bias().map(Tensor::detach), Conv2dConfig::same(3))
}
