//! Layouts of pictures larger than the model's, told anew for every window
//! (`make_scene_samples.py`).

use serde::{Deserialize, Serialize};

use super::Window;
use crate::{Error, LayoutTokens, Object, Rect, Result};

/// The objects of a picture, and which part of it is drawn.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// The objects, in parts of the whole picture.
    pub objects: Vec<Object>,
    /// What is drawn of it.
    pub crop: Rect,
}

/// Scenes in front of a window: of each what lies in the window, as if that were a crop.
#[derive(Clone, Debug)]
pub struct Scenes {
    /// One for each sample.
    pub scenes: Vec<Scene>,
    /// How objects become tokens.
    pub tokens: LayoutTokens,
    /// The token of token 0.
    pub offset: u32,
}

impl Scene {
    /// The part of the whole picture under `window` at `(top, left)` of a grid of `size`.
    pub fn part(
        &self,
        window: Window,
        (top, left): (usize, usize),
        (height, width): (usize, usize),
    ) -> Rect {
        let Rect { x, y, width: across, height: down } = self.crop;
        let part = |cells: usize, of: usize| cells as f64 / of as f64;
        Rect {
            x: x + across * part(left, width),
            y: y + down * part(top, height),
            width: across * part(window.width, width),
            height: down * part(window.height, height),
        }
    }
}

impl Scenes {
    /// The tokens in front of `window` at `corner` of a grid of `size` of a sample.
    ///
    /// # Errors
    /// When there is no such sample, or its layout has no tokens.
    pub fn tokens(
        &self,
        sample: usize,
        window: Window,
        corner: (usize, usize),
        size: (usize, usize),
    ) -> Result<Vec<u32>> {
        let Some(scene) = self.scenes.get(sample) else {
            return Err(Error::Request(format!("no layout for sample {sample}")));
        };
        let part = scene.part(window, corner, size);
        let tokens = self.tokens.encode(&scene.objects, part, false)?;
        let shifted = tokens.into_iter().map(|token| token.checked_add(self.offset));
        shifted.collect::<Option<_>>().ok_or_else(|| {
            Error::Layout(format!("tokens from {} on are beyond any vocabulary", self.offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Places;
    use crate::sliding::window::Middle;

    fn object(category: u32, [x, y, width, height]: [f64; 4]) -> Object {
        let place = Rect { x, y, width, height };
        Object { category, place, group: false, occluded: false, depiction: false, inside: false }
    }

    #[test]
    fn a_window_is_told_what_a_crop_of_it_would_be() -> Result<()> {
        let window = Window { height: 16, width: 16, middle: Middle::Before };
        let objects = vec![object(3, [0.1, 0.1, 0.3, 0.4]), object(7, [0.5, 0.25, 0.5, 0.75])];
        for (places, encode_crop) in
            [(Places::Boxes, false), (Places::Boxes, true), (Places::Centres, true)]
        {
            let tokens = LayoutTokens {
                categories: 10,
                max_objects: 4,
                vocabulary: 1024,
                places,
                encode_crop,
                tell_groups: false,
                tell_attributes: false,
            };
            let scenes = |crop: Rect, offset| Scenes {
                scenes: vec![Scene { objects: objects.clone(), crop }],
                tokens: tokens.clone(),
                offset,
            };
            let (height, width) = (20, 40);
            let whole = scenes(Rect::FULL, 5);
            for (row, column) in [(0, 0), (9, 12), (19, 39), (3, 25)] {
                let corner = (window.top(row, height), window.left(column, width));
                // The reference's numbers: (x0 / W, y0 / H, 16 / W, 16 / H).
                let crop = Rect {
                    x: corner.1 as f64 / 40.0,
                    y: corner.0 as f64 / 20.0,
                    width: 16.0 / 40.0,
                    height: 16.0 / 20.0,
                };
                let expected: Vec<u32> = tokens
                    .encode(&objects, crop, false)?
                    .into_iter()
                    .map(|token| token + 5)
                    .collect();
                assert_eq!(whole.tokens(0, window, corner, (height, width))?, expected);
            }
            let (left, right) = ((0, 0), (0, 24));
            let of = |corner| whole.tokens(0, window, corner, (height, width));
            assert_ne!(of(left)?, of(right)?);
            assert!(whole.tokens(1, window, left, (height, width)).is_err());
            // A window of the size of what is drawn sees all of the crop.
            let crop = Rect { x: 0.25, y: 0.5, width: 0.5, height: 0.5 };
            let part = scenes(crop, 0);
            let told = part.tokens(0, window, (0, 0), (16, 16))?;
            assert_eq!(told, tokens.encode(&objects, crop, false)?);
            assert!(scenes(crop, u32::MAX).tokens(0, window, (0, 0), (16, 16)).is_err());
        }
        Ok(())
    }

    #[test]
    fn the_window_is_where_the_reference_has_it_for_scenes() {
        let window = Window { middle: Middle::Before, ..Window::default() };
        for width in [16, 17, 24, 40] {
            for x in 0..width as i64 {
                let expected = (x - 7).clamp(0, width as i64 - 16);
                assert_eq!(window.left(x as usize, width) as i64, expected, "{x} of {width}");
            }
        }
    }
}
