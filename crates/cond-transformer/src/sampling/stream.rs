//! Random numbers that depend on nothing but what they are for.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Words of the generator that one position owns; one f64 takes two.
const WORDS: u128 = 2;

/// The random numbers of one sample: a counter-based generator (ChaCha8) indexed
/// by (seed, sample, position).
///
/// A code drawn with it does not depend on the batch it is in, the order of work,
/// or a restart.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// The seed of the run.
    pub seed: u64,
    /// The sample, counted over the whole run.
    pub sample: u64,
}

impl Stream {
    /// The streams of samples `first..first + count` of a run.
    pub fn range(seed: u64, first: u64, count: usize) -> Vec<Self> {
        (0..count as u64).map(|i| Self { seed, sample: first.wrapping_add(i) }).collect()
    }

    /// The number in `[0, 1)` that belongs to `position`.
    pub fn uniform(&self, position: usize) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.sample);
        rng.set_word_pos(WORDS * position as u128);
        // The 53 bits that an f64 in [0, 1) can hold.
        (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
