//! Sizes of one convolution, and the patches (im2col) that turn it into matrix
//! products.

use std::ops::Range;

use candle_core::{Result, Shape};

use super::Conv2dConfig;

/// Shapes of one convolution of a contiguous `[batch, in_channels, h, w]` input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub batch: usize,
    pub in_channels: usize,
    pub h: usize,
    pub w: usize,
    pub out_channels: usize,
    pub kh: usize,
    pub kw: usize,
    pub oh: usize,
    pub ow: usize,
    pub config: Conv2dConfig,
}

impl Geometry {
    pub fn new(input: &Shape, weight: &Shape, config: Conv2dConfig) -> Result<Self> {
        let (batch, in_channels, h, w) = input.dims4()?;
        let (out_channels, weight_in, kh, kw) = weight.dims4()?;
        if weight_in != in_channels {
            candle_core::bail!("conv2d: weight {weight:?} does not fit an input of shape {input:?}")
        }
        if in_channels * out_channels * h * w * kh * kw == 0 {
            candle_core::bail!("conv2d: empty input {input:?} or weight {weight:?}")
        }
        let (oh, ow) = config.output_size((h, w), (kh, kw))?;
        Ok(Self { batch, in_channels, h, w, out_channels, kh, kw, oh, ow, config })
    }

    /// Pixels of one input channel.
    pub fn in_pixels(&self) -> usize {
        self.h * self.w
    }

    /// Pixels of one output channel.
    pub fn out_pixels(&self) -> usize {
        self.oh * self.ow
    }

    /// Weights per input channel.
    pub fn taps(&self) -> usize {
        self.kh * self.kw
    }

    /// Rows of the patch matrix.
    pub fn depth(&self) -> usize {
        self.in_channels * self.taps()
    }

    /// Whether a patch is a pixel, so that no patch matrix is needed.
    pub fn is_pointwise(&self) -> bool {
        self.taps() == 1 && self.config == Conv2dConfig::default()
    }

    /// Calls `visit` for each run of output pixels of one output row within
    /// `pixels`, for one tap: `(offset of the run in the range, input row or None
    /// in the padding, first output column, length)`.
    fn runs(
        &self,
        pixels: &Range<usize>,
        ky: usize,
        mut visit: impl FnMut(usize, Option<usize>, usize, usize),
    ) {
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (oy, ox) = (pixel / self.ow, pixel % self.ow);
            let length = (self.ow - ox).min(pixels.end - pixel);
            let iy = (oy * self.config.stride + ky).checked_sub(self.config.padding.top);
            visit(pixel - pixels.start, iy.filter(|&iy| iy < self.h), ox, length);
            pixel += length;
        }
    }

    /// The output columns of `ox..ox + length` whose input column for tap `kx` lies
    /// inside the picture: `(first, end, input column of first)`.
    fn inside(&self, kx: usize, ox: usize, length: usize) -> (usize, usize, usize) {
        let (stride, left) = (self.config.stride, self.config.padding.left);
        // Input column of output column x: x * stride + kx - left, in 0..w.
        let first = left.saturating_sub(kx).div_ceil(stride).clamp(ox, ox + length);
        let end = (self.w + left).saturating_sub(kx).div_ceil(stride).clamp(first, ox + length);
        (first, end, (first * stride + kx).saturating_sub(left))
    }

    /// Writes the patches of the output pixels `pixels`, for the input channels
    /// `channels` of one picture, to `columns` `[channels * kh * kw, pixels]`, whose rows are
    /// `pitch` apart.
    pub fn gather(
        &self,
        image: &[f32],
        channels: Range<usize>,
        pixels: Range<usize>,
        columns: &mut [f32],
        pitch: usize,
    ) {
        let stride = self.config.stride;
        let mut rows = columns.chunks_mut(pitch);
        for channel in channels {
            let plane = &image[channel * self.in_pixels()..][..self.in_pixels()];
            for ky in 0..self.kh {
                for kx in 0..self.kw {
                    let Some(row) = rows.next() else { return };
                    self.runs(&pixels, ky, |at, iy, ox, length| {
                        let target = &mut row[at..at + length];
                        let Some(iy) = iy else { return target.fill(0.0) };
                        let (first, end, ix) = self.inside(kx, ox, length);
                        target[..first - ox].fill(0.0);
                        target[end - ox..].fill(0.0);
                        let (target, source) =
                            (&mut target[first - ox..end - ox], &plane[iy * self.w..][..self.w]);
                        if target.is_empty() {
                        } else if stride == 1 {
                            target.copy_from_slice(&source[ix..ix + target.len()]);
                        } else {
                            let source = source[ix..].iter().step_by(stride);
                            target.iter_mut().zip(source).for_each(|(t, s)| *t = *s);
                        }
                    });
                }
            }
        }
    }

    /// The transpose of [`Self::gather`]: adds `columns` to the pixels they came
    /// from. `planes` holds the input channels `0..channels` of one picture.
    pub fn scatter(
        &self,
        columns: &[f32],
        pitch: usize,
        channels: usize,
        pixels: Range<usize>,
        planes: &mut [f32],
    ) {
        let stride = self.config.stride;
        let mut rows = columns.chunks(pitch);
        for plane in planes.chunks_exact_mut(self.in_pixels()).take(channels) {
            for ky in 0..self.kh {
                for kx in 0..self.kw {
                    let Some(row) = rows.next() else { return };
                    self.runs(&pixels, ky, |at, iy, ox, length| {
                        let Some(iy) = iy else { return };
                        let (first, end, ix) = self.inside(kx, ox, length);
                        let source = &row[at + first - ox..at + end - ox];
                        let target = &mut plane[iy * self.w..][..self.w];
                        if !source.is_empty() {
                            let target = target[ix..].iter_mut().step_by(stride);
                            target.zip(source).for_each(|(t, s)| *t += *s);
                        }
                    });
                }
            }
        }
    }
}
