//! Floating-point operations of the networks, by the direct method: convolutions
//! and the products of attention, a multiply-add counted as two.

use vq_autoencoder::VqConfig;

/// A convolution of `side * side` outputs.
pub fn convolution(i: usize, o: usize, kernel: usize, side: usize) -> usize {
    2 * i * o * kernel * kernel * side * side
}

/// The four 1x1 convolutions and two matrix products of an attention block.
pub fn attention(channels: usize, side: usize) -> usize {
    let positions = side * side;
    4 * convolution(channels, channels, 1, side) + 4 * positions * positions * channels
}

fn block(i: usize, o: usize, side: usize) -> usize {
    let shortcut = if i == o { 0 } else { convolution(i, o, 1, side) };
    convolution(i, o, 3, side) + convolution(o, o, 3, side) + shortcut
}

fn middle(channels: usize, side: usize) -> usize {
    2 * block(channels, channels, side) + attention(channels, side)
}

/// `count` blocks of a level of the taming layout, the first from `i` channels to `o`.
fn level(
    config: &VqConfig,
    index: usize,
    (i, o): (usize, usize),
    count: usize,
    side: usize,
) -> usize {
    let attends = config.attn_resolutions.contains(&(config.resolution >> index));
    let attention = if attends { count * attention(o, side) } else { 0 };
    block(i, o, side) + (count - 1) * block(o, o, side) + attention
}

/// Encoder and `quant_conv` of a picture of `side * side`.
pub fn encoder(config: &VqConfig, side: usize) -> usize {
    let mut channels = config.ch;
    let mut side = side;
    let mut sum = convolution(config.in_channels, channels, 3, side);
    let levels = config.ch_mult.len();
    for (index, factor) in config.ch_mult.iter().enumerate() {
        let out = config.ch * factor;
        sum += level(config, index, (channels, out), config.num_res_blocks, side);
        channels = out;
        if index + 1 < levels {
            side /= 2;
            sum += convolution(out, out, 3, side);
        }
    }
    let z = config.z_channels;
    sum + middle(channels, side)
        + convolution(channels, z, 3, side)
        + convolution(z, config.quantizer.dim(), 1, side)
}

/// `post_quant_conv` and decoder of a picture of `side * side`.
pub fn decoder(config: &VqConfig, side: usize) -> usize {
    let mut side = side / config.factor();
    let z = config.z_channels;
    let mut channels = config.ch * config.ch_mult.last().copied().unwrap_or(1);
    let mut sum = convolution(config.quantizer.dim(), z, 1, side)
        + convolution(z, channels, 3, side)
        + middle(channels, side);
    for (index, factor) in config.ch_mult.iter().enumerate().rev() {
        let out = config.ch * factor;
        sum += level(config, index, (channels, out), config.num_res_blocks + 1, side);
        channels = out;
        if index > 0 {
            side *= 2;
            sum += convolution(out, out, 3, side);
        }
    }
    sum + convolution(channels, config.out_channels, 3, side)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    /// What torch's `FlopCounterMode` counts for `peers/network.py`.
    #[test]
    fn agrees_with_torch() -> anyhow::Result<()> {
        let config = VqConfig::preset("imagenet-f16-16384").context("no such preset")?;
        assert_eq!(encoder(&config, 256), 138_428_809_216);
        assert_eq!(decoder(&config, 256), 252_748_759_040);
        Ok(())
    }
}
