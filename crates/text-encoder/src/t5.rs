//! The encoder of T5: layers of attention and feed-forward, behind an embedding.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{Embedding, VarBuilder, embedding};

use crate::config::{EncoderConfig, FeedForward};

/// The encoder. Weights keep the type they have; everything is computed in f32.
pub(crate) struct T5Encoder {
    shared: Embedding,
    blocks: Vec<Block>,
    /// What attention adds for a distance, the same in all layers: `[buckets, heads]`.
    relative_attention_bias: Tensor,
    buckets: usize,
    max_distance: usize,
    final_layer_norm: Norm,
}

impl T5Encoder {
    /// With the names of the Hugging Face tools.
    pub(crate) fn new(
        config: &EncoderConfig,
        feed_forward: FeedForward,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let shared = embedding(config.vocab_size, config.d_model, vb.pp("shared"))?;
        let vb = vb.pp("encoder");
        let blocks = (0..config.num_layers)
            .map(|i| Block::new(config, feed_forward, vb.pp("block").pp(i).pp("layer")))
            .collect::<Result<_>>()?;
        let (buckets, heads) = (config.relative_attention_num_buckets, config.num_heads);
        let relative_attention_bias = vb
            .pp("block.0.layer.0.SelfAttention.relative_attention_bias")
            .get((buckets, heads), "weight")?;
        Ok(Self {
            shared,
            blocks,
            relative_attention_bias,
            buckets,
            max_distance: config.relative_attention_max_distance,
            final_layer_norm: Norm::new(config, vb.pp("final_layer_norm"))?,
        })
    }

    pub(crate) fn device(&self) -> &Device {
        self.relative_attention_bias.device()
    }

    /// The embeddings `[N, D]` in f32 of the tokens `[N]`.
    pub(crate) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let bias = self.position_bias(tokens.dim(0)?)?;
        let mut states = self.shared.forward(tokens)?.to_dtype(DType::F32)?;
        for block in &self.blocks {
            states = block.forward(&states, &bias)?;
        }
        self.final_layer_norm.forward(&states)
    }

    /// What is added to the attention of each position to each, `[H, N, N]`.
    fn position_bias(&self, length: usize) -> Result<Tensor> {
        let buckets = (0..length * length).map(|i| {
            let (query, key) = (i / length, i % length);
            bucket(query, key, self.buckets, self.max_distance)
        });
        let buckets = Tensor::from_iter(buckets, self.device())?;
        let heads = self.relative_attention_bias.dim(1)?;
        let bias = self.relative_attention_bias.to_dtype(DType::F32)?;
        let bias = bias.index_select(&buckets, 0)?.reshape((length, length, heads))?;
        bias.permute((2, 0, 1))?.contiguous()
    }
}

/// The bucket of the distance from `query` to `key`: half of them for keys in front, half for
/// keys behind; half of each for one distance each, the others for ranges that grow like a
/// logarithm up to `max_distance`. In f32, as the reference computes it.
fn bucket(query: usize, key: usize, buckets: usize, max_distance: usize) -> u32 {
    let half = buckets / 2;
    let exact = half / 2;
    let distance = query.abs_diff(key);
    let bucket = if distance < exact {
        distance
    } else {
        let range = (max_distance as f64 / exact as f64).ln() as f32;
        let part = (distance as f32 / exact as f32).ln() / range * (half - exact) as f32;
        (exact + part as usize).min(half - 1)
    };
    (if key > query { half + bucket } else { bucket }) as u32
}

/// Attention and feed-forward, each added to what it gets.
struct Block {
    attention: Attention,
    dense: Dense,
}

impl Block {
    fn new(config: &EncoderConfig, feed_forward: FeedForward, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            attention: Attention::new(config, vb.pp(0))?,
            dense: Dense::new(config, feed_forward, vb.pp(1))?,
        })
    }

    fn forward(&self, states: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let states = (states + self.attention.forward(states, bias)?)?;
        &states + self.dense.forward(&states)?
    }
}

/// Attention without scaling: T5's initial weights are scaled instead.
struct Attention {
    layer_norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
}

impl Attention {
    fn new(config: &EncoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (dim, inner) = (config.d_model, config.num_heads * config.d_kv);
        let own = vb.pp("SelfAttention");
        Ok(Self {
            layer_norm: Norm::new(config, vb.pp("layer_norm"))?,
            q: Linear::new(dim, inner, own.pp("q"))?,
            k: Linear::new(dim, inner, own.pp("k"))?,
            v: Linear::new(dim, inner, own.pp("v"))?,
            o: Linear::new(inner, dim, own.pp("o"))?,
            heads: config.num_heads,
        })
    }

    fn forward(&self, states: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let states = self.layer_norm.forward(states)?;
        let length = states.dim(0)?;
        // [N, H * D] to [H, N, D].
        let heads = |layer: &Linear| -> Result<Tensor> {
            let out = layer.forward(&states)?;
            out.reshape((length, self.heads, ()))?.transpose(0, 1)?.contiguous()
        };
        let (q, k, v) = (heads(&self.q)?, heads(&self.k)?, heads(&self.v)?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? + bias)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        let out = weights.matmul(&v)?.transpose(0, 1)?.reshape((length, ()))?;
        self.o.forward(&out)
    }
}

/// `wo(act(wi x))`, or gated: `wo(act(wi_0 x) * wi_1 x)`.
struct Dense {
    layer_norm: Norm,
    wi: Linear,
    gate: Option<Linear>,
    wo: Linear,
    feed_forward: FeedForward,
}

impl Dense {
    fn new(config: &EncoderConfig, feed_forward: FeedForward, vb: VarBuilder<'_>) -> Result<Self> {
        let (dim, inner) = (config.d_model, config.d_ff);
        let own = vb.pp("DenseReluDense");
        let (wi, gate) = match feed_forward.gated {
            true => ("wi_0", Some(Linear::new(dim, inner, own.pp("wi_1"))?)),
            false => ("wi", None),
        };
        Ok(Self {
            layer_norm: Norm::new(config, vb.pp("layer_norm"))?,
            wi: Linear::new(dim, inner, own.pp(wi))?,
            gate,
            wo: Linear::new(inner, dim, own.pp("wo"))?,
            feed_forward,
        })
    }

    fn forward(&self, states: &Tensor) -> Result<Tensor> {
        let states = self.layer_norm.forward(states)?;
        let inner = self.feed_forward.activation.forward(&self.wi.forward(&states)?)?;
        match &self.gate {
            Some(gate) => self.wo.forward(&(inner * gate.forward(&states)?)?),
            None => self.wo.forward(&inner),
        }
    }
}

/// `x W^T`, in f32 whatever the weights are kept as.
struct Linear {
    weight: Tensor,
}

impl Linear {
    fn new(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: vb.get((outputs, inputs), "weight")? })
    }

    fn forward(&self, states: &Tensor) -> Result<Tensor> {
        states.matmul(&self.weight.to_dtype(DType::F32)?.t()?)
    }
}

/// Divides by the root mean square; no mean is taken off, nothing is added.
struct Norm {
    weight: Tensor,
    epsilon: f64,
}

impl Norm {
    fn new(config: &EncoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get(config.d_model, "weight")?;
        Ok(Self { weight, epsilon: config.layer_norm_epsilon })
    }

    fn forward(&self, states: &Tensor) -> Result<Tensor> {
        let square = states.sqr()?.mean_keepdim(D::Minus1)?;
        let states = states.broadcast_div(&(square + self.epsilon)?.sqrt()?)?;
        states.broadcast_mul(&self.weight.to_dtype(DType::F32)?)
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_of_distances() {
        let of = |query, key| bucket(query, key, 32, 128);
        // One each up to 7, then ranges: 8-11, 12-15, 16-22, ..., 91 and more.
        assert_eq!(
            (0..8).map(|key| of(0, key)).collect::<Vec<_>>(),
            [0, 17, 18, 19, 20, 21, 22, 23]
        );
        assert_eq!([8, 11, 12, 15, 16, 22, 23].map(|d| of(d, 0)), [8, 8, 9, 9, 10, 10, 11]);
        assert_eq!([90, 91, 127, 128, 5000].map(|d| of(0, d)), [30, 31, 31, 31, 31]);
    }
}
