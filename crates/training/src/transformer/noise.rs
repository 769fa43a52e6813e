//! What is random about a step: every number is a function of (seed, step, purpose).

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::init::stream_of;

/// The generator for one `purpose` in step `step`.
pub fn step_rng(seed: u64, step: u64, purpose: &str) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream_of(&format!("step {step}: {purpose}")));
    rng
}

/// Whether something of probability `share` happens.
pub(super) fn happens(rng: &mut ChaCha8Rng, share: f64) -> bool {
    (f64::from(rng.next_u32()) + 0.5) * 2f64.powi(-32) < share
}

/// The codes `[B, L]` that the model reads in place of `codes`: each stays with
/// probability `keep`, else it is one of `count`, all alike (the reference's `pkeep`).
pub(super) fn noisy(
    codes: &[Vec<u32>],
    keep: f64,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Vec<u32>> {
    let mut draw = |code: u32| {
        let kept = happens(rng, keep);
        let other = ((u64::from(rng.next_u32()) * count as u64) >> 32) as u32;
        if kept { code } else { other }
    };
    codes.iter().map(|row| row.iter().map(|&code| draw(code)).collect()).collect()
}

/// `mask * codes + (1 - mask) * random` for u32 tensors of one shape: the noise of the
/// reference with its mask (0 or 1) given.
///
/// # Errors
/// If the shapes differ.
pub fn keep_or_replace(codes: &Tensor, mask: &Tensor, random: &Tensor) -> Result<Tensor> {
    mask.where_cond(codes, random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_share_asked_for_is_replaced() {
        let codes = vec![vec![1000u32; 500]; 20];
        let made = noisy(&codes, 0.8, 16, &mut step_rng(3, 4, "codes"));
        let replaced: Vec<u32> = made.iter().flatten().copied().filter(|&c| c != 1000).collect();
        assert!((1800..2200).contains(&replaced.len()), "{}", replaced.len());
        assert!(replaced.iter().all(|&code| code < 16));
        assert!((0..16).all(|code| replaced.contains(&code)));
        assert_eq!(made, noisy(&codes, 0.8, 16, &mut step_rng(3, 4, "codes")));
        assert_ne!(made, noisy(&codes, 0.8, 16, &mut step_rng(3, 5, "codes")));
        assert_eq!(codes, noisy(&codes, 1.0, 16, &mut step_rng(3, 4, "codes")));
    }
}
