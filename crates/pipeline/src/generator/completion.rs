//! A picture of which a part is kept and the rest drawn anew.

use image::{GrayImage, RgbImage};

use super::Generator;
use crate::error::{Error, Result};

/// Pixels of a mask at least this bright are drawn anew.
const WHITE: u8 = 128;

/// What of a picture is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Keep {
    /// The first part of the codes, in the order in which the model draws them;
    /// for most models the upper part of the picture.
    First(f64),
    /// What is black in a mask of the picture's size. A code is drawn anew if any
    /// of its pixels is white.
    Mask(GrayImage),
}

/// A picture's codes, as far as they are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Row by row; none: to be drawn.
    pub codes: Vec<Option<u32>>,
}

impl Generator {
    /// The codes of `picture` that are kept.
    ///
    /// # Errors
    /// When the mask has another size than the picture, nothing or everything is
    /// kept, or the model cannot draw that size.
    pub fn completion(&self, picture: &RgbImage, keep: &Keep) -> Result<Completion> {
        let (rows, columns) = self.grid_of(picture.dimensions())?;
        let kept = match keep {
            Keep::First(part) => self.first(*part, (rows, columns))?,
            Keep::Mask(mask) => masked(mask, picture.dimensions(), self.codec.factor())?,
        };
        if kept.iter().all(|kept| *kept) {
            return Err(Error::Condition(
                "nothing is left to draw: the mask is black wherever there is a picture".to_owned(),
            ));
        }
        let codes = self.codec.encode_images(std::slice::from_ref(picture))?.to_vec()?;
        if let Some(code) = codes.iter().find(|&&code| code as usize >= self.config.codes) {
            return Err(Error::Condition(format!(
                "the picture has code {code}, and this model knows {} codes",
                self.config.codes
            )));
        }
        let codes = codes.into_iter().zip(kept).map(|(code, kept)| kept.then_some(code));
        Ok(Completion { codes: codes.collect() })
    }

    /// Which of a grid's codes are the first `part` of them.
    fn first(&self, part: f64, (rows, columns): (usize, usize)) -> Result<Vec<bool>> {
        if !(part > 0.0 && part < 1.0) {
            return Err(Error::Condition(format!(
                "--keep {part} is not between 0 and 1: it says which part of the picture stays"
            )));
        }
        let len = rows * columns;
        let count = ((len as f64 * part) as usize).min(len - 1);
        let sequence: Vec<bool> = (0..len).map(|place| place < count).collect();
        if (rows, columns) == (self.config.grid[0], self.config.grid[1]) {
            return Ok(self.permuter.restore(&sequence)?);
        }
        Ok(sequence)
    }
}

/// Which codes are black all over in a mask of a picture of `size`.
fn masked(mask: &GrayImage, size: (u32, u32), factor: usize) -> Result<Vec<bool>> {
    if mask.dimensions() != size {
        let (width, height) = mask.dimensions();
        return Err(Error::Condition(format!(
            "the mask is {width}x{height} and the picture {}x{}; give it the same size",
            size.0, size.1
        )));
    }
    let factor = factor as u32;
    let (columns, rows) = (size.0.div_ceil(factor), size.1.div_ceil(factor));
    let black = |row: u32, column: u32| {
        let ys = row * factor..((row + 1) * factor).min(size.1);
        ys.into_iter().all(|y| {
            let mut xs = column * factor..((column + 1) * factor).min(size.0);
            xs.all(|x| mask.get_pixel(x, y)[0] < WHITE)
        })
    };
    Ok((0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(r, c)| black(r, c))
        .collect())
}

/// Puts the kept pixels of `original` over `drawn`, both of one size: those of kept
/// codes (`kept`, row by row, of `factor` pixels a side) as they were, but for a
/// border of `border` pixels towards what was drawn, over which one fades into the
/// other.
///
/// # Errors
/// When sizes differ.
pub fn paste(
    drawn: &RgbImage,
    original: &RgbImage,
    kept: &[bool],
    factor: usize,
    border: u32,
) -> Result<RgbImage> {
    let (width, height) = drawn.dimensions();
    let columns = (width as usize).div_ceil(factor);
    let rows = (height as usize).div_ceil(factor);
    if original.dimensions() != (width, height) || kept.len() != rows * columns {
        return Err(Error::Condition(format!(
            "kept pixels of {}x{} do not fit a picture of {width}x{height}",
            original.width(),
            original.height()
        )));
    }
    let inside: Vec<bool> = (0..height as usize)
        .flat_map(|y| (0..width as usize).map(move |x| (x, y)))
        .map(|(x, y)| kept[y / factor * columns + x / factor])
        .collect();
    let depth = distances(&inside, width as usize);
    Ok(RgbImage::from_fn(width, height, |x, y| {
        let far = depth[y as usize * width as usize + x as usize];
        let share = (far / (border as f32 + 1.0)).min(1.0);
        let (new, old) = (drawn.get_pixel(x, y), original.get_pixel(x, y));
        let mix = |i: usize| {
            let value = f32::from(new[i]) + (f32::from(old[i]) - f32::from(new[i])) * share;
            value.round() as u8
        };
        image::Rgb([mix(0), mix(1), mix(2)])
    }))
}

/// How far each pixel that is `inside` is from one that is not, in pixels: straight
/// steps count 1, oblique ones 4/3 (the 3-4 chamfer distance, Borgefors 1986). The
/// edge of the picture is no border.
fn distances(inside: &[bool], width: usize) -> Vec<f32> {
    const FAR: u32 = u32::MAX / 2;
    let height = inside.len() / width.max(1);
    let mut third: Vec<u32> = inside.iter().map(|&inside| if inside { FAR } else { 0 }).collect();
    // Down from the left, then up from the right, looking back.
    for forward in [true, false] {
        let order: Vec<usize> =
            if forward { (0..third.len()).collect() } else { (0..third.len()).rev().collect() };
        let back: isize = if forward { -1 } else { 1 };
        for i in order {
            let (x, y) = ((i % width) as isize, (i / width) as isize);
            for (dx, dy, cost) in [(back, 0, 3), (0, back, 3), (-1, back, 4), (1, back, 4)] {
                let (nx, ny) = (x + dx, y + dy);
                if (0..width as isize).contains(&nx) && (0..height as isize).contains(&ny) {
                    let near = third[ny as usize * width + nx as usize] + cost;
                    third[i] = third[i].min(near);
                }
            }
        }
    }
    third.into_iter().map(|third| third as f32 / 3.0).collect()
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    #[test]
    fn a_code_is_kept_if_all_of_it_is_black() -> anyhow::Result<()> {
        // 7x5 pixels under codes of 4: the last column and row are cut.
        let mut mask = GrayImage::new(7, 5);
        mask.put_pixel(6, 4, Luma([255]));
        assert_eq!(masked(&mask, (7, 5), 4)?, [true, true, true, false]);
        mask.put_pixel(3, 0, Luma([127]));
        assert_eq!(masked(&mask, (7, 5), 4)?, [true, true, true, false]);
        mask.put_pixel(3, 0, Luma([128]));
        assert_eq!(masked(&mask, (7, 5), 4)?, [false, true, true, false]);
        let message = masked(&mask, (8, 5), 4).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("7x5") && message.contains("8x5"), "{message}");
        Ok(())
    }

    #[test]
    fn distances_are_those_to_the_nearest_outside() {
        let width = 9;
        let inside: Vec<bool> = (0..9 * 7).map(|i| i != 3 * width + 4).collect();
        let found = distances(&inside, width);
        for (i, far) in found.iter().enumerate() {
            let (dx, dy) = ((i % width).abs_diff(4), (i / width).abs_diff(3));
            let (long, short) = (dx.max(dy) as f32, dx.min(dy) as f32);
            let expected = long - short + short * 4.0 / 3.0;
            assert!((far - expected).abs() < 1e-5, "{i}: {far} is not {expected}");
        }
    }

    #[test]
    fn pasted_pixels_are_the_originals_and_the_border_fades() -> anyhow::Result<()> {
        let drawn = RgbImage::from_pixel(16, 8, Rgb([0; 3]));
        let original = RgbImage::from_pixel(16, 8, Rgb([200; 3]));
        let kept = [true, true, false, false, true, true, false, false];
        let at = |border: u32| -> anyhow::Result<Vec<u8>> {
            let pasted = paste(&drawn, &original, &kept, 4, border)?;
            Ok((0..16).map(|x| pasted.get_pixel(x, 3)[0]).collect())
        };
        let hard: Vec<u8> = (0..16).map(|x| if x < 8 { 200 } else { 0 }).collect();
        assert_eq!(at(0)?, hard);
        assert_eq!(at(3)?[3..9], [200, 200, 150, 100, 50, 0]);
        assert!(paste(&drawn, &RgbImage::new(15, 8), &kept, 4, 0).is_err());
        // All kept: the original.
        assert_eq!(paste(&drawn, &original, &[true; 8], 4, 9)?, original);
        Ok(())
    }
}
