//! Learns a codebook for feature maps whose vectors crowd around a few centres:
//! quantize, move the codes (EMA), and revive those that nothing is nearest to.
//!
//! `cargo run --release -p codebook --example quantize`

use candle_core::{Device, Tensor};
use codebook::{
    CodeUsage, EmaQuantizer, EmaState, Quantizer, QuantizerConfig, Result, Revival, gumbel_noise,
};

const SEED: u64 = 1;
const LEN: usize = 32;
const DIM: usize = 4;
const CENTRES: usize = 24;
const EPS: f64 = 1e-5;
/// Batch, height, width.
const SIZE: (usize, usize, usize) = (4, 16, 16);

fn main() -> Result<()> {
    let device = Device::Cpu;
    // Any seeded noise will do for data; this is the one at hand.
    let centres = gumbel_noise((1, 1, CENTRES, DIM), SEED, 0, &device)?.reshape((CENTRES, DIM))?;
    let codebook = (gumbel_noise((1, 1, LEN, DIM), SEED, 1, &device)?.reshape((LEN, DIM))? * 0.1)?;
    let mut state = EmaState::from_codebook(&codebook, EPS)?;

    println!("step  mean squared error  codes used  perplexity  revived");
    for step in 0..=60u64 {
        let z = feature_map(&centres, step)?;
        let quantizer = EmaQuantizer::new(state.clone(), 0.25, 0.9, EPS)?;
        let quantized = quantizer.quantize(&z)?;
        state = quantizer.update(&z, &quantized.codes)?;

        let mut usage = CodeUsage::new(quantizer.len());
        usage.add(&quantized.codes)?;
        let mut revived = 0;
        if step % 10 == 0 && step < 50 {
            let vectors = z.permute((0, 2, 3, 1))?.reshape(((), DIM))?;
            let revival = Revival::draw(&usage.dead_codes(), &vectors, SEED, step)?;
            revived = revival.rows().len();
            state = state.revived(&revival, EPS)?;
        }
        if step % 10 == 0 {
            println!(
                "{step:4}  {:18.4}  {:9.0}%  {:10.1}  {revived:7}",
                quantized.losses.commitment.to_scalar::<f32>()?,
                100.0 * usage.used_fraction(),
                usage.perplexity(),
            );
        }
    }

    // What inference does, from a configuration and named weights.
    let config = QuantizerConfig::Euclidean { len: LEN, dim: DIM, beta: 0.25, legacy_beta: true };
    let weights = [("embedding.weight".to_owned(), state.codebook)].into_iter().collect();
    let dtype = candle_core::DType::F32;
    let quantizer = config.build(candle_nn::VarBuilder::from_tensors(weights, dtype, &device))?;
    let codes = quantizer.codes(&feature_map(&centres, 1000)?)?;
    println!("\nthe first map as codes:");
    for row in codes.get(0)?.to_vec()?.chunks(SIZE.2) {
        println!("{}", row.iter().map(|code| format!("{code:3}")).collect::<String>());
    }
    let embeddings = quantizer.embed(&codes)?;
    println!("and back as vectors: {:?}", embeddings.shape());
    Ok(())
}

/// Vectors near centres in diagonal stripes, `[B, DIM, H, W]`.
fn feature_map(centres: &Tensor, step: u64) -> Result<Tensor> {
    let (b, h, w) = SIZE;
    let stripes: Vec<u32> = (0..b * h * w)
        .map(|i| ((i / (h * w) * 6 + i / w % h / 2 + i % w / 2) % CENTRES) as u32)
        .collect();
    let stripes = Tensor::from_vec(stripes, b * h * w, centres.device())?;
    let noise = gumbel_noise((b, DIM, h, w), SEED, 2 + step * b as u64, centres.device())?;
    let vectors = centres.index_select(&stripes, 0)?.reshape((b, h, w, DIM))?;
    Ok((vectors.permute((0, 3, 1, 2))? + (noise * 0.05)?)?)
}
