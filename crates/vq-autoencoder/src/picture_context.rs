//! What the tiles of a large picture know of the whole of it.

use candle_core::{Result, Tensor};
use layers::{AttnBlock, GroupNorm, KeysValues, Moments, NormSilu};

/// The statistics of the group norms, and the keys and values of the
/// attentions, of a pass of a sample of a picture through a network: its tiles
/// go by these instead of their own, so neighbours agree, and a flat tile is
/// not normalised as if it were the whole picture.
///
/// They come from one pass, in which every layer has seen the work of those
/// before it, and belong together. Moments that are pooled over passes of the
/// tiles do not: each norm's come from inputs that the shared norms before it
/// no longer give, and the error grows from layer to layer (measured with
/// `examples/seams.rs`: worse than tiles that share nothing).
///
/// A codec passes it from
/// [`ImageCodec::encode_tile`](crate::ImageCodec::encode_tile) and
/// [`decode_tile`](crate::ImageCodec::decode_tile) through its network, calling
/// [`group_norm`](Self::group_norm) and [`attention`](Self::attention) wherever
/// it has one, in the same order for every tile.
#[derive(Debug)]
pub struct PictureContext {
    /// Of the group norms, in the order of the pass.
    moments: Vec<Moments>,
    /// Of the attentions, in the order of the pass.
    seen: Vec<KeysValues>,
    /// How many of each the tile at hand has passed; none while the sample
    /// passes.
    passed: Option<Passed>,
}

#[derive(Debug, Default)]
struct Passed {
    norms: usize,
    attentions: usize,
}

impl PictureContext {
    /// Of a picture whose sample comes first.
    pub(crate) fn new() -> Self {
        Self { moments: Vec::new(), seen: Vec::new(), passed: None }
    }

    /// Begins a tile.
    pub(crate) fn begin_tile(&mut self) {
        self.passed = Some(Passed::default());
    }

    /// The output of `norm`, followed by SiLU where asked, for its input `x`
    /// `[1, C, H, W]`.
    ///
    /// # Errors
    /// When the norm's channels are not those of `x`, or the tile's norms are
    /// not those of the sample.
    pub fn group_norm(&mut self, norm: &GroupNorm, x: &Tensor, silu: bool) -> Result<Tensor> {
        if silu {
            return self.norm_silu(norm, x)?.compute();
        }
        let moments = self.moments(norm, x)?;
        norm.forward_with(x, &moments, false)
    }

    /// [`group_norm`](Self::group_norm) and SiLU, for the convolution behind them.
    ///
    /// # Errors
    /// As for that.
    pub fn norm_silu(&mut self, norm: &GroupNorm, x: &Tensor) -> Result<NormSilu> {
        let moments = self.moments(norm, x)?;
        Ok(norm.silu_of(x, Some(moments)))
    }

    /// What `norm` goes by: what the sample had there, or, while that passes, what `x` has.
    fn moments(&mut self, norm: &GroupNorm, x: &Tensor) -> Result<Moments> {
        if let Some(passed) = &mut self.passed {
            return turn("group norms", &self.moments, &mut passed.norms).cloned();
        }
        let own = norm.moments(x)?;
        self.moments.push(own.clone());
        Ok(own)
    }

    /// The output of `attn`, norm included, for its input `x` `[1, C, H, W]`:
    /// a tile looks at the sample's positions.
    ///
    /// # Errors
    /// When the channels are not those of `x`, or the tile's attentions are not
    /// those of the sample.
    pub fn attention(&mut self, attn: &AttnBlock, x: &Tensor) -> Result<Tensor> {
        let normed = self.group_norm(attn.norm(), x, false)?;
        match &mut self.passed {
            Some(passed) => {
                attn.attend(x, &normed, turn("attentions", &self.seen, &mut passed.attentions)?)
            }
            None => {
                let own = attn.keys_values(&normed)?;
                let y = attn.attend(x, &normed, &own)?;
                self.seen.push(own);
                Ok(y)
            }
        }
    }
}

/// What was recorded for the next of a tile's `what`, of which it has `passed`
/// some.
fn turn<'a, T>(what: &str, recorded: &'a [T], passed: &mut usize) -> Result<&'a T> {
    let Some(found) = recorded.get(*passed) else {
        candle_core::bail!(
            "tiles: a tile passes more {what} than the {} of the picture's sample",
            recorded.len()
        )
    };
    *passed += 1;
    Ok(found)
}

#[cfg(test)]
#[path = "picture_context/tests.rs"]
mod tests;
