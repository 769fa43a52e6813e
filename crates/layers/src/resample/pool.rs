//! The maximum of blocks of 2x2 on a CPU, and the way back.

use rayon::prelude::*;

/// The place of the first maximum in a block, in reading order; of the first NaN, if there is one.
fn first([a, b, c, d]: [f32; 4]) -> u8 {
    let (mut best, mut at) = (a, 0);
    for (i, value) in [(1, b), (2, c), (3, d)] {
        if !best.is_nan() && (value > best || value.is_nan()) {
            (best, at) = (value, i);
        }
    }
    at
}

/// The maxima of planes of `h` x `w`, and their places in their blocks.
pub fn forward(x: &[f32], (h, w): (usize, usize)) -> (Vec<f32>, Vec<u8>) {
    let (rows, columns) = (h / 2, w / 2);
    let planes = x.len() / (h * w);
    let mut y = vec![0.0; planes * rows * columns];
    let mut places = vec![0; y.len()];
    let outputs = y.par_chunks_exact_mut(rows * columns);
    let outputs = outputs.zip(places.par_chunks_exact_mut(rows * columns));
    outputs.zip(x.par_chunks_exact(h * w)).for_each(|((y, places), x)| {
        let outputs = y.chunks_exact_mut(columns).zip(places.chunks_exact_mut(columns));
        for ((y, places), pair) in outputs.zip(x.chunks_exact(2 * w)) {
            let (upper, lower) = pair.split_at(w);
            let blocks = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
            for ((y, place), (upper, lower)) in y.iter_mut().zip(places).zip(blocks) {
                let block = [upper[0], upper[1], lower[0], lower[1]];
                *place = first(block);
                *y = block[usize::from(*place)];
            }
        }
    });
    (y, places)
}

/// `plus`, or zeros, with the gradient of each maximum added where it was.
pub fn gradient(
    dy: &[f32],
    places: &[u8],
    (h, w): (usize, usize),
    plus: Option<&[f32]>,
) -> Vec<f32> {
    let (rows, columns) = (h / 2, w / 2);
    let planes = dy.len() / (rows * columns);
    let mut dx = plus.map_or_else(|| vec![0.0; planes * h * w], <[f32]>::to_vec);
    let sources = dy.par_chunks_exact(rows * columns).zip(places.par_chunks_exact(rows * columns));
    dx.par_chunks_exact_mut(h * w).zip(sources).for_each(|(dx, (dy, places))| {
        let sources = dy.chunks_exact(columns).zip(places.chunks_exact(columns));
        for (pair, (dy, places)) in dx.chunks_exact_mut(2 * w).zip(sources) {
            for (column, (dy, place)) in dy.iter().zip(places).enumerate() {
                let (below, right) = (usize::from(place / 2), usize::from(place % 2));
                pair[below * w + 2 * column + right] += dy;
            }
        }
    });
    dx
}
