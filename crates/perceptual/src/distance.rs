//! How far apart feature maps are, channel vectors made of unit length, on a CPU: what
//! [`crate::lpips`] computes from candle's ops otherwise, in passes over pixels that stay in the
//! cache.

use rayon::prelude::*;

/// Added to the norm of a feature vector.
pub const EPS: f64 = 1e-10;
/// Pixels of all channels that are gone through at a time.
const PIXELS: usize = 64;

/// Two batches of feature maps `[B, C, pixels]`, and the weight of each channel.
#[derive(Clone, Copy)]
pub struct Maps<'a> {
    pub x: &'a [f32],
    pub y: &'a [f32],
    pub weights: &'a [f32],
    pub pixels: usize,
}

/// Numbers of some neighbouring pixels.
type Line = [f32; PIXELS];

/// Reciprocals of norms, of which `eps` is added to each; 0 where a vector is 0.
fn reciprocals(squares: &Line, eps: f32) -> Line {
    squares.map(|square| if square == 0.0 { 0.0 } else { 1.0 / (square.sqrt() + eps) })
}

impl Maps<'_> {
    /// Numbers of a picture's maps.
    fn of_picture(&self) -> usize {
        self.weights.len() * self.pixels
    }

    /// Calls `f` with a channel's weight and the numbers of both maps in pixels
    /// `first..first + len` of a picture, channel by channel.
    fn channels(
        &self,
        picture: usize,
        (first, len): (usize, usize),
        mut f: impl FnMut(f32, &[f32], &[f32]),
    ) {
        for (channel, weight) in self.weights.iter().enumerate() {
            let at = picture * self.of_picture() + channel * self.pixels + first;
            f(*weight, &self.x[at..at + len], &self.y[at..at + len]);
        }
    }

    /// Squares of the norms of both.
    fn squares(&self, picture: usize, pixels: (usize, usize)) -> (Line, Line) {
        let (mut of_x, mut of_y) = ([0.0; PIXELS], [0.0; PIXELS]);
        self.channels(picture, pixels, |_, x, y| {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                of_x[i] += x * x;
                of_y[i] += y * y;
            }
        });
        (of_x, of_y)
    }

    /// Chunks of a picture's pixels: first, and how many.
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let pixels = self.pixels;
        (0..pixels).step_by(PIXELS).map(move |first| (first, PIXELS.min(pixels - first)))
    }

    /// Of each picture the mean over pixels of the weighted squares of differences.
    pub fn distances(&self) -> Vec<f64> {
        let pictures = self.x.len() / self.of_picture();
        let sum = |picture: usize, pixels: (usize, usize)| {
            let (of_x, of_y) = self.squares(picture, pixels);
            let [of_x, of_y] = [of_x, of_y].map(|squares| reciprocals(&squares, EPS as f32));
            let mut sums = [0.0_f32; PIXELS];
            self.channels(picture, pixels, |weight, x, y| {
                for (i, (x, y)) in x.iter().zip(y).enumerate() {
                    let difference = x * of_x[i] - y * of_y[i];
                    sums[i] += weight * difference * difference;
                }
            });
            sums.iter().map(|sum| f64::from(*sum)).sum::<f64>()
        };
        let chunks: Vec<_> = self.chunks().collect();
        (0..pictures)
            .map(|picture| {
                // Added up in order: a sum does not depend on the threads.
                let sums: Vec<f64> =
                    chunks.par_iter().map(|pixels| sum(picture, *pixels)).collect();
                sums.into_iter().sum::<f64>() / self.pixels as f64
            })
            .collect()
    }

    /// The gradient to `y`, where that to the distance of each picture is `upstream`.
    pub fn gradient(&self, upstream: &[f32]) -> Vec<f32> {
        let mut dy = vec![0.0; self.y.len()];
        for (picture, dy) in dy.chunks_exact_mut(self.of_picture()).enumerate() {
            let scale = -2.0 * upstream[picture] / self.pixels as f32;
            let made: Vec<_> = self
                .chunks()
                .collect::<Vec<_>>()
                .into_par_iter()
                .map(|pixels| (pixels, self.chunk_gradient(picture, pixels, scale)))
                .collect();
            let channels = dy.par_chunks_exact_mut(self.pixels).enumerate();
            channels.for_each(|(channel, dy)| {
                for ((first, len), chunk) in &made {
                    dy[*first..first + len].copy_from_slice(&chunk[channel * len..][..*len]);
                }
            });
        }
        dy
    }

    /// `[C, len]` of it. With `b = y / n` of a pixel, where `n = |y| + 1e-10`, and `d` the gradient to
    /// `b`, that to `y` is `d / n - y (d . y) / (n² |y|)`.
    fn chunk_gradient(&self, picture: usize, pixels: (usize, usize), scale: f32) -> Vec<f32> {
        let (of_x, squares) = self.squares(picture, pixels);
        let [of_x, of_y] = [of_x, squares].map(|squares| reciprocals(&squares, EPS as f32));
        let exact = reciprocals(&squares, 0.0);
        let mut along = [0.0_f32; PIXELS];
        self.channels(picture, pixels, |weight, x, y| {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                along[i] += weight * (x * of_x[i] - y * of_y[i]) * y;
            }
        });
        for (along, (norm, exact)) in along.iter_mut().zip(of_y.iter().zip(exact)) {
            // In this order: of features of 1e-19 the factors alone are beyond f32.
            *along = *along * norm * norm * exact;
        }
        let mut dy = Vec::with_capacity(self.weights.len() * pixels.1);
        self.channels(picture, pixels, |weight, x, y| {
            dy.extend(x.iter().zip(y).enumerate().map(|(i, (x, y))| {
                let to_unit = weight * (x * of_x[i] - y * of_y[i]);
                scale * (to_unit * of_y[i] - y * along[i])
            }));
        });
        dy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gradient of one pixel by its formula, in f64.
    fn formula(x: &[f32], y: &[f32], weights: &[f32]) -> Vec<f64> {
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let (x, y, weights) = (wide(x), wide(y), wide(weights));
        let length = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (of_x, exact) = (length(&x) + EPS, length(&y));
        let of_y = exact + EPS;
        let to_unit: Vec<f64> =
            (0..x.len()).map(|c| -2.0 * weights[c] * (x[c] / of_x - y[c] / of_y)).collect();
        let along: f64 = to_unit.iter().zip(&y).map(|(d, y)| d * y).sum();
        let gradient = |c: usize| to_unit[c] / of_y - y[c] * along / (of_y * of_y * exact);
        (0..x.len()).map(gradient).collect()
    }

    #[test]
    fn features_of_any_size_have_the_formulas_gradient() {
        let (x, y, weights) = ([1.0, 2.0, 0.5], [0.3, 0.0, 0.7], [0.5, 0.25, 2.0]);
        for size in [1e-19_f32, 1e-12, 1e-10, 1e-6, 1.0, 1e6] {
            let y = y.map(|y| y * size);
            let maps = Maps { x: &x, y: &y, weights: &weights, pixels: 1 };
            let (found, expected) = (maps.gradient(&[1.0]), formula(&x, &y, &weights));
            let largest = expected.iter().fold(0.0_f64, |largest, d| largest.max(d.abs()));
            for (a, b) in found.iter().zip(&expected) {
                // Squares of the smallest have few bits left.
                let within = if size < 1e-18 { 1e-4 } else { 1e-6 };
                assert!((f64::from(*a) - b).abs() <= within * largest, "{size}: {a} is not {b}");
            }
        }
    }
}
