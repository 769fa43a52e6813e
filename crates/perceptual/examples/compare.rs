//! What PSNR, SSIM and LPIPS say about a picture damaged in four ways.
//!
//! ```text
//! cargo run --release -p perceptual --example compare
//! cargo run --release -p perceptual --example compare -- WEIGHTS.safetensors [PREFIX]
//! ```
//! The second form adds LPIPS, from a checkpoint that holds it below `PREFIX` (the
//! reference's VQGAN checkpoints do, below `loss.perceptual_loss`).

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use perceptual::{Lpips, LpipsConfig, Rgb8, psnr_rgb8, ssim_rgb8};

const SIDE: usize = 96;

/// A disc with a soft shade on a checkerboard.
fn picture() -> Vec<u8> {
    let pixel = |i: usize| {
        let (c, x, y) = (i % 3, i / 3 % SIDE, i / 3 / SIDE);
        let (dx, dy) = (x as f64 - 48.0, y as f64 - 48.0);
        let shade = 1.0 - dx.hypot(dy) / 36.0;
        let board = if (x / 12 + y / 12) % 2 == 0 { 90.0 } else { 160.0 };
        let value = if shade > 0.0 { [240.0, 120.0, 60.0][c] * shade.sqrt() } else { board };
        value as u8
    };
    (0..3 * SIDE * SIDE).map(pixel).collect()
}

/// `f` of every position `(x, y, channel)`.
fn map(f: impl Fn(usize, usize, usize) -> f64) -> Vec<u8> {
    let pixel = |i: usize| f(i / 3 % SIDE, i / 3 / SIDE, i % 3).clamp(0.0, 255.0) as u8;
    (0..3 * SIDE * SIDE).map(pixel).collect()
}

fn tensor(bytes: &[u8]) -> Result<Tensor> {
    let t = Tensor::from_slice(bytes, (1, SIDE, SIDE, 3), &Device::Cpu)?;
    Ok(t.permute((0, 3, 1, 2))?.to_dtype(DType::F32)?.affine(1.0 / 127.5, -1.0)?)
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let lpips = match args.next() {
        Some(path) => {
            let bytes = std::fs::read(path)?;
            let vb = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)?;
            let vb = match args.next() {
                Some(prefix) => vb.pp(prefix),
                None => vb,
            };
            Some(Lpips::new(&LpipsConfig::of_weights(&vb)?, vb)?)
        }
        None => None,
    };

    let original = picture();
    let at = |x: usize, y: usize, c: usize| {
        f64::from(original[3 * (y.min(SIDE - 1) * SIDE + x.min(SIDE - 1)) + c])
    };
    let blurred = map(|x, y, c| {
        let around =
            (0..25).map(|i| at((x + i % 5).saturating_sub(2), (y + i / 5).saturating_sub(2), c));
        around.sum::<f64>() / 25.0
    });
    let noisy = map(|x, y, c| at(x, y, c) + ((x * 31 + y * 57 + c * 11) * 7919 % 41) as f64 - 20.0);
    let damaged = [
        ("none", original.clone()),
        ("brighter by 12", map(|x, y, c| at(x, y, c) + 12.0)),
        ("noise of ±20", noisy),
        ("blur 5x5", blurred),
        ("one pixel aside", map(|x, y, c| at(x + 1, y, c))),
    ];

    println!("{:<16} {:>8} {:>7} {:>7}", "damage", "PSNR dB", "SSIM", "LPIPS");
    let view = |bytes| Rgb8::new(SIDE as u32, SIDE as u32, bytes);
    for (name, bytes) in &damaged {
        let psnr = psnr_rgb8(view(&original)?, view(bytes)?)?;
        let ssim = ssim_rgb8(view(&original)?, view(bytes)?)?;
        let distance = match &lpips {
            Some(lpips) => {
                let distance = lpips.forward(&tensor(&original)?, &tensor(bytes)?)?;
                format!("{:.4}", distance.flatten_all()?.get(0)?.to_scalar::<f32>()?)
            }
            None => "-".to_string(),
        };
        println!("{name:<16} {psnr:>8.2} {ssim:>7.4} {distance:>7}");
    }
    Ok(())
}
