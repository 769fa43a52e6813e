//! A codec of ours as a project file of the reference's.

use codebook::QuantizerConfig;
use vq_autoencoder::VqConfig;

use crate::error::{Error, Result};

/// More channels than a picture has: labels.
pub(crate) const MAX_PICTURE_CHANNELS: usize = 4;

/// The text of a `*-project.yaml` with which taming-transformers builds the network
/// of `config`, without its losses.
///
/// # Errors
/// When the reference has no such quantizer.
pub(crate) fn project_file(config: &VqConfig) -> Result<String> {
    Ok(format!(
        "model:\n  base_learning_rate: 4.5e-06\n{}",
        indented(&codec_node(config, false)?, 2)
    ))
}

/// Every line of `text` further to the right.
pub(crate) fn indented(text: &str, spaces: usize) -> String {
    text.lines().map(|line| format!("{:spaces$}{line}\n", "")).collect()
}

/// The lines `target` and `params` of a codec. `grids`: its codes come as a grid for each
/// picture, which a transformer's condition needs, and not in one row for all of them.
///
/// # Errors
/// When the reference has no such quantizer.
pub(crate) fn codec_node(config: &VqConfig, grids: bool) -> Result<String> {
    let refuse = |what: &str| {
        Err(Error::Target {
            target: "taming.models.vqgan".to_owned(),
            reason: format!("it has no {what} quantizer; write our own format"),
        })
    };
    let (class, more) = match config.quantizer {
        QuantizerConfig::Euclidean { .. } if config.in_channels > MAX_PICTURE_CHANNELS => {
            let labels = config.in_channels;
            ("VQSegmentationModel", format!("  n_labels: {labels}\n  image_key: segmentation\n"))
        }
        QuantizerConfig::Euclidean { .. } => ("VQModel", String::new()),
        QuantizerConfig::Gumbel { kl_weight, .. } => {
            // It is not built without a schedule, that of the published model.
            let schedule = "  temperature_scheduler_config:\n    \
                 target: taming.lr_scheduler.LambdaWarmUpCosineScheduler\n    params:\n      \
                 warm_up_steps: 0\n      max_decay_steps: 1000001\n      lr_start: 0.9\n      \
                 lr_max: 0.9\n      lr_min: 1.0e-06\n";
            ("GumbelVQ", format!("  kl_weight: {kl_weight:e}\n{schedule}"))
        }
        QuantizerConfig::Normalized { .. } => return refuse("l2-normalised"),
        QuantizerConfig::Ema { .. } => return refuse("moving-average"),
    };
    // Gumbel's codes are a grid anyhow, and its class does not know the word.
    let sane = match config.quantizer {
        QuantizerConfig::Euclidean { .. } if grids => "  sane_index_shape: true\n",
        _ => "",
    };
    Ok(format!(
        "target: taming.models.vqgan.{class}\nparams:\n\
         \x20 embed_dim: {dim}\n  n_embed: {len}\n{more}{sane}  ddconfig:\n\
         \x20   double_z: false\n    z_channels: {z}\n    resolution: {resolution}\n\
         \x20   in_channels: {in_channels}\n    out_ch: {out}\n    ch: {ch}\n\
         \x20   ch_mult: {mult:?}\n    num_res_blocks: {blocks}\n\
         \x20   attn_resolutions: {attention:?}\n    dropout: {dropout:?}\n  lossconfig:\n\
         \x20   target: taming.modules.losses.vqperceptual.DummyLoss\n",
        dim = config.quantizer.dim(),
        len = config.quantizer.len(),
        z = config.z_channels,
        resolution = config.resolution,
        in_channels = config.in_channels,
        out = config.out_channels,
        ch = config.ch,
        mult = config.ch_mult,
        blocks = config.num_res_blocks,
        attention = config.attn_resolutions,
        dropout = config.dropout,
    ))
}
