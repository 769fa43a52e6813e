//! Dropout whose mask is a function of a key.

use candle_core::{D, Device, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use crate::cpu;
use crate::shared_mut::SharedMut;
use crate::tape::{Tape, sum};

/// Random numbers of 16 bits in a block of ChaCha.
const PER_BLOCK: usize = 32;
/// Words of 32 bits in a block.
const WORDS: u128 = 16;
/// Rows of a task.
const ROWS: usize = 16;

/// Leaves out each element with probability `share` and scales the others up, so that
/// means stay (Srivastava et al. 2014). Whether an element stays depends on the key, its
/// row (of the last dimension) and its place there alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share left out, in `[0, 1)`; with 0 nothing happens.
    pub share: f64,
    /// Seed of the generator (ChaCha8).
    pub seed: u64,
    /// Its stream: one for each place in a network and step.
    pub stream: u64,
}

impl Dropout {
    /// Whether anything is left out.
    pub fn is_on(&self) -> bool {
        self.share > 0.0
    }

    /// Of 65536 values, how many leave an element out.
    fn threshold(&self) -> u16 {
        (self.share * 65536.0).round().clamp(0.0, 65535.0) as u16
    }

    /// What kept elements are multiplied by.
    fn scale(&self) -> f32 {
        (65536.0 / (65536.0 - f64::from(self.threshold()))) as f32
    }

    /// The generator of the mask.
    pub(super) fn mask(&self) -> Mask {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.stream);
        Mask { rng, threshold: self.threshold(), scale: self.scale(), bytes: Vec::new() }
    }

    /// The mask of a tensor of `shape`: 0 or what is multiplied by.
    ///
    /// # Errors
    /// When the device has no room for it.
    pub fn mask_tensor(&self, shape: &[usize], device: &Device) -> Result<Tensor> {
        let width = shape.last().copied().unwrap_or(1).max(1);
        let mut values = vec![1f32; shape.iter().product()];
        let mut mask = self.mask();
        for (row, values) in values.chunks_exact_mut(width).enumerate() {
            mask.multiply(row, values);
        }
        Tensor::from_vec(values, shape, device)
    }

    /// `x` with elements left out, in any shape, on a tape.
    ///
    /// # Errors
    /// When `x` is not a float tensor.
    pub fn apply_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        if !self.is_on() {
            return Ok(x.clone());
        }
        let y = self.apply(x)?;
        let this = *self;
        tape.push(move |dy, plus, _| sum(this.apply(dy)?, plus).map(Some));
        Ok(y)
    }

    /// `x` with elements left out, without a graph.
    ///
    /// # Errors
    /// When `x` is not a float tensor.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.detach();
        #[cfg(feature = "cuda")]
        if crate::cuda::supports(&[&x]) && x.rank() > 0 {
            let key = ChaCha8Rng::seed_from_u64(self.seed).get_seed();
            let (threshold, scale) = (self.threshold(), self.scale());
            return super::scores::leave_out(&x, key, self.stream, threshold, scale);
        }
        if !cpu::supports(&x) || x.rank() == 0 {
            let mask = self.mask_tensor(x.dims(), &Device::Cpu)?;
            let mask = mask.to_dtype(x.dtype())?.to_device(x.device())?;
            return x * mask;
        }
        let width = x.dim(D::Minus1)?.max(1);
        let y = cpu::with_slices([&x], |[x]| {
            let mut y = Vec::with_capacity(x.len());
            let spare = SharedMut::new_spare(&mut y);
            x.par_chunks(ROWS * width).enumerate().for_each(|(block, x)| {
                let mut mask = self.mask();
                let mut values = vec![0f32; width];
                for (row, x) in x.chunks_exact(width).enumerate() {
                    values.copy_from_slice(x);
                    let row = block * ROWS + row;
                    mask.multiply(row, &mut values);
                    // SAFETY: the rows of this task's block, for which there is room.
                    unsafe { spare.write(row * width, width, values.iter().copied()) };
                }
            });
            // SAFETY: every row was written.
            unsafe { y.set_len(x.len()) };
            y
        })?;
        Tensor::from_vec(y, x.shape(), x.device())
    }
}

/// Draws the rows of a mask.
pub(super) struct Mask {
    rng: ChaCha8Rng,
    threshold: u16,
    scale: f32,
    bytes: Vec<u8>,
}

impl Mask {
    /// Multiplies `values` by row number `row` of the mask; all rows have one width.
    pub fn multiply(&mut self, row: usize, values: &mut [f32]) {
        let blocks = values.len().div_ceil(PER_BLOCK);
        self.rng.set_word_pos(row as u128 * blocks as u128 * WORDS);
        self.bytes.resize(2 * values.len(), 0);
        self.rng.fill_bytes(&mut self.bytes);
        for (value, bytes) in values.iter_mut().zip(self.bytes.chunks_exact(2)) {
            let drawn = u16::from_le_bytes([bytes[0], bytes[1]]);
            *value *= if drawn < self.threshold { 0.0 } else { self.scale };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    #[test]
    fn the_share_asked_for_is_left_out_and_means_stay() -> anyhow::Result<()> {
        let dropout = Dropout { share: 0.3, seed: 5, stream: 9 };
        let x = Tensor::ones((70, 300), DType::F32, &Device::Cpu)?;
        let y = dropout.apply(&x)?;
        let values = y.flatten_all()?.to_vec1::<f32>()?;
        let zeros = values.iter().filter(|&&value| value == 0.0).count() as f64 / 21_000.0;
        assert!((zeros - 0.3).abs() < 0.02, "{zeros}");
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 21_000.0;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        // The same by the mask, in another type; another stream is another mask.
        let same = dropout.apply(&x.to_dtype(DType::F64)?)?.to_dtype(DType::F32)?;
        golden::close("f64", &same, &y, 1e-6)?;
        let other = Dropout { stream: 10, ..dropout }.apply(&x)?;
        assert!(golden::close("other", &other, &y, 0.1).is_err());
        Ok(())
    }

    #[test]
    fn gradients_pass_where_values_did() -> anyhow::Result<()> {
        let dropout = Dropout { share: 0.5, seed: 1, stream: 2 };
        let x = Tensor::ones((5, 33), DType::F32, &Device::Cpu)?;
        let mut tape = Tape::default();
        let y = dropout.apply_taped(&x, &mut tape)?;
        let dx = tape.backward(&x, &mut crate::Gradients::default())?;
        golden::close("dx", &dx.ok_or_else(|| anyhow::anyhow!("none"))?, &y, 0.0)?;
        let off = Dropout { share: 0.0, ..dropout };
        golden::close("off", &off.apply_taped(&x, &mut Tape::default())?, &x, 0.0)
    }
}
