//! Which square of which resized picture an example is.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Crop, ResizeRule, ViewConfig};
use crate::Result;
use crate::random::below;
use crate::resize::{self, adm};

/// LlamaGen's `random_crop_arr`: the square is this fraction of the smaller side.
const ADM_FRACTIONS: (f64, f64) = (0.8, 1.0);

/// A square out of a resized picture. All that is random about an example is in here, so
/// that picture, labels and depth share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// The extent to which the whole picture is resized.
    pub width: u32,
    /// See `width`.
    pub height: u32,
    /// The left column of the square.
    pub x: u32,
    /// The top row of the square.
    pub y: u32,
    /// The side of the square.
    pub size: u32,
    /// Whether it is mirrored at last.
    pub flip: bool,
}

impl Geometry {
    /// The square in the middle of a picture of `extent`.
    pub(crate) fn center(extent: (u32, u32), view: &ViewConfig) -> Result<Self> {
        let side = match view.resize {
            ResizeRule::Scales { largest, .. } => largest,
            _ => view.size,
        };
        let (width, height) = resized_extent(extent, side, view.resize)?;
        let (x, y) = resize::center_origin(width, height, view.size);
        Ok(Self { width, height, x, y, size: view.size, flip: false })
    }

    /// The square of one epoch, out of what [`Loaded::prepare`](super::Loaded::prepare)
    /// left of a picture: `extent`.
    pub(crate) fn draw(
        extent: (u32, u32),
        view: &ViewConfig,
        rng: &mut ChaCha8Rng,
    ) -> Result<Self> {
        let size = view.size;
        let (width, height) = match (view.crop, view.resize) {
            (Crop::Center, _) | (_, ResizeRule::Taming | ResizeRule::TamingCubic) => extent,
            (_, ResizeRule::Adm) => {
                let side = adm::random_side(size, ADM_FRACTIONS, rng)?;
                resized_extent(extent, side, view.resize)?
            }
            (_, ResizeRule::Scales { smallest, largest, whole }) => {
                let is_whole = f64::from(rng.next_u32()) < whole * 2_f64.powi(32);
                let smallest = smallest.max(size);
                let drawn = smallest + below(rng, u64::from(largest - smallest) + 1) as u32;
                resized_extent(extent, if is_whole { size } else { drawn }, view.resize)?
            }
        };
        let (mut x, mut y) = (0, 0);
        if view.crop == Crop::Random {
            y = below(rng, u64::from(height.saturating_sub(size)) + 1) as u32;
            x = below(rng, u64::from(width.saturating_sub(size)) + 1) as u32;
        }
        let flip = view.flip && below(rng, 2) == 1;
        Ok(Self { width, height, x, y, size, flip })
    }
}

/// The extent at which the smaller side of a picture is `side`.
fn resized_extent((width, height): (u32, u32), side: u32, rule: ResizeRule) -> Result<(u32, u32)> {
    match rule {
        ResizeRule::Adm => adm::shrunk_extent(width, height, side),
        _ => Ok(resize::smallest_max_size(width, height, side)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example_rng;

    #[test]
    fn the_smaller_side_is_drawn_from_smallest_to_largest() -> Result<()> {
        for (smallest, expected) in [(0, 8..=12), (11, 11..=12), (12, 12..=12)] {
            let resize = ResizeRule::Scales { smallest, largest: 12, whole: 0.0 };
            let view = ViewConfig { crop: Crop::Random, resize, ..ViewConfig::new(8) };
            let mut seen = Vec::new();
            for epoch in 0..200 {
                let drawn = Geometry::draw((60, 40), &view, &mut example_rng(1, epoch, 0))?;
                seen.push(drawn.width.min(drawn.height));
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, expected.collect::<Vec<_>>());
        }
        Ok(())
    }
}
