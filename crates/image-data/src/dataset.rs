//! The seam between pictures and training.

use image::RgbImage;
use rand_chacha::ChaCha8Rng;

use crate::Result;

/// One picture, ready for a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The picture after resizing, cropping and augmentation.
    pub image: RgbImage,
    /// What people call it: the path within the dataset.
    pub name: String,
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
    /// The picture cannot be read. A loader leaves it out and goes on.
    fn get(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Example>;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
