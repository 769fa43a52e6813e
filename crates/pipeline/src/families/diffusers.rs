//! diffusers' `VQModel`: the same network under other names.
//!
//! | ours | diffusers |
//! |---|---|
//! | `down.{l}.block.{b}` | `down_blocks.{l}.resnets.{b}` |
//! | `down.{l}.attn.{b}` | `down_blocks.{l}.attentions.{b}` |
//! | `down.{l}.downsample.conv` | `down_blocks.{l}.downsamplers.0.conv` |
//! | `up.{l}.*` (0 is the full size) | `up_blocks.{levels-1-l}.*`, `upsamplers.0.conv` |
//! | `mid.block_1`, `mid.attn_1`, `mid.block_2` | `mid_block.resnets.0`, `mid_block.attentions.0`, `mid_block.resnets.1` |
//! | `norm_out` | `conv_norm_out` |
//! | `nin_shortcut` | `conv_shortcut` |
//! | `norm`, `q`, `k`, `v`, `proj_out` of attention, 1x1 convolutions | `group_norm`, `to_q`, `to_k`, `to_v`, `to_out.0`, matrices (before 2023 `query`, `key`, `value`, `proj_attn`) |
//!
//! Source: `models/autoencoders/vq_model.py`, `vae.py` and `unet_2d_blocks.py`.

use checkpoints::{Derived, TensorFile};
use codebook::QuantizerConfig;
use serde_json::{Value, json};
use vq_autoencoder::{Layout, VqConfig};

/// Names of attention: ours, today's, before 2023.
const ATTENTION: [(&str, &str, &str); 5] = [
    ("norm", "group_norm", "group_norm"),
    ("q", "to_q", "query"),
    ("k", "to_k", "key"),
    ("v", "to_v", "value"),
    ("proj_out", "to_out.0", "proj_attn"),
];

/// The tensors below `prefix` under our names.
pub(super) fn to_ours(file: &TensorFile, prefix: &str) -> Result<Vec<Derived>, String> {
    let within = |name: &str| name.strip_prefix(prefix).map(str::to_owned);
    let levels = file
        .names()
        .filter_map(|name| {
            let rest = within(name)?;
            rest.strip_prefix("decoder.up_blocks.")?.split('.').next()?.parse::<usize>().ok()
        })
        .max()
        .map_or(0, |last| last.saturating_add(1));
    let mut renamed = Vec::new();
    for name in file.names() {
        let Some(ours) = within(name).and_then(|rest| our_name(&rest, levels)) else { continue };
        let dims = file.dims(name).unwrap_or_default();
        let attention = ours.contains(".attn") && ours.ends_with(".weight");
        // A matrix is a 1x1 convolution.
        let shape = (attention && dims.len() == 2).then(|| vec![dims[0], dims[1], 1, 1]);
        let sources = vec![name.to_owned()];
        renamed.push(Derived { name: format!("{prefix}{ours}"), shape, sources });
    }
    Ok(renamed)
}

/// Our name for diffusers' `name`; `None` for those that are the same or unknown.
fn our_name(name: &str, levels: usize) -> Option<String> {
    let (half, rest) = name.split_once('.')?;
    if !matches!(half, "encoder" | "decoder") {
        return None;
    }
    if let Some(tail) = rest.strip_prefix("conv_norm_out.") {
        return Some(format!("{half}.norm_out.{tail}"));
    }
    if let Some(tail) = rest.strip_prefix("mid_block.") {
        let (part, tail) = tail.split_once('.')?;
        let (index, tail) = tail.split_once('.')?;
        return match (part, index) {
            ("resnets", "0") => Some(format!("{half}.mid.block_1.{}", residual(tail))),
            ("resnets", "1") => Some(format!("{half}.mid.block_2.{}", residual(tail))),
            ("attentions", "0") => Some(format!("{half}.mid.attn_1.{}", attention(tail)?)),
            _ => None,
        };
    }
    let mut parts = rest.splitn(5, '.');
    let (blocks, level, part) =
        (parts.next()?, parts.next()?.parse::<usize>().ok()?, parts.next()?);
    let (index, tail) = (parts.next()?, parts.next()?);
    let (side, level) = match blocks {
        "down_blocks" => ("down", level),
        "up_blocks" => ("up", levels.checked_sub(level)?.checked_sub(1)?),
        _ => return None,
    };
    let inner = match part {
        "resnets" => format!("block.{index}.{}", residual(tail)),
        "attentions" => format!("attn.{index}.{}", attention(tail)?),
        "downsamplers" if index == "0" => format!("downsample.{tail}"),
        "upsamplers" if index == "0" => format!("upsample.{tail}"),
        _ => return None,
    };
    Some(format!("{half}.{side}.{level}.{inner}"))
}

fn residual(tail: &str) -> String {
    tail.replace("conv_shortcut.", "nin_shortcut.")
}

fn attention(tail: &str) -> Option<String> {
    ATTENTION.iter().find_map(|(ours, new, old)| {
        [new, old].iter().find_map(|theirs| {
            let kind = tail.strip_prefix(*theirs)?.strip_prefix('.')?;
            Some(format!("{ours}.{kind}"))
        })
    })
}

/// diffusers' name and shape for one of ours, of a model of `levels` levels:
/// [`our_name`] backwards.
pub(crate) fn from_ours(name: &str, shape: &[usize], levels: usize) -> (String, Vec<usize>) {
    let same = || (name.to_owned(), shape.to_vec());
    let Some((half, rest)) = name.split_once('.') else { return same() };
    let parts: Vec<&str> = rest.split('.').collect();
    let theirs = match parts.as_slice() {
        ["norm_out", tail] => format!("conv_norm_out.{tail}"),
        ["mid", part, tail @ ..] => {
            let tail = tail.join(".");
            match *part {
                "block_1" => format!("mid_block.resnets.0.{}", shortcut(&tail)),
                "block_2" => format!("mid_block.resnets.1.{}", shortcut(&tail)),
                "attn_1" => format!("mid_block.attentions.0.{}", attention_back(&tail)),
                _ => return same(),
            }
        }
        [side @ ("down" | "up"), level, tail @ ..] => {
            let Ok(level) = level.parse::<usize>() else { return same() };
            let (blocks, level) = match *side {
                "down" => ("down_blocks", level),
                _ => ("up_blocks", levels.saturating_sub(level + 1)),
            };
            let inner = match tail {
                ["block", index, tail @ ..] => {
                    format!("resnets.{index}.{}", shortcut(&tail.join(".")))
                }
                ["attn", index, tail @ ..] => {
                    format!("attentions.{index}.{}", attention_back(&tail.join(".")))
                }
                ["downsample", tail @ ..] => format!("downsamplers.0.{}", tail.join(".")),
                ["upsample", tail @ ..] => format!("upsamplers.0.{}", tail.join(".")),
                _ => return same(),
            };
            format!("{blocks}.{level}.{inner}")
        }
        _ => return same(),
    };
    let shape = match shape {
        [rows, columns, 1, 1] if theirs.contains("attentions.") => vec![*rows, *columns],
        other => other.to_vec(),
    };
    (format!("{half}.{theirs}"), shape)
}

fn shortcut(tail: &str) -> String {
    tail.replace("nin_shortcut.", "conv_shortcut.")
}

fn attention_back(tail: &str) -> String {
    let new = ATTENTION.iter().find_map(|(ours, new, _)| {
        let kind = tail.strip_prefix(ours)?.strip_prefix('.')?;
        Some(format!("{new}.{kind}"))
    });
    new.unwrap_or_else(|| tail.to_owned())
}

/// Checks that a diffusers `config.json` describes the network that is here.
///
/// # Errors
/// The reason: another class, or an option that changes the network.
pub(crate) fn check_config(config: &Value) -> Result<(), String> {
    let class = config["_class_name"].as_str().unwrap_or_default();
    if class != "VQModel" {
        return Err(format!("it is a {class:.80?} of diffusers; only VQModel makes codes"));
    }
    let unless = |field: &str, fine: Value, why: &str| match &config[field] {
        Value::Null => Ok(()),
        value if *value == fine => Ok(()),
        value => Err(format!("its {field} is {value}, {why}")),
    };
    unless("norm_type", "group".into(), "and only group norm is supported (MoVQ's is spatial)")?;
    unless("act_fn", "silu".into(), "and only silu is supported")?;
    unless("norm_num_groups", 32.into(), "and only 32 groups are supported")?;
    unless("mid_block_add_attention", true.into(), "and the network here has that attention")
}

/// The `config.json` of a codec of ours.
///
/// # Errors
/// What diffusers' `VQModel` cannot be.
pub(crate) fn config_of(config: &VqConfig) -> Result<Value, String> {
    let QuantizerConfig::Euclidean { len, dim, .. } = config.quantizer else {
        return Err("its quantizer is not the plain one".to_owned());
    };
    if config.layout != Layout::Taming {
        return Err("its wiring is LlamaGen's".to_owned());
    }
    let levels = 0..config.ch_mult.len();
    let attends = |level: usize| config.attn_resolutions.contains(&(config.resolution >> level));
    let down: Vec<_> = levels
        .clone()
        .map(|l| if attends(l) { "AttnDownEncoderBlock2D" } else { "DownEncoderBlock2D" })
        .collect();
    let up: Vec<_> = levels
        .rev()
        .map(|l| if attends(l) { "AttnUpDecoderBlock2D" } else { "UpDecoderBlock2D" })
        .collect();
    let channels: Vec<_> = config.ch_mult.iter().map(|mult| mult * config.ch).collect();
    Ok(json!({
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": down,
        "in_channels": config.in_channels,
        "latent_channels": config.z_channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": 32,
        "num_vq_embeddings": len,
        "out_channels": config.out_channels,
        "sample_size": config.resolution,
        "up_block_types": up,
        "vq_embed_dim": dim,
    }))
}
