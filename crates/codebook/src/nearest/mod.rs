//! The nearest-code search: one candle custom op.
//!
//! The seam is cut around distance *and* arg-min, because a fast kernel must
//! not write the `[N, K]` matrix of distances out in between.

mod bound;
mod kernel;
mod plain;
mod resolve;
mod rows;
mod search;

#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor, bail};

use crate::{Error, Result};
use kernel::Kernel;
use rows::Rows;

const OP: &str = "nearest-code";

/// The op `(vectors: [N, D], codebook: [K, D]) -> codes: [N]` (u32).
///
/// The code of a vector is the row at the smallest squared distance, and the
/// lowest of the rows at the same distance. Distances are those of the plain
/// formula in f64 whatever the kernel, so every implementation returns the same
/// codes, with any number of threads.
///
/// Both arguments are contiguous and either f32 or f64. There is no gradient:
/// apply it with `apply_op2_no_bwd`, or call [`nearest_codes`].
#[derive(Debug, Default)]
pub struct NearestCode {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "a CPU has seen all it searched"))]
    watch: Watch,
}

/// Whether a search on a GPU is waited for, to see that all distances were finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Watch {
    #[default]
    Wait,
    /// Vectors without a finite distance have the code `u32::MAX`.
    Trust,
}

impl CustomOp2 for NearestCode {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        vectors: &CpuStorage,
        vectors_layout: &Layout,
        codebook: &CpuStorage,
        codebook_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let codes = match (vectors, codebook) {
            (CpuStorage::F32(v), CpuStorage::F32(c)) => {
                let (v, c) = (Rows::new(v, vectors_layout)?, Rows::new(c, codebook_layout)?);
                search::search(Kernel::detect(), v, c)
            }
            (CpuStorage::F64(v), CpuStorage::F64(c)) => {
                plain::search(Rows::new(v, vectors_layout)?, Rows::new(c, codebook_layout)?)
            }
            _ => bail!("{OP}: vectors and codebook must both be f32 or both f64"),
        };
        let Some(codes) = codes else { bail!("{OP}: a distance is not a finite number") };
        let shape = Shape::from(codes.len());
        Ok((CpuStorage::U32(codes), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        vectors: &CudaStorage,
        vectors_layout: &Layout,
        codebook: &CudaStorage,
        codebook_layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (codes, failed) =
            crate::cuda::nearest(vectors, vectors_layout, codebook, codebook_layout)?;
        if self.watch == Watch::Wait && vectors.device.clone_dtoh(&failed)? != [0] {
            bail!("{OP}: a distance is not a finite number");
        }
        Ok((codes, Shape::from(vectors_layout.shape().dims2()?.0)))
    }
}

/// The nearest row of `codebook` `[K, D]` for each of `vectors` `[N, D]`:
/// indices `[N]`, u32; ties go to the lowest index.
///
/// `N` may be 0 and neither tensor needs to be contiguous. Half precision is
/// searched in f32. Memory beyond the arguments does not grow with `N * K`.
/// No gradient flows; the arguments may be tracked.
///
/// # Errors
/// If the shapes do not fit, the codebook has no rows, or a NaN or an infinity
/// is in either.
pub fn nearest_codes(vectors: &Tensor, codebook: &Tensor) -> Result<Tensor> {
    nearest_codes_with(vectors, codebook, Watch::Wait)
}

/// [`nearest_codes`], waited for or not.
pub(crate) fn nearest_codes_with(
    vectors: &Tensor,
    codebook: &Tensor,
    watch: Watch,
) -> Result<Tensor> {
    let (vectors, codebook) = prepare(vectors, codebook)?;
    if vectors.dim(0)? == 0 {
        return Ok(Tensor::zeros(0, DType::U32, vectors.device())?);
    }
    vectors.apply_op2_no_bwd(&codebook, &NearestCode { watch }).map_err(|error| {
        // Only a failed search pays for finding out which value it failed on.
        first_not_finite(&vectors, "vectors")
            .or_else(|| first_not_finite(&codebook, "codebook rows"))
            .unwrap_or(Error::Candle(error))
    })
}

/// [`nearest_codes`] as the formula says it, one distance after the other: the
/// slow twin that every fast path is tested against. CPU only.
pub fn nearest_codes_plain(vectors: &Tensor, codebook: &Tensor) -> Result<Tensor> {
    let (vectors, codebook) = prepare(vectors, codebook)?;
    // f32 to f64 is exact, so this is the same search.
    let rows = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (v, c) = (rows(&vectors)?, rows(&codebook)?);
    let dim = codebook.dim(1)?;
    let codes = plain::search(Rows::from_slice(&v, dim), Rows::from_slice(&c, dim));
    let codes = codes.ok_or_else(|| {
        first_not_finite(&vectors, "vectors")
            .or_else(|| first_not_finite(&codebook, "codebook rows"))
            .unwrap_or_else(|| {
                Error::Candle(candle_core::Error::msg(format!(
                    "{OP}: a distance is not a finite number"
                )))
            })
    })?;
    Ok(Tensor::new(codes, vectors.device())?)
}

/// Detached, contiguous, in one dtype that the search knows.
fn prepare(vectors: &Tensor, codebook: &Tensor) -> Result<(Tensor, Tensor)> {
    let shape_error = |what, tensor: &Tensor, expected: String| Error::Shape {
        op: OP,
        what,
        shape: tensor.dims().to_vec(),
        expected,
    };
    let dim = match *codebook.dims() {
        [len, dim] if len > 0 && dim > 0 && u32::try_from(len).is_ok() => dim,
        _ => {
            let expected = "[codes, dim], none of them 0".to_owned();
            return Err(shape_error("codebook", codebook, expected));
        }
    };
    if vectors.rank() != 2 || vectors.dim(1)? != dim {
        return Err(shape_error("vectors", vectors, format!("[vectors, {dim}]")));
    }
    let dtype = match vectors.dtype() {
        DType::F16 | DType::BF16 | DType::F32 => DType::F32,
        DType::F64 => DType::F64,
        dtype => {
            let expected = "a floating-point dtype";
            return Err(Error::DType { op: OP, what: "vectors", dtype, expected });
        }
    };
    let ready = |t: &Tensor| t.detach().to_dtype(dtype)?.contiguous();
    Ok((ready(vectors)?, ready(codebook)?))
}

fn first_not_finite(rows: &Tensor, what: &'static str) -> Option<Error> {
    let values = rows.to_dtype(DType::F64).ok()?.to_vec2::<f64>().ok()?;
    values.iter().enumerate().find_map(|(row, values)| {
        let column = values.iter().position(|value| !value.is_finite())?;
        Some(Error::NotFinite { op: OP, what, row, column, value: values[column] })
    })
}
