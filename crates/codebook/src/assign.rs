//! Vectors with their nearest rows: what the nearest-row quantizers share.

use candle_core::Tensor;

use crate::feature_map::FeatureMap;
use crate::losses::straight_through;
use crate::nearest::{Watch, nearest_codes_with};
use crate::{CodeGrid, Error, Losses, Quantized, Result, nearest_codes};

/// A feature map whose vectors have found their rows.
pub(crate) struct Assignment {
    map: FeatureMap,
    /// `[N]`, u32.
    codes: Tensor,
    /// The rows of the codes, `[N, D]`, with the gradient to the codebook.
    rows: Tensor,
}

impl Assignment {
    /// Assigns the vectors of `map` to the rows of `codebook` `[K, D]`.
    pub(crate) fn new(
        op: &'static str,
        map: FeatureMap,
        codebook: &Tensor,
        watch: Watch,
    ) -> Result<Self> {
        if map.vectors.dim(0)? == 0 {
            let (b, h, w) = map.size;
            return Err(Error::Shape {
                op,
                what: "feature map",
                shape: vec![b, codebook.dim(1)?, h, w],
                expected: "at least one vector, or there is no mean loss".to_owned(),
            });
        }
        let codebook = codebook.to_dtype(map.vectors.dtype())?;
        let codes = nearest_codes_with(&map.vectors, &codebook, watch)?;
        let rows = codebook.index_select(&codes, 0)?;
        Ok(Self { map, codes, rows })
    }

    /// The vectors, `[N, D]`.
    pub(crate) fn vectors(&self) -> &Tensor {
        &self.map.vectors
    }

    /// The rows of their codes, `[N, D]`.
    pub(crate) fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// The result, with the straight-through gradient to the vectors.
    pub(crate) fn quantized(&self, losses: Losses) -> Result<Quantized> {
        let embeddings = self.map.like(&straight_through(self.vectors(), &self.rows)?)?;
        Ok(Quantized { embeddings, codes: self.map.grid(&self.codes)?, losses })
    }
}

/// The codes alone, without a graph.
pub(crate) fn codes(map: &FeatureMap, codebook: &Tensor) -> Result<CodeGrid> {
    let codebook = codebook.to_dtype(map.vectors.dtype())?;
    map.grid(&nearest_codes(&map.vectors, &codebook)?)
}

/// Checks that `codebook` is `[K, D]`, and returns `(K, D)`.
pub(crate) fn codebook_dims(op: &'static str, codebook: &Tensor) -> Result<(usize, usize)> {
    match *codebook.dims() {
        [len, dim] if len > 0 && dim > 0 => Ok((len, dim)),
        _ => Err(Error::Shape {
            op,
            what: "codebook",
            shape: codebook.dims().to_vec(),
            expected: "[codes, dim], none of them 0".to_owned(),
        }),
    }
}
