//! The order in which a grid's codes come (`taming.modules.transformer.permuter`).

mod mersenne;
mod orders;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Largest grid a permutation is made for.
const MAX_CODES: usize = 1 << 24;

/// The orders of the reference.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Row by row.
    #[default]
    Identity,
    /// All top left codes of 2x2 blocks first, and so on inside each part. Square
    /// grids with a power of two as their side.
    Subsample,
    /// Along the Z-curve (Morton order).
    ZCurve,
    /// From the middle out, turning right. Square grids with an even side.
    SpiralOut,
    /// The same backwards.
    SpiralIn,
    /// NumPy's `RandomState(1).permutation`.
    Random,
    /// Row by row, every second row from right to left.
    AlternateParsing,
}

/// A permutation of the codes of one grid size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permuter {
    forward: Vec<u32>,
    backward: Vec<u32>,
}

impl Permuter {
    /// The order of a grid of `height` x `width`.
    ///
    /// # Errors
    /// If the order is not defined for that size.
    pub fn new(order: Order, height: usize, width: usize) -> Result<Self> {
        let codes = height.checked_mul(width).filter(|codes| (1..=MAX_CODES).contains(codes));
        let Some(codes) = codes else {
            return Err(Error::Permuter(format!(
                "a grid of {height}x{width} codes is empty or beyond {MAX_CODES}"
            )));
        };
        let square = height == width;
        let defined = match order {
            Order::Subsample => square && height.is_power_of_two(),
            Order::SpiralOut | Order::SpiralIn => square && height.is_multiple_of(2),
            _ => true,
        };
        if !defined {
            return Err(Error::Permuter(format!(
                "{order:?} is not defined for a grid of {height}x{width}; it takes square \
                 grids whose side is {}",
                if order == Order::Subsample { "a power of two" } else { "even" }
            )));
        }
        let forward = match order {
            Order::Identity => (0..codes as u32).collect(),
            Order::Subsample => orders::subsample(height),
            Order::ZCurve => orders::z_curve(height, width),
            Order::SpiralOut => orders::spiral_out(height),
            Order::SpiralIn => orders::spiral_out(height).into_iter().rev().collect(),
            Order::Random => mersenne::permutation(1, codes as u32),
            Order::AlternateParsing => orders::alternate(height, width),
        };
        Self::from_forward(forward)
    }

    /// A permutation as a checkpoint holds it (`permuter.forward_shuffle_idx`).
    ///
    /// # Errors
    /// If it is no permutation.
    pub fn from_forward(forward: Vec<u32>) -> Result<Self> {
        let mut backward = vec![u32::MAX; forward.len()];
        for (place, &code) in forward.iter().enumerate() {
            match backward.get_mut(code as usize) {
                Some(slot) if *slot == u32::MAX => *slot = place as u32,
                _ => {
                    return Err(Error::Permuter(format!(
                        "index {code} at {place} comes twice or is beyond {}",
                        forward.len()
                    )));
                }
            }
        }
        Ok(Self { forward, backward })
    }

    /// Which code of the grid comes at each place of the sequence.
    pub fn forward(&self) -> &[u32] {
        &self.forward
    }

    /// At which place of the sequence each code of the grid comes.
    pub fn backward(&self) -> &[u32] {
        &self.backward
    }

    /// From row-major order to the sequence's.
    ///
    /// # Errors
    /// If there are more or fewer codes than in the grid.
    pub fn permute<T: Copy>(&self, grid: &[T]) -> Result<Vec<T>> {
        gather(grid, &self.forward)
    }

    /// From the sequence's order to row-major.
    ///
    /// # Errors
    /// If there are more or fewer codes than in the grid.
    pub fn restore<T: Copy>(&self, sequence: &[T]) -> Result<Vec<T>> {
        gather(sequence, &self.backward)
    }
}

fn gather<T: Copy>(values: &[T], indices: &[u32]) -> Result<Vec<T>> {
    if values.len() != indices.len() {
        return Err(Error::Permuter(format!(
            "{} codes for a permutation of {}",
            values.len(),
            indices.len()
        )));
    }
    Ok(indices.iter().map(|&index| values[index as usize]).collect())
}
