//! Label maps as people look at them.

use image::{GrayImage, Rgb, RgbImage};

use crate::LabelClass;

/// A colour for each of the 256 labels that a map may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelColors([Rgb<u8>; 256]);

impl LabelColors {
    /// The colours that `classes` state, as `#RRGGBB`; labels without one have that of
    /// Pascal VOC's palette (label 0 is black).
    pub fn new(classes: &[LabelClass]) -> Self {
        let mut colors = std::array::from_fn(|label| voc(label as u8));
        for class in classes {
            let place = colors.get_mut(class.id as usize);
            if let (Some(place), Some(color)) = (place, stated(&class.color)) {
                *place = color;
            }
        }
        Self(colors)
    }

    /// The colour of `label`.
    pub fn color(&self, label: u8) -> Rgb<u8> {
        self.0[usize::from(label)]
    }

    /// `labels` in colours.
    pub fn paint(&self, labels: &GrayImage) -> RgbImage {
        RgbImage::from_fn(labels.width(), labels.height(), |x, y| {
            self.color(labels.get_pixel(x, y)[0])
        })
    }
}

/// `#RRGGBB`.
fn stated(color: &str) -> Option<Rgb<u8>> {
    let digits = color.trim().strip_prefix('#').filter(|digits| digits.len() == 6)?;
    // `from_str_radix` takes a sign, too.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let [_, r, g, b] = u32::from_str_radix(digits, 16).ok()?.to_be_bytes();
    Some(Rgb([r, g, b]))
}

/// The palette of Pascal VOC's label maps (`VOClabelcolormap` of its development kit):
/// bits 0, 1, 2 of the label are the highest bits of red, green, blue, bits 3, 4, 5 the
/// next ones, and so on.
fn voc(label: u8) -> Rgb<u8> {
    let channel = |channel: u8| {
        let bit = |place: u8| label.checked_shr(u32::from(3 * place + channel)).unwrap_or(0) & 1;
        (0..3).fold(0, |value, place| value | bit(place) << (7 - place))
    };
    Rgb([channel(0), channel(1), channel(2)])
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    #[test]
    fn colors_are_stated_or_those_of_voc() {
        let class = |id, color: &str| LabelClass { id, name: String::new(), color: color.into() };
        let wrong = ["", "0A44D2", "#0A44D", "#+A44D2", "#0A44D2FF", "#ä44D2", "red"];
        let classes: Vec<_> = wrong.iter().map(|color| class(2, color)).collect();
        let colors = LabelColors::new(&classes);
        // Background, aeroplane, bicycle, bird, potted plant, void.
        for (label, color) in [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (3, [128, 128, 0]),
            (16, [0, 64, 0]),
            (255, [224, 224, 192]),
        ] {
            assert_eq!(colors.color(label).0, color, "{label}");
        }
        let all: std::collections::BTreeSet<_> = (0..=255).map(|i| colors.color(i).0).collect();
        assert_eq!(all.len(), 256);

        let colors = LabelColors::new(&[class(1, "#0A44D2"), class(300, "#FFFFFF")]);
        let map = GrayImage::from_fn(2, 1, |x, _| Luma([x as u8]));
        let painted = colors.paint(&map);
        assert_eq!(painted.as_raw(), &[0, 0, 0, 0x0A, 0x44, 0xD2]);
    }
}
