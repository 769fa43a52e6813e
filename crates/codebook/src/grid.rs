//! Codes with their height and width.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// A batch of code grids: `[B, H, W]`, u32, row-major, contiguous.
///
/// What first stages and transformers exchange and what goes to disk: the code
/// at `(b, y, x)` stands for the image patch in row `y` and column `x`.
#[derive(Clone, Debug)]
pub struct CodeGrid {
    codes: Tensor,
}

impl CodeGrid {
    /// Wraps codes `[B, H, W]` (u32).
    ///
    /// # Errors
    /// If the tensor has another rank or dtype.
    pub fn new(codes: Tensor) -> Result<Self> {
        const OP: &str = "code grid";
        if codes.rank() != 3 {
            return Err(Error::Shape {
                op: OP,
                what: "codes",
                shape: codes.dims().to_vec(),
                expected: "[batch, height, width]".to_owned(),
            });
        }
        if codes.dtype() != DType::U32 {
            return Err(Error::DType {
                op: OP,
                what: "codes",
                dtype: codes.dtype(),
                expected: "u32",
            });
        }
        Ok(Self { codes: codes.detach().contiguous()? })
    }

    /// A grid from row-major `codes` of shape `(batch, height, width)`.
    ///
    /// # Errors
    /// If there are more or fewer codes than the shape holds.
    pub fn from_vec(
        codes: Vec<u32>,
        shape: (usize, usize, usize),
        device: &Device,
    ) -> Result<Self> {
        let (b, h, w) = shape;
        if b.checked_mul(h).and_then(|n| n.checked_mul(w)) != Some(codes.len()) {
            return Err(Error::Shape {
                op: "code grid",
                what: "codes",
                shape: vec![codes.len()],
                expected: format!("{b} x {h} x {w} codes"),
            });
        }
        Self::new(Tensor::from_vec(codes, shape, device)?)
    }

    /// The codes, `[B, H, W]`, u32, contiguous.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// `(batch, height, width)`.
    pub fn dims(&self) -> (usize, usize, usize) {
        let dims = self.codes.dims();
        (dims[0], dims[1], dims[2])
    }

    /// All codes, row-major.
    pub fn to_vec(&self) -> Result<Vec<u32>> {
        Ok(self.codes.flatten_all()?.to_vec1()?)
    }

    /// The `count` grids from the `start`-th on.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        Self::new(self.codes.narrow(0, start, count)?)
    }

    /// The `index`-th grid, as a batch of one.
    pub fn get(&self, index: usize) -> Result<Self> {
        self.narrow(index, 1)
    }

    /// Grids of one height and width as one batch, in order.
    pub fn cat(grids: &[Self]) -> Result<Self> {
        let codes: Vec<_> = grids.iter().map(|grid| &grid.codes).collect();
        Self::new(Tensor::cat(&codes, 0)?)
    }

    /// Checks that every code has a row in a codebook of `len`.
    ///
    /// # Errors
    /// [`Error::CodeOutOfRange`] with the first code that has none.
    pub fn check_below(&self, len: usize) -> Result<()> {
        match self.to_vec()?.iter().enumerate().find(|&(_, &code)| code as usize >= len) {
            Some((position, &code)) => Err(Error::CodeOutOfRange { code, position, len }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_rows_and_grids_apart() -> anyhow::Result<()> {
        let grid = CodeGrid::from_vec((0..12).collect(), (2, 2, 3), &Device::Cpu)?;
        assert_eq!(grid.dims(), (2, 2, 3));
        assert_eq!(grid.get(1)?.to_vec()?, (6..12).collect::<Vec<_>>());
        assert_eq!(CodeGrid::cat(&[grid.get(1)?, grid.get(0)?])?.get(1)?.to_vec()?[0], 0);
        let transposed = CodeGrid::new(grid.codes().transpose(1, 2)?)?;
        assert_eq!(transposed.to_vec()?[..4], [0, 3, 1, 4]);
        Ok(())
    }

    #[test]
    fn names_the_first_code_without_a_row() -> anyhow::Result<()> {
        let grid = CodeGrid::from_vec(vec![0, 5, 9, 12], (1, 2, 2), &Device::Cpu)?;
        grid.check_below(13)?;
        let error = grid.check_below(9).unwrap_err();
        assert!(matches!(error, Error::CodeOutOfRange { code: 9, position: 2, len: 9 }));
        Ok(())
    }

    #[test]
    fn refuses_other_shapes_and_types() -> anyhow::Result<()> {
        let flat = Tensor::zeros(4, DType::U32, &Device::Cpu)?;
        assert!(matches!(CodeGrid::new(flat), Err(Error::Shape { .. })));
        let signed = Tensor::zeros((1, 2, 2), DType::I64, &Device::Cpu)?;
        assert!(matches!(CodeGrid::new(signed), Err(Error::DType { .. })));
        assert!(CodeGrid::from_vec(vec![1, 2, 3], (1, 2, 2), &Device::Cpu).is_err());
        let huge = CodeGrid::from_vec(vec![], (usize::MAX, 2, 2), &Device::Cpu);
        assert!(matches!(huge, Err(Error::Shape { .. })));
        Ok(())
    }

    #[test]
    fn may_be_empty() -> anyhow::Result<()> {
        let grid = CodeGrid::from_vec(vec![], (0, 4, 4), &Device::Cpu)?;
        grid.check_below(1)?;
        assert!(grid.to_vec()?.is_empty());
        Ok(())
    }
}
