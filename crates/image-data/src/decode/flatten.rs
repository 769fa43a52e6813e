//! Any decoded picture to 8-bit RGB on a white ground.

use image::{DynamicImage, RgbImage};

/// `image` as 8-bit RGB, its alpha composited on white in the encoded values
/// (not in linear light, as browsers and Pillow do), rounding to nearest once.
pub(super) fn on_white(image: DynamicImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let mut rgb = RgbImage::new(width, height);
    let out = rgb.chunks_exact_mut(3);
    match image {
        DynamicImage::ImageRgb8(image) => return image,
        DynamicImage::ImageLuma8(image) => {
            out.zip(image.iter()).for_each(|(out, &gray)| out.fill(gray));
        }
        DynamicImage::ImageLumaA8(image) => {
            out.zip(image.chunks_exact(2)).for_each(|(out, p)| out.fill(over8(p[0], p[1])));
        }
        DynamicImage::ImageRgba8(image) => {
            for (out, p) in out.zip(image.chunks_exact(4)) {
                out.copy_from_slice(&[over8(p[0], p[3]), over8(p[1], p[3]), over8(p[2], p[3])]);
            }
        }
        DynamicImage::ImageLuma16(image) => {
            out.zip(image.iter()).for_each(|(out, &gray)| out.fill(over16(gray, u16::MAX)));
        }
        DynamicImage::ImageLumaA16(image) => {
            out.zip(image.chunks_exact(2)).for_each(|(out, p)| out.fill(over16(p[0], p[1])));
        }
        DynamicImage::ImageRgb16(image) => {
            rgb.iter_mut().zip(image.iter()).for_each(|(out, &c)| *out = over16(c, u16::MAX));
        }
        DynamicImage::ImageRgba16(image) => {
            for (out, p) in out.zip(image.chunks_exact(4)) {
                out.copy_from_slice(&[over16(p[0], p[3]), over16(p[1], p[3]), over16(p[2], p[3])]);
            }
        }
        DynamicImage::ImageRgb32F(image) => {
            rgb.iter_mut().zip(image.iter()).for_each(|(out, &c)| *out = over32(c, 1.0));
        }
        // RGBA in floats, and whatever kinds `image` may gain.
        other => {
            for (out, p) in out.zip(other.into_rgba32f().chunks_exact(4)) {
                out.copy_from_slice(&[over32(p[0], p[3]), over32(p[1], p[3]), over32(p[2], p[3])]);
            }
        }
    }
    rgb
}

/// `value` with opacity `alpha` over white, both of 0..=255.
fn over8(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// `value` with opacity `alpha` over white, both of 0..=65535, as 0..=255.
fn over16(value: u16, alpha: u16) -> u8 {
    const UNIT: u64 = 65_535 * 257;
    let (value, alpha) = (u64::from(value), u64::from(alpha));
    ((value * alpha + 65_535 * (65_535 - alpha) + UNIT / 2) / UNIT) as u8
}

/// `value` with opacity `alpha` over white, both of 0..=1, as 0..=255; NaN is black.
fn over32(value: f32, alpha: f32) -> u8 {
    let (value, alpha) = (value.clamp(0.0, 1.0), alpha.clamp(0.0, 1.0));
    ((value * alpha + 1.0 - alpha) * 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use super::{over8, over16, over32};

    #[test]
    fn rounds_to_the_nearest_value() {
        for value in 0..=255_u8 {
            for alpha in 0..=255_u8 {
                let (v, a) = (f64::from(value) / 255.0, f64::from(alpha) / 255.0);
                let exact = 255.0 * (v * a + 1.0 - a);
                assert!((f64::from(over8(value, alpha)) - exact).abs() <= 0.5 + 1e-9);
                let wide = over16(u16::from(value) * 257, u16::from(alpha) * 257);
                assert_eq!(wide, over8(value, alpha));
                let float = over32(v as f32, a as f32);
                assert!((f64::from(float) - exact).abs() <= 0.5 + 1e-4);
            }
        }
        for value in 0..=u16::MAX {
            let exact = f64::from(value) / 257.0;
            assert!((f64::from(over16(value, u16::MAX)) - exact).abs() <= 0.5);
        }
        assert_eq!(over16(30_000, 0), 255);
        assert_eq!(over32(f32::NAN, 1.0), 0);
    }
}
