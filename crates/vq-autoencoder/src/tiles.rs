//! How one side of a code grid is covered by overlapping tiles.
//!
//! Neighbours share at least `overlap` cells. Codes are taken from the tile
//! whose centre is nearer: the cut is in the middle of what two tiles share.
//! Pixels are blended linearly over `overlap` cells around that middle, so at
//! most two tiles of a side contribute to a pixel, and their weights add to 1.

use std::ops::Range;

use crate::error::{Error, Result};

/// A tile's extent along one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// The cells it covers.
    pub(crate) cells: Range<usize>,
    /// The cells whose codes are taken from it, within `cells`.
    pub(crate) owned: Range<usize>,
    /// The pixels over which it fades in, if it has a neighbour before it.
    fade_in: Range<usize>,
    /// The pixels over which it fades out, if it has a neighbour behind it.
    fade_out: Range<usize>,
}

impl Span {
    /// The tile that covers a whole side of `len` cells.
    pub(crate) fn whole(len: usize, factor: usize) -> Self {
        let end = len * factor;
        Self { cells: 0..len, owned: 0..len, fade_in: 0..0, fade_out: end..end }
    }

    /// The weight of this tile at `pixel` of the whole side, 0 to 1.
    pub(crate) fn weight(&self, pixel: usize) -> f32 {
        (1.0 - after(&self.fade_out, pixel)) * after(&self.fade_in, pixel)
    }
}

/// 0 before the range, 1 behind it, a linear ramp of pixel centres within.
fn after(range: &Range<usize>, pixel: usize) -> f32 {
    if pixel < range.start {
        0.0
    } else if pixel >= range.end {
        1.0
    } else {
        ((pixel - range.start) as f32 + 0.5) / range.len() as f32
    }
}

/// Covers `len` cells by as few tiles of at most `tile` cells as share
/// `overlap` cells with their neighbours, all of one length, evenly spaced.
///
/// # Errors
/// If `overlap` is more than a quarter of `tile`: then more than two tiles
/// could meet in one place.
pub(crate) fn cover(len: usize, tile: usize, overlap: usize, factor: usize) -> Result<Vec<Span>> {
    if tile == 0 || 4 * overlap > tile {
        return Err(Error::Tiles(format!(
            "an overlap of {overlap} cells does not fit tiles of {tile} cells of {factor} pixels; \
             choose an overlap of at most a quarter of the tile, and a tile of at least \
             {factor} pixels"
        )));
    }
    if len <= tile {
        return Ok(vec![Span::whole(len, factor)]);
    }
    let count = (len - overlap).div_ceil(tile - overlap);
    let tile = (len + (count - 1) * overlap).div_ceil(count);
    let start = |i: usize| i * (len - tile) / (count - 1);
    // The middle of what tiles i and i + 1 share, doubled: it may be half a cell.
    let middle = |i: usize| start(i) + tile + start(i + 1);
    let fade = |i: usize| {
        let from = middle(i) * factor / 2 - overlap * factor / 2;
        from..from + overlap * factor
    };
    let end = len * factor;
    let span = |i: usize| {
        let last = i + 1 == count;
        Span {
            cells: start(i)..start(i) + tile,
            owned: (if i == 0 { 0 } else { middle(i - 1) / 2 })..(if last {
                len
            } else {
                middle(i) / 2
            }),
            fade_in: if i == 0 { 0..0 } else { fade(i - 1) },
            fade_out: if last { end..end } else { fade(i) },
        }
    };
    Ok((0..count).map(span).collect())
}

/// Patches along a side of the sample of a picture: two are far too few, four,
/// six and twelve are alike within what two photographs can tell.
const PATCHES: usize = 6;
/// Cells along a patch at least: what its borders spoil must not prevail.
const MIN_PATCH: usize = 4;

/// Cells of a side that stand for all of it: as many as a tile has, in patches
/// spread evenly from end to end.
///
/// A sample of the picture at its true scale: a smaller version would have
/// other textures, and thereby other statistics.
pub(crate) fn sample(spans: &[Span]) -> Vec<u32> {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Vec::new() };
    let (tile, len) = (first.cells.len(), last.cells.end);
    let patches = PATCHES.min(tile / MIN_PATCH);
    if len == tile || patches < 2 {
        return (0..tile as u32).collect();
    }
    let patch = |i: usize| {
        let cells = (i + 1) * tile / patches - i * tile / patches;
        let start = i * (len - cells) / (patches - 1);
        (start..start + cells).map(|cell| cell as u32)
    };
    (0..patches).flat_map(patch).collect()
}

#[cfg(test)]
#[path = "tiles/tests.rs"]
mod tests;
