//! A picture in one hue: lightness and, as far as a screen can show it, chroma stay.

use image::{Rgb, RgbImage};
use palette::convert::IntoColorUnclamped;
use palette::{FromColor, LinSrgb, OklabHue, Oklch, Srgb};

/// Halvings of the chroma that a screen can show.
const HALVINGS: usize = 12;
/// Mean chroma of what is called gray, at most.
const GRAY: f32 = 0.045;
/// How far a channel may lie outside of 0 to 1: what rounding makes of white.
const SLACK: f32 = 1e-5;

/// A colour and the hue that is called so, in degrees of Oklab's circle (Ottosson 2020).
pub struct Colour {
    /// Its word.
    pub name: &'static str,
    /// None: gray.
    hue: Option<f32>,
}

/// What pictures are painted in: hues that light and dark things are mostly called alike in.
/// (Dark yellow is olive.)
pub const COLOURS: [Colour; 8] = [
    Colour { name: "red", hue: Some(27.0) },
    Colour { name: "green", hue: Some(145.0) },
    Colour { name: "blue", hue: Some(255.0) },
    Colour { name: "purple", hue: Some(310.0) },
    Colour { name: "gray", hue: None },
    Colour { name: "orange", hue: Some(55.0) },
    Colour { name: "teal", hue: Some(195.0) },
    Colour { name: "pink", hue: Some(355.0) },
];

fn oklch(&Rgb(pixel): &Rgb<u8>) -> Oklch {
    Oklch::from_color(Srgb::<u8>::from(pixel).into_format::<f32>().into_linear())
}

fn is_shown(colour: LinSrgb) -> bool {
    let inside = |channel: f32| (-SLACK..=1.0 + SLACK).contains(&channel);
    inside(colour.red) && inside(colour.green) && inside(colour.blue)
}

/// What the colour of some pixels is called, all together; none of no pixels.
pub fn called<'a>(pixels: impl Iterator<Item = &'a Rgb<u8>>) -> Option<&'static str> {
    let (mut count, mut chroma, mut sum) = (0_usize, 0.0, [0.0; 2]);
    for pixel in pixels {
        let pixel = oklch(pixel);
        let (sin, cos) = pixel.hue.into_radians().sin_cos();
        sum = [sum[0] + pixel.chroma * cos, sum[1] + pixel.chroma * sin];
        chroma += pixel.chroma;
        count += 1;
    }
    if count == 0 {
        return None;
    }
    let is_gray = chroma / (count as f32) < GRAY;
    let hue = OklabHue::from_radians(sum[1].atan2(sum[0]));
    let away = |colour: &Colour| {
        let off = |of: f32| (hue - OklabHue::new(of)).into_degrees().abs();
        // Every hue is as far from gray as may be, and gray from every hue.
        colour.hue.map_or(if is_gray { 0.0 } else { 360.0 }, |of| off(of) + 1.0)
    };
    COLOURS.iter().min_by(|a, b| away(a).total_cmp(&away(b))).map(|colour| colour.name)
}

/// Mean chroma of a picture: 0 for grays, about 0.25 for the purest red.
pub fn chroma(picture: &RgbImage) -> f64 {
    let total: f64 = picture.pixels().map(|pixel| f64::from(oklch(pixel).chroma)).sum();
    total / f64::from(picture.width() * picture.height()).max(1.0)
}

impl Colour {
    /// The picture in this colour.
    pub fn paint(&self, picture: &RgbImage) -> RgbImage {
        let mut painted = picture.clone();
        for pixel in painted.pixels_mut() {
            *pixel = self.pixel(pixel);
        }
        painted
    }

    fn pixel(&self, pixel: &Rgb<u8>) -> Rgb<u8> {
        let from = oklch(pixel);
        let hue = OklabHue::new(self.hue.unwrap_or(0.0));
        let with =
            |chroma: f32| -> LinSrgb { Oklch::new(from.l, chroma, hue).into_color_unclamped() };
        let wanted = if self.hue.is_some() { from.chroma } else { 0.0 };
        let (mut low, mut high) = (0.0, wanted);
        if is_shown(with(wanted)) {
            low = wanted;
        } else {
            for _ in 0..HALVINGS {
                let middle = (low + high) / 2.0;
                *(if is_shown(with(middle)) { &mut low } else { &mut high }) = middle;
            }
        }
        let shown = Srgb::<f32>::from_linear(with(low)).into_format::<u8>();
        Rgb([shown.red, shown.green, shown.blue])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lightness_stays_and_the_hue_is_the_one_asked_for() {
        let picture = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * 16) as u8, (y * 16) as u8, 90]));
        for colour in &COLOURS {
            let painted = colour.paint(&picture);
            for (before, after) in picture.pixels().zip(painted.pixels()) {
                let (before, after) = (oklch(before), oklch(after));
                assert!((before.l - after.l).abs() < 0.02, "{}: {before:?} {after:?}", colour.name);
                let Some(hue) = colour.hue else {
                    assert!(after.chroma < 0.005, "{after:?}");
                    continue;
                };
                let off = (after.hue - OklabHue::new(hue)).into_degrees().abs();
                assert!(after.chroma < 0.03 || off < 6.0, "{}: {after:?}", colour.name);
            }
        }
    }

    #[test]
    fn white_black_and_gray_stay() {
        for gray in [0, 1, 90, 254, 255] {
            let pixel = Rgb([gray; 3]);
            for colour in &COLOURS {
                let Rgb(painted) = colour.pixel(&pixel);
                assert!(painted.iter().all(|&p| p.abs_diff(gray) <= 1), "{painted:?}");
            }
        }
    }
}
