//! Label maps: how many pixels keep their label.

use anyhow::Result;
use candle_core::Tensor;
use codebook::CodeUsage;
use image_data::{likeliest_labels, one_hot};
use vq_autoencoder::{ImageCodec, VqModel};

use super::{Quality, Validation};
use crate::step::binary_cross_entropy;

/// Reconstructs `batches` of label maps `[B, H, W]`, u8, and measures what is right. The
/// model has a channel a label.
///
/// # Errors
/// If a map does not fit the model.
pub fn validate_labels(model: &VqModel, batches: &[Tensor]) -> Result<Validation> {
    let labels = model.config().in_channels;
    let mut usage = CodeUsage::new(model.codebook_len());
    let mut counts = Counts::new(labels);
    let (mut maps, mut bce) = (0, 0.0);
    for batch in batches {
        let input = one_hot(batch, labels)?;
        let codes = model.encode(&input)?;
        let logits = model.decode(&codes)?;
        usage.add(&codes)?;
        let count = batch.dim(0)?;
        let loss = binary_cross_entropy(&logits, &input)?.to_scalar::<f32>()?;
        bce += count as f64 * f64::from(loss);
        counts.add(batch, &likeliest_labels(&logits)?)?;
        maps += count;
    }
    Ok(Validation {
        pictures: maps,
        quality: Quality::Labels {
            bce: bce / maps.max(1) as f64,
            accuracy: counts.accuracy(),
            mean_iou: counts.mean_iou(),
        },
        usage: usage.used_fraction(),
        perplexity: usage.perplexity(),
    })
}

/// Pixels of each label: that have it, that are given it, both.
struct Counts {
    had: Vec<u64>,
    given: Vec<u64>,
    both: Vec<u64>,
}

impl Counts {
    fn new(labels: usize) -> Self {
        let zeros = || vec![0; labels];
        Self { had: zeros(), given: zeros(), both: zeros() }
    }

    /// Counts the labels that pixels have and those they are given, two tensors of one
    /// shape.
    fn add(&mut self, had: &Tensor, given: &Tensor) -> Result<()> {
        let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<u8>();
        for (had, given) in values(had)?.into_iter().zip(values(given)?) {
            self.had[usize::from(had)] += 1;
            self.given[usize::from(given)] += 1;
            self.both[usize::from(had)] += u64::from(had == given);
        }
        Ok(())
    }

    fn accuracy(&self) -> f64 {
        let pixels: u64 = self.had.iter().sum();
        self.both.iter().sum::<u64>() as f64 / pixels.max(1) as f64
    }

    fn mean_iou(&self) -> f64 {
        let (mut sum, mut labels) = (0.0, 0);
        for ((&had, &given), &both) in self.had.iter().zip(&self.given).zip(&self.both) {
            if had > 0 {
                sum += both as f64 / (had + given - both) as f64;
                labels += 1;
            }
        }
        sum / f64::from(labels.max(1))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn overlap_counts_labels_that_are_there() -> Result<()> {
        let map = |labels: &[u8]| Tensor::from_slice(labels, (1, 2, 3), &Device::Cpu);
        let mut counts = Counts::new(5);
        // Label 3 is given to a pixel and nowhere to be found; label 4 is neither.
        counts.add(&map(&[0, 0, 0, 1, 1, 2])?, &map(&[0, 0, 1, 1, 3, 2])?)?;
        assert!((counts.accuracy() - 4.0 / 6.0).abs() < 1e-12);
        assert!((counts.mean_iou() - (2.0 / 3.0 + 1.0 / 3.0 + 1.0) / 3.0).abs() < 1e-12);
        // Of all maps together.
        counts.add(&map(&[2; 6])?, &map(&[2, 2, 2, 2, 0, 0])?)?;
        let expected = (2.0 / 5.0 + 1.0 / 3.0 + 5.0 / 7.0) / 3.0;
        assert!((counts.mean_iou() - expected).abs() < 1e-12);
        assert!((counts.accuracy() - 8.0 / 12.0).abs() < 1e-12);
        assert_eq!((Counts::new(3).accuracy(), Counts::new(3).mean_iou()), (0.0, 0.0));
        Ok(())
    }
}
