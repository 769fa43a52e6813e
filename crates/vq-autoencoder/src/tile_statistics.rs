//! What the tiles of one picture know of each other: the moments that the
//! group norms of all of them normalise by.

use candle_core::{Module, Result, Tensor};
use layers::{GroupNorm, Moments};

use crate::tiles::Span;

/// The moments of the group norms of a network over the whole of a picture
/// that passes in tiles.
///
/// In the first round over the tiles every norm goes by its own input, as
/// always, and what it sees of the part that its tile owns is added up. In
/// later rounds all tiles go by what was added up the round before.
///
/// A codec that wants its tiles to agree passes this through
/// [`ImageCodec::encode_tile`](crate::ImageCodec::encode_tile) and
/// [`decode_tile`](crate::ImageCodec::decode_tile), and calls
/// [`group_norm`](Self::group_norm) wherever it has one, in the same order for
/// every tile.
#[derive(Debug, Default)]
pub struct TileStatistics {
    /// Of the norms in the order of the pass; none in the first round.
    fixed: Vec<Moments>,
    /// What this round has seen so far.
    found: Vec<Moments>,
    /// Norms that the tile at hand has passed.
    passed: usize,
    /// The tile at hand, vertically and horizontally; none in the last round,
    /// which has nothing to find out.
    tile: Option<[Span; 2]>,
}

impl TileStatistics {
    /// The output of `norm`, followed by SiLU where asked, for its input `x`
    /// `[1, C, H, W]` of the tile at hand, in the norm's turn.
    ///
    /// # Errors
    /// When the norm's channels are not those of `x`, or the tiles' norms do
    /// not come in one order.
    pub fn group_norm(&mut self, norm: &GroupNorm, x: &Tensor, silu: bool) -> Result<Tensor> {
        let turn = self.passed;
        self.passed += 1;
        if let Some(tile) = &self.tile {
            let moments = norm.moments(&owned_part(x, tile)?)?;
            match self.found.get_mut(turn) {
                Some(found) => found.merge(&moments)?,
                None => self.found.push(moments),
            }
        }
        match self.fixed.get(turn) {
            Some(moments) => norm.forward_with(x, moments, silu),
            None if !self.fixed.is_empty() => candle_core::bail!(
                "tiles: a tile passes group norm {turn}, but the picture has {}",
                self.fixed.len()
            ),
            None if silu => norm.forward_silu(x),
            None => norm.forward(x),
        }
    }

    /// Begins a tile; `last` says that this round decides on nothing.
    pub(crate) fn begin(&mut self, row: &Span, column: &Span, last: bool) {
        self.passed = 0;
        self.tile = (!last).then(|| [row.clone(), column.clone()]);
    }

    /// Ends a round: what it found holds from now on. False if it found
    /// nothing, because the codec shares nothing.
    pub(crate) fn settle(&mut self) -> bool {
        self.fixed = std::mem::take(&mut self.found);
        !self.fixed.is_empty()
    }
}

/// What a tile owns of its feature map `[1, C, H, W]`, at any resolution.
fn owned_part(x: &Tensor, tile: &[Span; 2]) -> Result<Tensor> {
    let mut part = x.clone();
    for (dim, span) in [2, 3].into_iter().zip(tile) {
        let (len, cells) = (x.dim(dim)?, span.cells.len());
        if len % cells != 0 {
            candle_core::bail!("tiles: {:?} is no feature map of {cells} cells", x.shape())
        }
        let scale = len / cells;
        let start = span.owned.start - span.cells.start;
        part = part.narrow(dim, start * scale, span.owned.len() * scale)?;
    }
    Ok(part)
}

#[cfg(test)]
#[path = "tile_statistics/tests.rs"]
mod tests;
