//! Times the nearest-code search against the composed formula in candle ops:
//! `cargo run --release -p codebook --example speed [N K D]...`, with
//! `RAYON_NUM_THREADS=1` for one thread.

use std::time::Instant;

use candle_core::{D, Device, Result, Tensor};

/// Vectors, codes, dimension.
const SHAPES: [[usize; 3]; 12] = [
    [4096, 16384, 256],
    [4096, 16384, 8],
    [256, 16384, 256],
    [256, 1024, 256],
    [4096, 1024, 256],
    [1024, 8192, 64],
    [4096, 16384, 4],
    [4096, 16384, 16],
    [1024, 262144, 8],
    [256, 262144, 64],
    [1024, 512, 512],
    [1, 16384, 256],
];

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

/// `argmin_k |e_k|^2 - 2 z.e_k` as a product of matrices and an arg-min.
fn composed(vectors: &Tensor, codebook: &Tensor) -> Result<Tensor> {
    let norms = codebook.sqr()?.sum(1)?;
    let dots = vectors.matmul(&codebook.t()?)?;
    norms.broadcast_sub(&(dots * 2.0)?)?.argmin(D::Minus1)
}

fn main() -> Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let mut shapes: Vec<_> = sizes.chunks_exact(3).map(|s| [s[0], s[1], s[2]]).collect();
    if shapes.is_empty() {
        shapes = SHAPES.to_vec();
    }
    println!("vectors x codes x dim      search                    composed");
    for [n, k, dim] in shapes {
        let vectors = Tensor::randn(0f32, 1.0, (n, dim), &Device::Cpu)?;
        let codebook = Tensor::randn(0f32, 1.0, (k, dim), &Device::Cpu)?;
        let search = || codebook::nearest_codes(&vectors, &codebook).map(drop);
        let fast = time(|| search().map_err(candle_core::Error::wrap))?;
        let slow = time(|| composed(&vectors, &codebook).map(drop))?;
        let gflop = 2e-9 * (n * k * dim) as f64;
        println!(
            "{:24} {:9.3} ms {:6.1} GFLOP/s {:9.3} ms",
            format!("{n} x {k} x {dim}"),
            fast * 1e3,
            gflop / fast,
            slow * 1e3
        );
    }
    Ok(())
}
