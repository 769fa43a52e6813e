//! A batch that goes through the networks in parts.

use anyhow::{Result, ensure};
use candle_core::Tensor;

/// `images` in parts of at most `size`, each with its share of the pictures.
pub(super) fn parts(images: &Tensor, size: usize) -> Result<Vec<(Tensor, f64)>> {
    let count = images.dim(0)?;
    if count <= size {
        return Ok(vec![(images.clone(), 1.0)]);
    }
    let starts = (0..count).step_by(size);
    starts
        .map(|start| {
            let len = size.min(count - start);
            Ok((images.narrow(0, start, len)?.contiguous()?, len as f64 / count as f64))
        })
        .collect()
}

/// Gradients by name, summed over parts of a batch.
#[derive(Default)]
pub(super) struct Sums(pub Vec<(String, Tensor)>);

impl Sums {
    /// Adds `share` of each gradient: losses are means, so that of a batch is made of its
    /// parts' by their shares of the pictures.
    pub fn add(&mut self, gradients: Vec<(String, Tensor)>, share: f64) -> Result<()> {
        if share == 1.0 {
            self.0 = gradients;
            return Ok(());
        }
        if self.0.is_empty() {
            let scale = |(name, gradient): (String, Tensor)| Ok((name, (gradient * share)?));
            self.0 = gradients.into_iter().map(scale).collect::<Result<_>>()?;
            return Ok(());
        }
        ensure!(self.0.len() == gradients.len(), "parts of a batch have other gradients");
        for ((name, sum), (other, gradient)) in self.0.iter_mut().zip(gradients) {
            ensure!(*name == other, "parts of a batch have other gradients: {name}, {other}");
            *sum = (&*sum + (gradient * share)?)?;
        }
        Ok(())
    }
}
