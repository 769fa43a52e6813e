//! Architectures from the shapes of weights.

use codebook::QuantizerConfig;
use cond_transformer::{GptConfig, LlamaConfig, PrefixConfig};
use vq_autoencoder::{Layout, VqConfig};

use super::{CodecWeights, Family, TransformerSizes, TransformerWeights};

/// The nominal resolution of every published codec. With it attention is put
/// into levels by name; pictures may have any size.
const RESOLUTION: usize = 256;
/// More levels than any network that is accepted.
const MAX_LEVELS: usize = 16;
/// More blocks in a level, or layers, than any network that is accepted.
const MAX_BLOCKS: usize = 1 << 10;

struct Shapes<'a> {
    weights: &'a checkpoints::TensorFile,
    prefix: &'a str,
}

impl Shapes<'_> {
    fn of(&self, name: &str) -> Option<&[usize]> {
        self.weights.dims(&format!("{}{name}", self.prefix))
    }

    fn has(&self, name: &str) -> bool {
        self.of(name).is_some()
    }

    fn side(&self, name: &str, axis: usize) -> Result<usize, String> {
        let shape = self.of(name).ok_or_else(|| format!("it has no {}{name}", self.prefix))?;
        shape.get(axis).copied().ok_or_else(|| format!("{name} has the shape {shape:?}"))
    }

    /// How many of `name(0)`, `name(1)`, ... there are.
    fn count(&self, limit: usize, name: impl Fn(usize) -> String) -> usize {
        (0..limit).take_while(|&i| self.has(&name(i))).count()
    }
}

pub(super) fn vq_config(codec: &CodecWeights) -> Result<VqConfig, String> {
    let shapes = Shapes { weights: &codec.file, prefix: &codec.prefix };
    let layout = match codec.family {
        Family::LlamaGenVq => Layout::LlamaGen,
        _ => Layout::Taming,
    };
    let (levels, block, attn) = match layout {
        Layout::Taming => ("down", "block", "attn"),
        Layout::LlamaGen => ("conv_blocks", "res", "attn"),
    };
    let level = |l: usize| format!("encoder.{levels}.{l}");
    let norm = |l: usize, b: usize| format!("{}.{block}.{b}.norm1.weight", level(l));
    let count = shapes.count(MAX_LEVELS, |l| norm(l, 0));
    let ch = shapes.side("encoder.conv_in.weight", 0)?;
    let mut ch_mult = Vec::with_capacity(count);
    let mut attended = Vec::new();
    for l in 0..count {
        let channels = shapes.side(&format!("{}.{block}.0.conv1.weight", level(l)), 0)?;
        if ch == 0 || !channels.is_multiple_of(ch) {
            return Err(format!("level {l} has {channels} channels, no multiple of {ch}"));
        }
        ch_mult.push(channels / ch);
        if shapes.has(&format!("{}.{attn}.0.norm.weight", level(l))) {
            attended.push(l);
        }
    }
    if !shapes.has("encoder.mid.attn_1.norm.weight") && !shapes.has("encoder.mid.1.norm.weight") {
        return Err("its middle has no attention, which every network here has".to_owned());
    }
    // Halved as often as there are levels, and doubled again, it must stay what it is.
    let resolution = RESOLUTION.max(1 << count.saturating_sub(1));
    let config = VqConfig {
        layout,
        in_channels: shapes.side("encoder.conv_in.weight", 1)?,
        out_channels: shapes.side("decoder.conv_out.weight", 0)?,
        ch,
        ch_mult,
        num_res_blocks: shapes.count(MAX_BLOCKS, |b| norm(0, b)),
        attn_resolutions: match layout {
            Layout::Taming => attended.into_iter().map(|l| resolution >> l).collect(),
            Layout::LlamaGen => Vec::new(),
        },
        resolution,
        z_channels: shapes.side("encoder.conv_out.weight", 0)?,
        quantizer: quantizer(&shapes, layout)?,
        dropout: 0.0,
    };
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

fn quantizer(shapes: &Shapes, layout: Layout) -> Result<QuantizerConfig, String> {
    let pair = |name: &str| Ok::<_, String>((shapes.side(name, 0)?, shapes.side(name, 1)?));
    if shapes.has("quantize.embed.weight") {
        let (len, dim) = pair("quantize.embed.weight")?;
        let features = shapes.side("quantize.proj.weight", 1)?;
        let (kl_weight, straight_through) = (1e-8, true);
        return Ok(QuantizerConfig::Gumbel { len, dim, features, kl_weight, straight_through });
    }
    if !shapes.has("quantize.embedding.weight") {
        return Err("it has no codebook (quantize.embedding.weight): autoencoders without one, \
                    such as AutoencoderKL, make no codes"
            .to_owned());
    }
    let (len, dim) = pair("quantize.embedding.weight")?;
    if shapes.has("quantize.cluster_size") || shapes.has("quantize.embedding.cluster_size") {
        return Ok(QuantizerConfig::Ema { len, dim, beta: 0.25, decay: 0.99, eps: 1e-5 });
    }
    Ok(match layout {
        Layout::Taming => QuantizerConfig::Euclidean { len, dim, beta: 0.25, legacy_beta: true },
        Layout::LlamaGen => {
            QuantizerConfig::Normalized { len, dim, beta: 0.25, entropy_ratio: 0.0 }
        }
    })
}

/// Width, layers and heads of the published minGPT-style models: taming's, and
/// minDALL-E's (1536, 42).
const GPT_HEADS: [(usize, usize, usize); 6] = [
    (1024, 24, 16),
    (1664, 24, 16),
    (1536, 48, 24),
    (1408, 40, 16),
    (1536, 36, 16),
    (1536, 42, 24),
];

/// Width, layers and heads of LlamaGen's models, B to 7B.
const LLAMA_HEADS: [(usize, usize, usize); 8] = [
    (768, 12, 12),
    (1024, 24, 16),
    (1280, 36, 20),
    (1536, 48, 24),
    (2560, 48, 40),
    (2048, 22, 32),
    (3200, 24, 32),
    (4096, 32, 32),
];

pub(super) fn transformer(
    weights: &TransformerWeights,
    heads: Option<usize>,
    positions: Option<usize>,
) -> Result<TransformerSizes, String> {
    let shapes = Shapes { weights: &weights.file, prefix: &weights.prefix };
    match weights.family {
        Family::LlamaGenGpt => llama(&shapes, heads, positions).map(TransformerSizes::Llama),
        _ => gpt(&shapes, heads).map(TransformerSizes::Gpt),
    }
}

fn heads_of(
    table: &[(usize, usize, usize)],
    width: usize,
    layers: usize,
    given: Option<usize>,
) -> Result<usize, String> {
    let published = || table.iter().find(|row| (row.0, row.1) == (width, layers)).map(|row| row.2);
    given.or_else(published).ok_or_else(|| {
        format!(
            "no published transformer has {layers} layers of width {width}, and weights do not \
             say how many heads there are: pass its configuration with --config"
        )
    })
}

fn gpt(shapes: &Shapes, heads: Option<usize>) -> Result<GptConfig, String> {
    let n_embd = shapes.side("tok_emb.weight", 1)?;
    let n_layer = shapes.count(MAX_BLOCKS, |i| format!("blocks.{i}.ln1.weight"));
    let config = GptConfig {
        vocab_size: shapes.side("tok_emb.weight", 0)?,
        block_size: shapes.side("pos_emb", 1)?,
        n_layer,
        n_head: heads_of(&GPT_HEADS, n_embd, n_layer, heads)?,
        n_embd,
        n_unmasked: 0,
    };
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

fn llama(
    shapes: &Shapes,
    heads: Option<usize>,
    positions: Option<usize>,
) -> Result<LlamaConfig, String> {
    let (vocab_size, dim) =
        (shapes.side("tok_embeddings.weight", 0)?, shapes.side("tok_embeddings.weight", 1)?);
    let n_layer = shapes.count(MAX_BLOCKS, |i| format!("layers.{i}.attention_norm.weight"));
    let n_head = heads_of(&LLAMA_HEADS, dim, n_layer, heads)?;
    let prefix = if shapes.has("cls_embedding.uncond_embedding") {
        let name = "cls_embedding.uncond_embedding";
        PrefixConfig::Caption { positions: shapes.side(name, 0)?, dim: shapes.side(name, 1)? }
    } else {
        let rows = shapes.side("cls_embedding.embedding_table.weight", 0)?;
        // The last one stands for no class.
        PrefixConfig::Class { classes: rows.saturating_sub(1) }
    };
    // Queries, and as many keys as values.
    let rows = shapes.side("layers.0.attention.wqkv.weight", 0)?;
    let head_dim = dim.checked_div(n_head).filter(|&size| size > 0).ok_or("heads are too many")?;
    let n_kv_head = rows.saturating_sub(dim) / 2 / head_dim;
    let hidden = shapes.side("layers.0.feed_forward.w1.weight", 0)?;
    let front = match prefix {
        PrefixConfig::Class { .. } => 1,
        PrefixConfig::Caption { positions, .. } => positions,
    };
    let stored = shapes.side("freqs_cis", 0).ok().and_then(|rows| rows.checked_sub(front));
    let block_size = positions.or(stored).ok_or(
        "the weights do not say how large the grid is: pass its configuration with --config",
    )?;
    let mut config = LlamaConfig {
        vocab_size,
        block_size,
        dim,
        n_layer,
        n_head,
        n_kv_head: (n_kv_head != n_head).then_some(n_kv_head),
        multiple_of: 256,
        ffn_dim_multiplier: None,
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix,
    };
    // Small models round less.
    let fitting = [256, 128, 64, 32, 16, 8, 4, 2, 1].into_iter().find(|&multiple| {
        config.multiple_of = multiple;
        dim < MAX_WIDTH && config.hidden_dim() == hidden
    });
    if fitting.is_none() {
        return Err(format!("its feed-forward part is {hidden} wide, which dim {dim} never gives"));
    }
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

/// Beyond every width that is accepted.
const MAX_WIDTH: usize = 1 << 20;
