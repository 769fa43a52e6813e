//! The arg-max of rows, with a promise about ties and NaN.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result as CandleResult, Shape, Tensor};
use candle_core::{WithDType, bail};
use rayon::prelude::*;

use crate::{Error, Result};

const OP: &str = "argmax-rows";

/// `scores: [N, K] -> codes: [N]`, u32. A custom op because candle's arg-max
/// promises nothing about ties and answers 0 for NaN.
struct ArgmaxRows;

impl CustomOp1 for ArgmaxRows {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let codes = match scores {
            CpuStorage::F32(scores) => argmax(scores, layout)?,
            CpuStorage::F64(scores) => argmax(scores, layout)?,
            _ => bail!("{OP}: scores must be f32 or f64"),
        };
        let Some(codes) = codes else { bail!("{OP}: a score is NaN") };
        let shape = Shape::from(codes.len());
        Ok((CpuStorage::U32(codes), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        scores: &CudaStorage,
        layout: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        let (codes, failed) = crate::cuda::argmax(scores, layout)?;
        if scores.device.clone_dtoh(&failed)? != [0] {
            bail!("{OP}: a score is NaN");
        }
        Ok((codes, Shape::from(layout.shape().dims2()?.0)))
    }
}

fn argmax<T: WithDType>(scores: &[T], layout: &Layout) -> CandleResult<Option<Vec<u32>>> {
    let (rows, len) = layout.shape().dims2()?;
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("{OP}: scores are not contiguous");
    };
    if len == 0 {
        bail!("{OP}: rows of no scores have no largest");
    }
    let first_largest = |row: &[T]| {
        let mut best = 0;
        let mut ordered = true;
        for (i, &score) in row.iter().enumerate() {
            // False for NaN alone.
            ordered &= score.partial_cmp(&score).is_some();
            if score > row[best] {
                best = i;
            }
        }
        ordered.then_some(best as u32)
    };
    let codes: Option<Vec<u32>> =
        scores[start..end].par_chunks_exact(len).map(first_largest).collect();
    debug_assert!(codes.as_ref().is_none_or(|codes| codes.len() == rows));
    Ok(codes)
}

/// The index of the largest of each row of `scores` `[N, K]`: `[N]`, u32.
///
/// The lowest of equal ones; no gradient. f32 or f64, or half precision, which
/// is compared in f32.
///
/// # Errors
/// If a score is NaN, or rows have no scores.
pub fn argmax_rows(scores: &Tensor) -> Result<Tensor> {
    let scores = scores.detach();
    let scores = match scores.dtype() {
        DType::F16 | DType::BF16 => scores.to_dtype(DType::F32)?,
        _ => scores,
    };
    let scores = scores.contiguous()?;
    scores.apply_op1_no_bwd(&ArgmaxRows).map_err(|error| {
        // Only a failure pays for finding out which value it failed on.
        first_nan(&scores).unwrap_or(Error::Candle(error))
    })
}

fn first_nan(scores: &Tensor) -> Option<Error> {
    let values = scores.to_dtype(DType::F64).ok()?.to_vec2::<f64>().ok()?;
    values.iter().enumerate().find_map(|(row, values)| {
        let column = values.iter().position(|value| value.is_nan())?;
        Some(Error::NotFinite { op: OP, what: "scores", row, column, value: values[column] })
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn takes_the_first_of_the_largest() -> anyhow::Result<()> {
        let inf = f32::INFINITY;
        let rows = [[1f32, 3., 3., 2.], [-inf, -inf, -1., -1.], [-inf; 4], [inf, 0., inf, 1.]];
        let scores = Tensor::new(&rows, &Device::Cpu)?;
        assert_eq!(argmax_rows(&scores)?.to_vec1::<u32>()?, [1, 2, 0, 0]);
        let scores = scores.narrow(0, 0, 2)?.t()?;
        assert_eq!(argmax_rows(&scores)?.to_vec1::<u32>()?, [0, 0, 0, 0]);
        Ok(())
    }

    #[test]
    fn names_the_nan() -> anyhow::Result<()> {
        for position in 0..3 {
            let mut row = [[5f64, 4., 3.], [0., 0., 0.]];
            row[1][position] = f64::NAN;
            let error = argmax_rows(&Tensor::new(&row, &Device::Cpu)?).unwrap_err();
            assert!(
                matches!(error, Error::NotFinite { row: 1, column, .. } if column == position),
                "{error}"
            );
        }
        Ok(())
    }

    #[test]
    fn empty_batches_are_fine_and_empty_rows_are_not() -> anyhow::Result<()> {
        let none = Tensor::zeros((0, 3), DType::F32, &Device::Cpu)?;
        assert_eq!(argmax_rows(&none)?.dims(), [0]);
        let none = Tensor::zeros((3, 0), DType::F32, &Device::Cpu)?;
        assert!(argmax_rows(&none).is_err());
        Ok(())
    }
}
