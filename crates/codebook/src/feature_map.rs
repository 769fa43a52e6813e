//! Feature maps `[B, D, H, W]` as lists of vectors `[B * H * W, D]`.

use candle_core::{DType, Tensor};

use crate::{CodeGrid, Error, Result};

/// The vectors of a feature map, in the order of the codes of a grid.
pub(crate) struct FeatureMap {
    /// `[B * H * W, D]`, contiguous; f32 where the map is in half precision.
    pub(crate) vectors: Tensor,
    /// `(B, H, W)`.
    pub(crate) size: (usize, usize, usize),
    /// The dtype of the map.
    pub(crate) dtype: DType,
}

impl FeatureMap {
    /// The vectors of `z` `[B, dim, H, W]`, with their gradient.
    pub(crate) fn new(op: &'static str, z: &Tensor, dim: usize) -> Result<Self> {
        let (b, h, w) = match *z.dims() {
            [b, d, h, w] if d == dim => (b, h, w),
            _ => {
                return Err(Error::Shape {
                    op,
                    what: "feature map",
                    shape: z.dims().to_vec(),
                    expected: format!("[batch, {dim}, height, width]"),
                });
            }
        };
        let dtype = z.dtype();
        let vectors = z.permute((0, 2, 3, 1))?.reshape((b * h * w, dim))?;
        let vectors = precise(&vectors)?;
        Ok(Self { vectors, size: (b, h, w), dtype })
    }

    /// The grid of `codes` `[B * H * W]`.
    pub(crate) fn grid(&self, codes: &Tensor) -> Result<CodeGrid> {
        CodeGrid::new(codes.reshape(self.size)?)
    }

    /// The map of `vectors` `[B * H * W, D']`, in the dtype of this one.
    pub(crate) fn like(&self, vectors: &Tensor) -> Result<Tensor> {
        to_map(vectors, self.size)?.to_dtype(self.dtype).map_err(Error::from)
    }
}

/// The map `[B, D, H, W]` of `vectors` `[B * H * W, D]`, contiguous.
fn to_map(vectors: &Tensor, (b, h, w): (usize, usize, usize)) -> Result<Tensor> {
    let dim = vectors.dim(1)?;
    Ok(vectors.reshape((b, h, w, dim))?.permute((0, 3, 1, 2))?.contiguous()?)
}

/// The map `[B, D, H, W]` of the rows of `codebook` `[K, D]` that `codes` name.
pub(crate) fn embed(codebook: &Tensor, codes: &CodeGrid) -> Result<Tensor> {
    codes.check_below(codebook.dim(0)?)?;
    let rows = codebook.index_select(&codes.codes().flatten_all()?, 0)?;
    to_map(&rows, codes.dims())
}

/// Half precision as f32: distances and losses need the digits.
pub(crate) fn precise(tensor: &Tensor) -> Result<Tensor> {
    Ok(match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.to_dtype(DType::F32)?,
        _ => tensor.clone(),
    })
}
