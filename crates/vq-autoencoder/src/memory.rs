//! How much memory a picture takes, and tiles that stay under a limit.
//!
//! Counted are the activations of one pass in inference, which dwarf the rest.
//! Not counted: the weights (4 bytes a parameter), the picture itself as it
//! comes and goes, and what tiles know of the whole picture (keys and values of
//! the attention of one tile: 4 MB per attention of the f16 presets).

use crate::any_size::TileConfig;
use crate::config::VqConfig;
use crate::error::{Error, Result};

/// Feature maps of a level's widest size that are alive at once: a residual
/// block's input, its hidden map, and what group norm, SiLU and convolution
/// work on. `examples/round_trip.rs` compares: on candle's CPU ops it measured
/// 690 MiB for 512x512 pixels of `imagenet-f16-1024`, where 768 are estimated.
const LIVE_MAPS: u64 = 6;
/// Copies of the attention matrix that are alive at once: scores, scaled
/// scores, their exponentials, weights.
const LIVE_SCORES: u64 = 4;
const BYTES: u64 = 4;

/// Longest side of a tile chosen by [`TileConfig::within`]: larger ones bring
/// no better pictures, and attention slows down with their fourth power.
const MAX_TILE: usize = 2048;
/// Overlap of tiles chosen by [`TileConfig::within`], where they are large
/// enough: eight cells at factor 16, see [`TileConfig`] for what that buys.
const OVERLAP: usize = 128;

impl VqConfig {
    /// About how many bytes of activations (f32, inference) encoding and
    /// decoding a picture of `pixels` takes at its peak, of a valid
    /// configuration.
    pub fn peak_bytes(&self, pixels: u64) -> u64 {
        let mut neighbour = self.ch;
        let mut peak = 0;
        for (level, mult) in self.ch_mult.iter().enumerate() {
            let positions = pixels.div_ceil(1 << (2 * level.min(16)));
            let lowest = level + 1 == self.ch_mult.len();
            let below = self.ch_mult.get(level + 1).map_or(*mult, |mult| *mult) * self.ch;
            // The decoder's first block of a level takes the lower level's map,
            // already upsampled.
            let channels = (mult * self.ch).max(neighbour).max(below) as u64;
            let attends = lowest
                || self.layout.attends_down(self, level)
                || self.layout.attends_up(self, level);
            let scores = if attends { positions.saturating_mul(positions) } else { 0 };
            let maps = positions.saturating_mul(channels);
            let live = maps
                .saturating_mul(LIVE_MAPS)
                .saturating_add(scores.saturating_mul(LIVE_SCORES))
                .saturating_mul(BYTES);
            peak = live.max(peak);
            neighbour = mult * self.ch;
        }
        peak
    }
}

impl TileConfig {
    /// The largest square tiles with which [`VqConfig::peak_bytes`] of a
    /// picture of any size stays within `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Tiles`] if even the smallest useful tile, four cells, takes
    /// more; [`Error::Config`] if the configuration is invalid.
    pub fn within(limit: u64, config: &VqConfig) -> Result<Self> {
        config.validate()?;
        let factor = config.factor();
        let bytes = |cells: usize| {
            let side = (cells * factor) as u64;
            config.peak_bytes(side * side)
        };
        let largest = (MAX_TILE / factor).max(4);
        let cells = (4..=largest).rev().find(|&cells| bytes(cells) <= limit);
        let Some(cells) = cells else {
            return Err(Error::Tiles(format!(
                "the memory limit of {limit} bytes is too low for this model: its smallest tile \
                 of {0}x{0} pixels takes about {1}",
                4 * factor,
                bytes(4)
            )));
        };
        let tile = cells * factor;
        let overlap = OVERLAP.min(cells / 4 * factor).max(factor);
        Ok(Self { max_pixels: tile * tile, tile, overlap })
    }
}

#[cfg(test)]
#[path = "memory/tests.rs"]
mod tests;
