//! Temperature, top-k and top-p over the logits of one position.

use std::cmp::Ordering;

use super::Sampling;

/// Divides `logits` by the temperature and sets those that top-k, then top-p
/// leave out to minus infinity.
///
/// Top-k keeps every logit at least as large as the k-th (so ties may leave more
/// than k). Top-p works on the soft-max of what is left, in falling order, and
/// keeps the first code that crosses p (transformers 4.3.1
/// `top_k_top_p_filtering`, LlamaGen's copy of it). Among equal logits at the
/// crossing the lower codes stay; torch leaves that to an unstable sort.
pub fn filter_logits(logits: &mut [f32], sampling: &Sampling) {
    let temperature = sampling.temperature as f32;
    if temperature != 1.0 {
        logits.iter_mut().for_each(|logit| *logit /= temperature);
    }
    if let Some(k) = sampling.top_k {
        keep_top_k(logits, k);
    }
    if sampling.top_p < 1.0 {
        keep_top_p(logits, sampling.top_p as f32);
    }
}

fn keep_top_k(logits: &mut [f32], k: usize) {
    if k == 0 || k >= logits.len() {
        return;
    }
    let mut sorted = logits.to_vec();
    let (_, &mut smallest, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    logits.iter_mut().filter(|logit| **logit < smallest).for_each(|logit| *logit = LEFT_OUT);
}

/// Codes that are put in order at first; the crossing is mostly among them.
const FIRST: usize = 256;

fn keep_top_p(logits: &mut [f32], p: f32) {
    let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] > LEFT_OUT).collect();
    let probabilities = probabilities(logits);
    // Equals stay in the order of their codes.
    let falling =
        |&a: &usize, &b: &usize| -> Ordering { logits[b].total_cmp(&logits[a]).then(a.cmp(&b)) };
    // torch sums f32 in f64 and rounds each partial sum.
    let mut sum = 0.0_f64;
    let (mut done, mut count) = (0, FIRST);
    while done < order.len() {
        let rest = &mut order[done..];
        let next = count.min(rest.len());
        if next < rest.len() {
            rest.select_nth_unstable_by(next, falling);
        }
        rest[..next].sort_unstable_by(falling);
        let crossing = rest[..next].iter().position(|&i| {
            sum += f64::from(probabilities[i]);
            sum as f32 > p
        });
        if let Some(crossing) = crossing {
            rest[crossing + 1..].iter().for_each(|&i| logits[i] = LEFT_OUT);
            return;
        }
        done += next;
        count *= 4;
    }
}

/// The soft-max of `logits`; minus infinity has no probability.
pub fn probabilities(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(LEFT_OUT, f32::max);
    let exponential = |&logit: &f32| if logit == LEFT_OUT { 0.0 } else { (logit - largest).exp() };
    let mut values: Vec<f32> = logits.iter().map(exponential).collect();
    let sum = values.iter().map(|&value| f64::from(value)).sum::<f64>() as f32;
    values.iter_mut().for_each(|value| *value /= sum);
    values
}

const LEFT_OUT: f32 = f32::NEG_INFINITY;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    /// [`keep_top_p`] by a sort of all codes.
    fn keep_top_p_plain(logits: &mut [f32], p: f32) {
        let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] > LEFT_OUT).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let probabilities = probabilities(logits);
        let mut sum = 0.0_f64;
        let crossing = order.iter().position(|&i| {
            sum += f64::from(probabilities[i]);
            sum as f32 > p
        });
        if let Some(crossing) = crossing {
            order[crossing + 1..].iter().for_each(|&i| logits[i] = LEFT_OUT);
        }
    }

    #[test]
    fn top_p_keeps_what_a_full_sort_keeps() {
        for (sample, len) in [1, 2, 255, 256, 257, 1300, 5000].into_iter().enumerate() {
            let stream = Stream { seed: 5, sample: sample as u64 };
            // Rounded, so that there are ties, some of them at the crossing.
            let value = |i| (stream.uniform(i) * 40.0).round() as f32 / 8.0;
            let mut logits: Vec<f32> = (0..len).map(value).collect();
            logits.iter_mut().step_by(7).for_each(|logit| *logit = LEFT_OUT);
            for p in [1e-6, 0.1, 0.5, 0.9, 0.999, 0.999_999_9] {
                let (mut fast, mut plain) = (logits.clone(), logits.clone());
                keep_top_p(&mut fast, p);
                keep_top_p_plain(&mut plain, p);
                assert_eq!(fast, plain, "{len} codes, p {p}");
            }
        }
    }
}
