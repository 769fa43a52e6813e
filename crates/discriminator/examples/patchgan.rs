//! A small PatchGAN learns to tell stripes from noise, by plain gradient descent.
//!
//! ```text
//! cargo run --release -p discriminator --example patchgan
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use discriminator::{Critic, PatchGan, PatchGanConfig, hinge_d_loss, is_buffer};
use support::{Variables, noise_tensor};

const BATCH: usize = 4;
const SIDE: usize = 32;

/// Diagonal stripes, `[B, 3, H, W]`; each step and image has its own direction.
fn stripes(step: usize) -> Result<Tensor> {
    let pixel = |i: usize| {
        let (x, y, c, b) =
            (i % SIDE, i / SIDE % SIDE, i / (SIDE * SIDE) % 3, i / (SIDE * SIDE * 3));
        let angle = (step * BATCH + b) as f32;
        ((x as f32 * angle.cos() + y as f32 * angle.sin()) * 0.7 + c as f32).sin()
    };
    let values: Vec<f32> = (0..BATCH * 3 * SIDE * SIDE).map(pixel).collect();
    Ok(Tensor::from_vec(values, (BATCH, 3, SIDE, SIDE), &Device::Cpu)?)
}

fn main() -> Result<()> {
    let store = Variables::default();
    let config = PatchGanConfig { ndf: 16, n_layers: 2, ..PatchGanConfig::default() };
    let critic = PatchGan::new(&config, store.builder(DType::F32))?;
    println!("step   loss  on stripes  on noise");
    for step in 0..=40 {
        let real = critic.logits(&stripes(step)?, true)?;
        let noise = noise_tensor(step as u64, (BATCH, 3, SIDE, SIDE))?.to_dtype(DType::F32)?;
        let fake = critic.logits(&noise, true)?;
        let loss = hinge_d_loss(&real, &fake)?;
        let grads = loss.backward()?;
        for (name, var) in store.all() {
            if let Some(grad) = grads.get(&var).filter(|_| !is_buffer(&name)) {
                var.set(&(var.as_tensor() - (grad * 0.05)?)?)?;
            }
        }
        if step % 10 == 0 {
            let mean = |t: &Tensor| t.mean_all()?.to_scalar::<f32>();
            println!(
                "{step:>4} {:>6.3} {:>11.3} {:>9.3}",
                mean(&loss)?,
                mean(&real)?,
                mean(&fake)?
            );
        }
    }
    Ok(())
}
