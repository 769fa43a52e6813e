//! Anti-aliased rendering of a function of the plane.

use image::{Rgb, RgbImage};

/// Linear light, red, green, blue, 0 to 1.
pub type Color = [f32; 3];

/// Samples per pixel and axis.
const SAMPLES: u32 = 5;

/// The picture of `shade(x, y)`, where the shorter side spans -1 to 1, x goes
/// right and y goes up. Light is averaged over a pixel before it is encoded.
pub fn render(width: u32, height: u32, shade: fn(f32, f32) -> Color) -> RgbImage {
    let scale = 2.0 / width.min(height) as f32;
    RgbImage::from_fn(width, height, |px, py| {
        let mut sum = [0.0f32; 3];
        for sub in 0..SAMPLES * SAMPLES {
            let offset = |i: u32| (i as f32 + 0.5) / SAMPLES as f32;
            let x = (px as f32 + offset(sub % SAMPLES) - width as f32 / 2.0) * scale;
            let y = (height as f32 / 2.0 - py as f32 - offset(sub / SAMPLES)) * scale;
            let color = shade(x, y);
            for (total, value) in sum.iter_mut().zip(color) {
                *total += value.clamp(0.0, 1.0);
            }
        }
        Rgb(sum.map(|total| encode(total / (SAMPLES * SAMPLES) as f32)))
    })
}

/// The sRGB transfer function.
fn encode(linear: f32) -> u8 {
    let value =
        if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
    (255.0 * value).round() as u8
}

/// A colour as people write it, 0xRRGGBB, in linear light.
pub fn rgb(hex: u32) -> Color {
    [hex >> 16, hex >> 8, hex].map(|byte| {
        let value = (byte & 255) as f32 / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    })
}

/// From `a` (t = 0) to `b` (t = 1).
pub fn mix(a: Color, b: Color, t: f32) -> Color {
    let t = t.clamp(0.0, 1.0);
    [0, 1, 2].map(|i| a[i] + (b[i] - a[i]) * t)
}

/// `color` times `light`.
pub fn lit(color: Color, light: f32) -> Color {
    color.map(|value| value * light)
}

/// 0 below `from`, 1 above `to`, smooth between.
pub fn smoothstep(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// How strongly a surface of unit normal `n` is lit from the upper left, with
/// some light from everywhere.
pub fn diffuse(n: [f32; 3]) -> f32 {
    const LIGHT: [f32; 3] = [-0.45, 0.66, 0.60];
    let facing = n[0] * LIGHT[0] + n[1] * LIGHT[1] + n[2] * LIGHT[2];
    0.38 + 0.72 * facing.max(0.0)
}

/// The highlight of that light on a shiny surface.
pub fn highlight(n: [f32; 3], sharpness: f32) -> f32 {
    // Halfway between the light and the eye at (0, 0, 1).
    const HALF: [f32; 3] = [-0.25, 0.37, 0.894];
    (n[0] * HALF[0] + n[1] * HALF[1] + n[2] * HALF[2]).max(0.0).powf(sharpness)
}

/// The normal of a unit-height dome over a disc of radius `r` around (cx, cy),
/// or `None` outside.
pub fn dome(x: f32, y: f32, cx: f32, cy: f32, r: f32) -> Option<[f32; 3]> {
    let (u, v) = ((x - cx) / r, (y - cy) / r);
    let left = 1.0 - u * u - v * v;
    (left > 0.0).then(|| [u, v, left.sqrt()])
}
