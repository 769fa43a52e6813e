//! Gumbel noise that depends on nothing but the seed and the example.

use candle_core::{Device, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Values drawn by one thread in a row; any size gives the same noise.
const CHUNK: usize = 1 << 14;

/// Standard Gumbel noise `-log(-log u)`, `[B, K, H, W]`, f32, for
/// [`GumbelQuantizer::sample`](crate::GumbelQuantizer::sample).
///
/// Example `i` of the batch draws from stream `position + i` of `seed`. With
/// `position` the number of examples seen before this batch, an example's noise
/// does not depend on the batch size, the threads, or a restart.
pub fn gumbel_noise(
    shape: (usize, usize, usize, usize),
    seed: u64,
    position: u64,
    device: &Device,
) -> Result<Tensor> {
    let (b, k, h, w) = shape;
    let per_example = k * h * w;
    let mut noise = vec![0f32; b * per_example];
    for (i, example) in noise.chunks_mut(per_example.max(1)).enumerate() {
        example.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(position.wrapping_add(i as u64));
            rng.set_word_pos((chunk * CHUNK) as u128);
            for value in values {
                // In the middle of one of 2^32 equal parts of (0, 1): never 0 or 1.
                let u = (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
                *value = -(-u.ln()).ln() as f32;
            }
        });
    }
    Tensor::from_vec(noise, shape, device)
}
