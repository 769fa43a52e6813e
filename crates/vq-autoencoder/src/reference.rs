//! Configurations as the reference's project files spell them.

use codebook::QuantizerConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::config::VqConfig;
use crate::error::{Error, Result};
use crate::layout::Layout;

/// `params` of a model in a taming project file. The loss, the keys of the
/// data and the label colours do not shape the network and are not read.
#[derive(Deserialize)]
struct ModelParams {
    embed_dim: usize,
    n_embed: usize,
    ddconfig: DdConfig,
    #[serde(default)]
    remap: Value,
    #[serde(default = "published_kl_weight")]
    kl_weight: f64,
}

/// `ddconfig`: the arguments of the reference's `Encoder` and `Decoder`. Like
/// the reference, names it does not know are passed over.
#[derive(Deserialize)]
struct DdConfig {
    ch: usize,
    #[serde(default = "default_ch_mult")]
    ch_mult: Vec<usize>,
    num_res_blocks: usize,
    attn_resolutions: Vec<usize>,
    in_channels: usize,
    out_ch: usize,
    resolution: usize,
    z_channels: usize,
    #[serde(default)]
    dropout: f64,
    // What no published first stage sets, and this crate does not build.
    #[serde(default)]
    double_z: bool,
    #[serde(default = "yes")]
    resamp_with_conv: bool,
    #[serde(default)]
    give_pre_end: bool,
    #[serde(default)]
    tanh_out: bool,
    #[serde(default)]
    use_linear_attn: bool,
    #[serde(default = "vanilla")]
    attn_type: String,
}

fn yes() -> bool {
    true
}
fn vanilla() -> String {
    "vanilla".to_owned()
}
/// The default of `Encoder.__init__`.
fn default_ch_mult() -> Vec<usize> {
    vec![1, 2, 4, 8]
}
/// The default of `GumbelVQ.__init__`.
fn published_kl_weight() -> f64 {
    1e-8
}

impl VqConfig {
    /// The configuration of a model in one of the reference's project files:
    /// its `target` (a Python class) and its `params`.
    ///
    /// Known targets end in `VQModel`, `VQSegmentationModel`, `GumbelVQ` or
    /// latent diffusion's `VQModelInterface`.
    ///
    /// # Errors
    /// [`Error::Reference`] for an unknown target, a missing field or an option
    /// that no published first stage uses; [`Error::Config`] if the result is
    /// not valid.
    pub fn from_reference(target: &str, params: &Value) -> Result<Self> {
        let ModelParams { embed_dim, n_embed, ddconfig, remap, kl_weight } =
            ModelParams::deserialize(params).map_err(|error| Error::Reference {
                what: format!("the params of {target} do not describe an autoencoder: {error}"),
                hint: "pass the project file saved beside the checkpoint",
            })?;
        ddconfig.refuse_unpublished()?;
        if !remap.is_null() {
            return Err(Error::Reference {
                what: format!("remap: {remap} renumbers the codes"),
                hint: "set it to null for codes of the whole codebook, and apply codebook::Remap \
                       to them",
            });
        }
        let class = target.rsplit('.').next().unwrap_or(target);
        let quantizer = match class {
            "VQModel" | "VQSegmentationModel" | "VQModelInterface" => QuantizerConfig::Euclidean {
                len: n_embed,
                dim: embed_dim,
                beta: 0.25,
                legacy_beta: true,
            },
            "GumbelVQ" => QuantizerConfig::Gumbel {
                len: n_embed,
                dim: embed_dim,
                features: ddconfig.z_channels,
                kl_weight,
                straight_through: true,
            },
            _ => {
                return Err(Error::Reference {
                    what: format!("target {target} is no first stage this crate knows"),
                    hint: "known are VQModel, VQSegmentationModel, GumbelVQ and VQModelInterface",
                });
            }
        };
        let config = Self {
            layout: Layout::Taming,
            in_channels: ddconfig.in_channels,
            out_channels: ddconfig.out_ch,
            ch: ddconfig.ch,
            ch_mult: ddconfig.ch_mult,
            num_res_blocks: ddconfig.num_res_blocks,
            attn_resolutions: ddconfig.attn_resolutions,
            resolution: ddconfig.resolution,
            z_channels: ddconfig.z_channels,
            quantizer,
            dropout: ddconfig.dropout,
        };
        config.validate()?;
        Ok(config)
    }
}

impl DdConfig {
    fn refuse_unpublished(&self) -> Result<()> {
        let found = if self.double_z {
            // VQModel cannot work with it: quant_conv expects z_channels.
            "double_z: true"
        } else if !self.resamp_with_conv {
            "resamp_with_conv: false"
        } else if self.give_pre_end {
            "give_pre_end: true"
        } else if self.tanh_out {
            "tanh_out: true"
        } else if self.use_linear_attn || self.attn_type != "vanilla" {
            "an attention other than vanilla"
        } else {
            return Ok(());
        };
        Err(Error::Reference {
            what: format!("ddconfig has {found}"),
            hint: "no published first stage uses it, and it is not supported",
        })
    }
}

#[cfg(test)]
#[path = "reference/tests.rs"]
mod tests;
