//! Times the convolution and the group norm of this crate against their plain
//! candle twins, forward and backward: `cargo run --release -p layers --example layer_speed`.

use std::time::Instant;

use candle_core::{DType, Device, Module, Result, Tensor, Var};
use layers::{Conv2d, Conv2dConfig, GroupNorm, conv, group_norm};

/// Median seconds of five runs after one to warm up.
fn time(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut seconds = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

/// Seconds of `op` forward, and forward with backward.
fn both(op: impl Fn() -> Result<Tensor>) -> Result<(f64, f64)> {
    Ok((time(|| op().map(drop))?, time(|| op()?.sum_all()?.backward().map(drop))?))
}

fn main() -> Result<()> {
    let var = |shape: &[usize]| Var::rand(-1f32, 1f32, shape, &Device::Cpu);
    println!("{:28} {:>22} {:>22}", "", "forward", "forward + backward");
    for (batch, from, to, size) in
        [(8, 32, 32, 64), (8, 64, 64, 32), (8, 128, 128, 16), (1, 256, 256, 64), (1, 128, 3, 256)]
    {
        let (x, w, b) = (var(&[batch, from, size, size])?, var(&[to, from, 3, 3])?, var(&[to])?);
        let config = Conv2dConfig::same(3);
        let layer = Conv2d::new(w.as_tensor().clone(), Some(b.as_tensor().clone()), config);
        let fast = both(|| layer.forward(&x))?;
        let plain = both(|| conv::plain::conv2d(&x, &w, Some(&b), config))?;
        let gflop = 2e-9 * (batch * from * to * 9 * size * size) as f64;
        let name = format!("conv3x3 {batch}x {from}->{to} @{size}");
        println!(
            "{name:28} {:6.1} GFLOP/s {:4.1}x {:6.1} GFLOP/s {:4.1}x",
            gflop / fast.0,
            plain.0 / fast.0,
            3.0 * gflop / fast.1,
            plain.1 / fast.1
        );
    }
    for (batch, channels, size) in [(8, 32, 64), (8, 128, 16), (1, 128, 256)] {
        let (x, w, b) =
            (var(&[batch, channels, size, size])?, var(&[channels])?, var(&[channels])?);
        let norm = GroupNorm::new(w.as_tensor().clone(), b.as_tensor().clone(), 32, 1e-6)?;
        let fast = both(|| norm.forward_silu(&x))?;
        let plain = both(|| group_norm::plain::group_norm(&x, &w, &b, 32, 1e-6)?.silu())?;
        let name = format!("group norm {batch}x {channels} @{size}");
        println!(
            "{name:28} {:6.2} ms      {:4.1}x {:6.2} ms      {:4.1}x",
            fast.0 * 1e3,
            plain.0 / fast.0,
            fast.1 * 1e3,
            plain.1 / fast.1
        );
    }
    let x = Tensor::zeros((8, 64, 32, 32), DType::F32, &Device::Cpu)?;
    println!("upsample {:.2} ms", time(|| layers::upsample_nearest2x(&x).map(drop))? * 1e3);
    Ok(())
}
