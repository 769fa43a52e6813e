//! The two published wirings of the same network, and the names they give.

use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::VqConfig;

/// Whose key names and wiring a model follows.
///
/// | | taming | LlamaGen |
/// |---|---|---|
/// | encoder level *l* | `down.{l}` | `conv_blocks.{l}` |
/// | decoder level *l* (0 = full size) | `up.{l}` | `conv_blocks.{levels-1-l}` |
/// | residual block *b* | `block.{b}` | `res.{b}` |
/// | middle | `mid.block_1`, `mid.attn_1`, `mid.block_2` | `mid.0`, `mid.1`, `mid.2` |
/// | attention | where the nominal resolution is in `attn_resolutions` | in the lowest level |
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// CompVis/taming-transformers, and latent diffusion's VQ models.
    Taming,
    /// FoundationVision/LlamaGen, `tokenizer_image/vq_model.py`.
    LlamaGen,
}

impl Layout {
    /// The encoder's level `level`; 0 is the full resolution.
    pub(crate) fn down<'a>(self, vb: &VarBuilder<'a>, level: usize) -> VarBuilder<'a> {
        match self {
            Self::Taming => vb.pp("down").pp(level),
            Self::LlamaGen => vb.pp("conv_blocks").pp(level),
        }
    }

    /// The decoder's level `level` of `levels`; 0 is the full resolution.
    pub(crate) fn up<'a>(self, vb: &VarBuilder<'a>, level: usize, levels: usize) -> VarBuilder<'a> {
        match self {
            Self::Taming => vb.pp("up").pp(level),
            Self::LlamaGen => vb.pp("conv_blocks").pp(levels - 1 - level),
        }
    }

    /// Residual block `index` of a level.
    pub(crate) fn block<'a>(self, level: &VarBuilder<'a>, index: usize) -> VarBuilder<'a> {
        match self {
            Self::Taming => level.pp("block").pp(index),
            Self::LlamaGen => level.pp("res").pp(index),
        }
    }

    /// The middle's residual block, attention, residual block.
    pub(crate) fn mid<'a>(self, vb: &VarBuilder<'a>) -> [VarBuilder<'a>; 3] {
        let mid = vb.pp("mid");
        match self {
            Self::Taming => ["block_1", "attn_1", "block_2"].map(|name| mid.pp(name)),
            Self::LlamaGen => [0, 1, 2].map(|index| mid.pp(index)),
        }
    }

    /// Whether the encoder's level `level` has attention.
    ///
    /// taming compares the *configured* resolution of the level, not the
    /// picture's, and rounds it down at each halving.
    pub(crate) fn attends_down(self, config: &VqConfig, level: usize) -> bool {
        match self {
            Self::Taming => config.attn_resolutions.contains(&(config.resolution >> level)),
            Self::LlamaGen => level + 1 == config.ch_mult.len(),
        }
    }

    /// Whether the decoder's level `level` has attention.
    ///
    /// taming's decoder starts from the lowest resolution and doubles it, so
    /// with an odd `resolution` its levels differ from the encoder's.
    pub(crate) fn attends_up(self, config: &VqConfig, level: usize) -> bool {
        let lowest = config.ch_mult.len() - 1;
        match self {
            Self::Taming => {
                let resolution = (config.resolution >> lowest) << (lowest - level);
                config.attn_resolutions.contains(&resolution)
            }
            Self::LlamaGen => level == lowest,
        }
    }
}
