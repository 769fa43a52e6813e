//! Image tensors as host memory, for the metrics that are not differentiated.

use candle_core::{DType, Result, Tensor};

/// Images `[B, C, H, W]` as f64 on the host.
pub(crate) struct Planes {
    pub(crate) images: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) values: Vec<f64>,
}

impl Planes {
    /// Copies two image tensors of one shape; `op` names the caller in errors.
    pub(crate) fn pair(op: &str, a: &Tensor, b: &Tensor, data_range: f64) -> Result<(Self, Self)> {
        if a.shape() != b.shape() || a.rank() != 4 || a.elem_count() == 0 {
            candle_core::bail!(
                "{op}: images {:?} and {:?} cannot be compared: two equal shapes [B, C, H, W] are needed",
                a.shape(),
                b.shape()
            )
        }
        if !(data_range.is_finite() && data_range > 0.0) {
            candle_core::bail!(
                "{op}: data range {data_range} is not positive (255 for bytes, 2 for [-1, 1], 1 for [0, 1])"
            )
        }
        Ok((Self::new(a)?, Self::new(b)?))
    }

    fn new(t: &Tensor) -> Result<Self> {
        let (images, channels, height, width) = t.dims4()?;
        let values = t.detach().to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(Self { images, channels, height, width, values })
    }

    /// The channels of image `index` behind each other.
    pub(crate) fn image(&self, index: usize) -> &[f64] {
        let len = self.channels * self.height * self.width;
        &self.values[index * len..][..len]
    }

    /// Channel `channel` of image `index`, row by row.
    pub(crate) fn plane(&self, index: usize, channel: usize) -> &[f64] {
        let len = self.height * self.width;
        &self.values[(index * self.channels + channel) * len..][..len]
    }
}
