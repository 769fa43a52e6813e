//! The size and wiring of an autoencoder, and the rules they obey.

use codebook::QuantizerConfig;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::layout::Layout;

/// Groups of the reference's group norm: every channel count is a multiple.
const NORM_GROUPS: usize = 32;

// Configurations come from untrusted files: these bounds keep sizes computed
// from them far from overflow, and what they allocate below what a file that
// fits them could hold anyway. Published models stay below a tenth of each.

/// Most channels of a picture (a segmentation model has one per label).
const MAX_IMAGE_CHANNELS: usize = 4096;
/// Most feature channels at any level, and of the latent map.
const MAX_CHANNELS: usize = 1 << 14;
/// Most resolution levels; the factor is at most 2^(levels - 1).
const MAX_LEVELS: usize = 10;
/// Most residual blocks per level.
const MAX_RES_BLOCKS: usize = 64;
/// Largest nominal resolution.
const MAX_RESOLUTION: usize = 1 << 16;
/// Most codes.
const MAX_CODES: usize = 1 << 22;
/// Most parameters of a whole model: 16 GB in f32.
const MAX_PARAMETERS: u64 = 1 << 32;

/// The architecture of a [`VqModel`](crate::VqModel).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct VqConfig {
    /// Key names and wiring.
    pub layout: Layout,
    /// Channels of the picture encoded: 3 for RGB, 1 for depth, the number of
    /// labels for a one-hot segmentation.
    pub in_channels: usize,
    /// Channels of the picture decoded.
    pub out_channels: usize,
    /// Feature channels of the first convolution, a multiple of 32.
    pub ch: usize,
    /// Channels of each level as a multiple of `ch`, full resolution first.
    pub ch_mult: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub num_res_blocks: usize,
    /// Nominal resolutions that have attention (taming; empty for LlamaGen,
    /// which always attends in the lowest level).
    #[serde(default)]
    pub attn_resolutions: Vec<usize>,
    /// Side of the pictures the model is made for. It places the attention
    /// together with `attn_resolutions`; pictures may have any size.
    pub resolution: usize,
    /// Channels between encoder and `quant_conv`.
    pub z_channels: usize,
    /// The codebook and how codes are chosen from it.
    pub quantizer: QuantizerConfig,
    /// Dropout in the residual blocks during training. Every published model
    /// has 0, and only 0 can be trained; others load for inference.
    #[serde(default)]
    pub dropout: f64,
}

impl VqConfig {
    /// Sides of a picture over sides of its code grid: `2^(levels - 1)`.
    pub fn factor(&self) -> usize {
        1 << self.ch_mult.len().saturating_sub(1).min(MAX_LEVELS)
    }

    /// Channels of the lowest level.
    pub(crate) fn lowest_channels(&self) -> usize {
        self.ch * self.ch_mult.last().copied().unwrap_or(1)
    }

    /// Checks every rule that the architecture and this crate impose.
    ///
    /// # Errors
    /// [`Error::Config`] with the first field that breaks a rule.
    pub fn validate(&self) -> Result<()> {
        let parameters = self.parameter_count()?;
        if parameters > MAX_PARAMETERS {
            let rule = format!("the limit is {MAX_PARAMETERS}; reduce ch, ch_mult or the codebook");
            return Err(Error::config("number of parameters", parameters, rule));
        }
        Ok(())
    }

    /// The rules of [`validate`](Self::validate) but the size of the whole.
    fn validate_fields(&self) -> Result<()> {
        within("in_channels", self.in_channels, MAX_IMAGE_CHANNELS)?;
        within("out_channels", self.out_channels, MAX_IMAGE_CHANNELS)?;
        within("z_channels", self.z_channels, MAX_CHANNELS)?;
        within("resolution", self.resolution, MAX_RESOLUTION)?;
        within("num_res_blocks", self.num_res_blocks, MAX_RES_BLOCKS)?;
        within("quantizer.len", self.quantizer.len(), MAX_CODES)?;
        within("quantizer.dim", self.quantizer.dim(), MAX_CHANNELS)?;
        self.quantizer.validate()?;
        self.validate_levels()?;
        self.validate_gumbel()?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::config("dropout", self.dropout, "it must be in [0, 1)"));
        }
        Ok(())
    }

    fn validate_levels(&self) -> Result<()> {
        if self.ch_mult.is_empty() || self.ch_mult.len() > MAX_LEVELS {
            let rule = format!("it must have 1 to {MAX_LEVELS} levels");
            return Err(Error::config("ch_mult", format!("{:?}", self.ch_mult), rule));
        }
        for channels in std::iter::once(Some(self.ch))
            .chain(self.ch_mult.iter().map(|mult| self.ch.checked_mul(*mult)))
        {
            match channels {
                Some(n) if n > 0 && n <= MAX_CHANNELS && n.is_multiple_of(NORM_GROUPS) => {}
                _ => {
                    let value = format!("{} x {:?}", self.ch, self.ch_mult);
                    let rule = format!(
                        "every level's channels must be a multiple of {NORM_GROUPS} (the groups of \
                         its norms), from {NORM_GROUPS} to {MAX_CHANNELS}"
                    );
                    return Err(Error::config("ch x ch_mult", value, rule));
                }
            }
        }
        if self.attn_resolutions.len() > MAX_LEVELS {
            let rule = format!("it must have at most {MAX_LEVELS} entries");
            return Err(Error::config("attn_resolutions", self.attn_resolutions.len(), rule));
        }
        if self.layout == Layout::LlamaGen && !self.attn_resolutions.is_empty() {
            let rule = "the llamagen layout attends in its lowest level only: leave it empty";
            let value = format!("{:?}", self.attn_resolutions);
            return Err(Error::config("attn_resolutions", value, rule));
        }
        Ok(())
    }

    /// The reference's Gumbel projection takes `z_channels` inputs but is fed
    /// `quant_conv`'s output, so the two must be equal.
    fn validate_gumbel(&self) -> Result<()> {
        let QuantizerConfig::Gumbel { dim, features, .. } = self.quantizer else { return Ok(()) };
        if dim == self.z_channels && features == self.z_channels {
            return Ok(());
        }
        let rule = format!(
            "a Gumbel quantizer needs dim (embed_dim) and features equal to z_channels, {}",
            self.z_channels
        );
        Err(Error::config("quantizer", format!("dim {dim}, features {features}"), rule))
    }

    /// Weights of the encoder, the quantizer and the decoder together, without
    /// buffers.
    ///
    /// # Errors
    /// [`Error::Config`] if a single field breaks a rule.
    pub fn parameter_count(&self) -> Result<u64> {
        self.validate_fields()?;
        let [z, dim, lowest] =
            [self.z_channels, self.quantizer.dim(), self.lowest_channels()].map(wide);
        let [image_in, image_out] = [self.in_channels, self.out_channels].map(wide);
        let channels: Vec<u64> = self.ch_mult.iter().map(|mult| wide(self.ch * mult)).collect();
        let depth = wide(self.num_res_blocks);
        let mid = 2 * block(lowest, lowest) + attention(lowest);

        let mut encoder = conv(image_in, wide(self.ch), 3);
        let mut in_ch = wide(self.ch);
        for (level, &c) in channels.iter().enumerate() {
            encoder += stack(in_ch, c, depth, self.layout.attends_down(self, level));
            encoder += if level + 1 < channels.len() { conv(c, c, 3) } else { 0 };
            in_ch = c;
        }
        encoder += mid + 2 * lowest + conv(lowest, z, 3);

        let mut decoder = conv(z, lowest, 3) + mid;
        for (level, &c) in channels.iter().enumerate().rev() {
            decoder += stack(in_ch, c, depth + 1, self.layout.attends_up(self, level));
            decoder += if level > 0 { conv(c, c, 3) } else { 0 };
            in_ch = c;
        }
        decoder += 2 * in_ch + conv(in_ch, image_out, 3);

        let codebook = wide(self.quantizer.len()) * dim;
        let projection = match self.quantizer {
            QuantizerConfig::Gumbel { len, features, .. } => conv(wide(features), wide(len), 1),
            _ => 0,
        };
        Ok(encoder + conv(z, dim, 1) + codebook + projection + conv(dim, z, 1) + decoder)
    }
}

fn wide(n: usize) -> u64 {
    n as u64
}

fn conv(in_ch: u64, out_ch: u64, kernel: u64) -> u64 {
    in_ch * out_ch * kernel * kernel + out_ch
}

fn block(in_ch: u64, out_ch: u64) -> u64 {
    let shortcut = if in_ch == out_ch { 0 } else { conv(in_ch, out_ch, 1) };
    2 * in_ch + conv(in_ch, out_ch, 3) + 2 * out_ch + conv(out_ch, out_ch, 3) + shortcut
}

fn stack(in_ch: u64, out_ch: u64, count: u64, attends: bool) -> u64 {
    let attention = if attends { count * attention(out_ch) } else { 0 };
    block(in_ch, out_ch) + (count - 1) * block(out_ch, out_ch) + attention
}

fn attention(ch: u64) -> u64 {
    2 * ch + 4 * conv(ch, ch, 1)
}

fn within(field: &'static str, value: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&value) {
        Ok(())
    } else {
        Err(Error::config(field, value, format!("it must be from 1 to {max}")))
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
