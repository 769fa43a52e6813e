//! The seam between pictures and training.

use image::{GrayImage, RgbImage};
use rand_chacha::ChaCha8Rng;

use crate::{DepthImage, Result};

/// One picture, ready for a batch, with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// The picture after resizing, cropping and augmentation.
    pub image: RgbImage,
    /// What people call it: the path within the dataset.
    pub name: String,
    /// The number of its class among the dataset's.
    pub class: Option<u32>,
    /// What it shows, in words.
    pub caption: Option<String>,
    /// A label for each pixel, in the same crop and flip as the picture.
    pub labels: Option<GrayImage>,
    /// A depth in [-1, 1] for each pixel, in the same crop and flip as the picture.
    pub depth: Option<DepthImage>,
}

impl Example {
    /// A picture and its name alone.
    pub fn new(image: RgbImage, name: impl Into<String>) -> Self {
        Self { image, name: name.into(), ..Self::default() }
    }
}

/// A finite set of examples.
///
/// All randomness comes from the generator that is handed in, which derives from
/// (seed, epoch, index) by [`example_rng`](crate::example_rng): the same call gives the
/// same bytes, on any thread and in any order.
pub trait Dataset: Send + Sync {
    /// How many examples there are.
    fn len(&self) -> usize;

    /// Example `index`, which is below [`len`](Dataset::len).
    ///
    /// # Errors
    /// The picture, or a map that belongs to it, cannot be read. A loader leaves the
    /// example out and goes on.
    fn get(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Example>;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
