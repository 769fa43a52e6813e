//! `cv2.resize` (OpenCV `modules/imgproc/src/resize.cpp`): separable, no
//! anti-aliasing; bilinear on 8 bits in fixed point.

use super::Plane;

/// Fixed-point weights have 11 fractional bits (`INTER_RESIZE_COEF_BITS`).
const WEIGHT_ONE: f32 = 2048.0;
const CUBIC_A: f32 = -0.75;

/// The source samples of every output position along one axis, and their weights.
struct Taps<const K: usize> {
    index: Vec<[usize; K]>,
    weight: Vec<[f32; K]>,
}

impl<const K: usize> Taps<K> {
    /// `first` is the index of the first tap relative to the sample left of the position;
    /// `kernel` gives the weights for the fraction. Indices are clamped to the edge.
    fn new(from: usize, to: usize, first: isize, kernel: impl Fn(f32) -> [f32; K]) -> Self {
        // OpenCV divides twice; once would differ in the last bit.
        let scale = 1.0 / (to as f64 / from as f64);
        let mut taps = Self { index: Vec::with_capacity(to), weight: Vec::with_capacity(to) };
        for i in 0..to {
            let position = (i as f64 + 0.5) * scale - 0.5;
            let floor = position.floor();
            let index = std::array::from_fn(|k| {
                (floor as isize + first + k as isize).clamp(0, from as isize - 1) as usize
            });
            taps.index.push(index);
            taps.weight.push(kernel((position - floor) as f32));
        }
        taps
    }

    /// The weights in fixed point, rounded half to even.
    fn fixed(&self) -> Vec<[i32; K]> {
        let round = |w: f32| (w * WEIGHT_ONE).round_ties_even() as i32;
        self.weight.iter().map(|weights| weights.map(round)).collect()
    }
}

fn linear_taps(from: usize, to: usize) -> Taps<2> {
    Taps::new(from, to, 0, |x| [1.0 - x, x])
}

fn cubic_taps(from: usize, to: usize) -> Taps<4> {
    const A: f32 = CUBIC_A;
    Taps::new(from, to, -1, |x| {
        let w0 = ((A * (x + 1.0) - 5.0 * A) * (x + 1.0) + 8.0 * A) * (x + 1.0) - 4.0 * A;
        let w1 = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
        let y = 1.0 - x;
        let w2 = ((A + 2.0) * y - (A + 3.0)) * y * y + 1.0;
        [w0, w1, w2, 1.0 - w0 - w1 - w2]
    })
}

/// Rows resized horizontally, kept while the output needs them again.
struct Rows<T> {
    kept: Vec<(usize, Vec<T>)>,
    capacity: usize,
}

impl<T> Rows<T> {
    fn new(capacity: usize) -> Self {
        Self { kept: Vec::with_capacity(capacity + 1), capacity }
    }

    /// Makes row `y` present.
    fn need(&mut self, y: usize, make: impl FnOnce() -> Vec<T>) {
        if self.kept.iter().any(|(kept, _)| *kept == y) {
            return;
        }
        if self.kept.len() >= self.capacity {
            self.kept.remove(0);
        }
        self.kept.push((y, make()));
    }

    fn get(&self, y: usize) -> &[T] {
        self.kept.iter().find(|(kept, _)| *kept == y).map_or(&[], |(_, row)| row)
    }
}

/// Both passes: horizontal sums of `K` taps by `horizontal`, vertical ones by `vertical`.
fn separable<T: Copy, S: Copy, const K: usize>(
    source: &Plane<T>,
    x: (&[[usize; K]], impl Fn([T; K], usize) -> S),
    y: (&[[usize; K]], impl Fn([S; K], usize) -> T),
) -> Vec<T> {
    let channels = source.channels;
    let (x_index, horizontal) = x;
    let (y_index, vertical) = y;
    let mut rows = Rows::new(K);
    let mut out = Vec::with_capacity(x_index.len() * y_index.len() * channels);
    for (dy, taps) in y_index.iter().enumerate() {
        for &sy in taps {
            rows.need(sy, || {
                let row = source.row(sy);
                let mut made = Vec::with_capacity(x_index.len() * channels);
                for (dx, taps) in x_index.iter().enumerate() {
                    for c in 0..channels {
                        made.push(horizontal(taps.map(|sx| row[sx * channels + c]), dx));
                    }
                }
                made
            });
        }
        let lines = taps.map(|sy| rows.get(sy));
        let length = x_index.len() * channels;
        out.extend((0..length).map(|i| vertical(lines.map(|line| line[i]), dy)));
    }
    out
}

/// OpenCV averages 2x2 blocks instead where both sides halve exactly.
fn halves(width: usize, height: usize, source: &Plane<impl Sized>) -> bool {
    source.width == 2 * width && source.height == 2 * height
}

fn blocks<T: Copy>(source: &Plane<T>, average: impl Fn([T; 4]) -> T) -> Vec<T> {
    let c = source.channels;
    let mut out = Vec::with_capacity(source.data.len() / 4);
    for y in 0..source.height / 2 {
        let (top, bottom) = (source.row(2 * y), source.row(2 * y + 1));
        for x in 0..source.width / 2 {
            for i in 2 * x * c..(2 * x + 1) * c {
                out.push(average([top[i], top[i + c], bottom[i], bottom[i + c]]));
            }
        }
    }
    out
}

/// `INTER_LINEAR` on 8-bit samples.
pub(super) fn linear_u8(source: &Plane<u8>, width: usize, height: usize) -> Vec<u8> {
    if halves(width, height, source) {
        return blocks(source, |b| ((b.map(u32::from).iter().sum::<u32>() + 2) >> 2) as u8);
    }
    let (x, y) = (linear_taps(source.width, width), linear_taps(source.height, height));
    let (wx, wy) = (x.fixed(), y.fixed());
    separable(
        source,
        (&x.index, |s: [u8; 2], dx: usize| {
            let w: [i32; 2] = wx[dx];
            i32::from(s[0]) * w[0] + i32::from(s[1]) * w[1]
        }),
        (&y.index, |s: [i32; 2], dy: usize| {
            // Products of 16-bit halves, as the vector instructions have it.
            let part = |k: usize| (wy[dy][k] * (s[k] >> 4)) >> 16;
            ((part(0) + part(1) + 2) >> 2).clamp(0, 255) as u8
        }),
    )
}

/// `INTER_CUBIC` on 8-bit samples, in floats: what the published wheels compute.
/// OpenCV's own fixed-point version differs by 1 in about 5% of the samples.
pub(super) fn cubic_u8(source: &Plane<u8>, width: usize, height: usize) -> Vec<u8> {
    let (x, y) = (cubic_taps(source.width, width), cubic_taps(source.height, height));
    let dot = |s: [f32; 4], w: [f32; 4]| (0..4).map(|k| s[k] * w[k]).sum::<f32>();
    separable(
        source,
        (&x.index, |s: [u8; 4], dx: usize| dot(s.map(f32::from), x.weight[dx])),
        (&y.index, |s: [f32; 4], dy: usize| dot(s, y.weight[dy]).round() as u8),
    )
}

/// `INTER_LINEAR` on float samples.
pub(super) fn linear_f32(source: &Plane<f32>, width: usize, height: usize) -> Vec<f32> {
    if halves(width, height, source) {
        return blocks(source, |b| b.iter().sum::<f32>() * 0.25);
    }
    let (x, y) = (linear_taps(source.width, width), linear_taps(source.height, height));
    separable(
        source,
        (&x.index, |s: [f32; 2], dx: usize| s[0] * x.weight[dx][0] + s[1] * x.weight[dx][1]),
        (&y.index, |s: [f32; 2], dy: usize| s[0] * y.weight[dy][0] + s[1] * y.weight[dy][1]),
    )
}

/// `INTER_NEAREST`: sample `floor(i * from / to)`.
pub(super) fn nearest<T: Copy>(source: &Plane<T>, width: usize, height: usize) -> Vec<T> {
    let index = |i: usize, from: usize, to: usize| (i * from / to).min(from - 1);
    let c = source.channels;
    let mut out = Vec::with_capacity(width * height * c);
    for y in 0..height {
        let row = source.row(index(y, source.height, height));
        for x in 0..width {
            let at = index(x, source.width, width) * c;
            out.extend_from_slice(&row[at..at + c]);
        }
    }
    out
}
