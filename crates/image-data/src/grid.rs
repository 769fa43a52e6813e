//! Contact sheets.

use image::{Rgb, RgbImage, imageops};

/// `images` in reading order, `columns` to a row (0: a square arrangement), on white
/// with `gap` pixels between cells. Every cell has the largest width and height among
/// the pictures; smaller ones are centred. No pictures give a picture of 1x1.
pub fn grid(images: &[RgbImage], columns: usize, gap: u32) -> RgbImage {
    let columns = match columns {
        0 => (images.len() as f64).sqrt().ceil() as usize,
        columns => columns,
    };
    let columns = columns.min(images.len()).max(1);
    let rows = images.len().div_ceil(columns);
    let cell_w = images.iter().map(RgbImage::width).max().unwrap_or(1);
    let cell_h = images.iter().map(RgbImage::height).max().unwrap_or(1);
    let extent = |cells: usize, cell: u32| {
        let cells = cells.max(1) as u32;
        cells * cell + (cells - 1) * gap
    };
    let white = Rgb([255; 3]);
    let mut sheet = RgbImage::from_pixel(extent(columns, cell_w), extent(rows, cell_h), white);
    for (i, image) in images.iter().enumerate() {
        let column = (i % columns) as u32;
        let row = (i / columns) as u32;
        let x = column * (cell_w + gap) + (cell_w - image.width()) / 2;
        let y = row * (cell_h + gap) + (cell_h - image.height()) / 2;
        imageops::replace(&mut sheet, image, x.into(), y.into());
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_pictures_in_reading_order() {
        let tiles: Vec<_> = (0..3).map(|i| RgbImage::from_pixel(4, 2, Rgb([i; 3]))).collect();
        let sheet = grid(&tiles, 2, 1);
        assert_eq!(sheet.dimensions(), (9, 5));
        let at = |x, y| sheet.get_pixel(x, y)[0];
        assert_eq!(
            [at(0, 0), at(4, 0), at(5, 1), at(0, 2), at(3, 4), at(8, 4)],
            [0, 255, 1, 255, 2, 255]
        );
        assert_eq!(grid(&tiles, 0, 0).dimensions(), (8, 4));
        assert_eq!(grid(&tiles, 9, 0).dimensions(), (12, 2));
        assert_eq!(grid(&[], 3, 2).dimensions(), (1, 1));
    }
}
