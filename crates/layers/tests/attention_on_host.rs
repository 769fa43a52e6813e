//! The CUDA kernels of attention in training, compiled for the CPU by a C++ compiler, against plain
//! formulas, in both orders of threads, and watched for accesses outside of buffers. Where there is
//! no compiler that will do, the test says so and passes.

use std::path::Path;

use anyhow::Result;
use golden::kernels_on_host::Watch;

#[test]
fn kernels_are_what_formulas_say() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = golden::kernels_on_host::compile(
        &root.join("tests/attention_on_host"),
        &[("FILE_ATTENTION", root.join("src/cuda/attention.cuh"))],
        Path::new(env!("CARGO_TARGET_TMPDIR")),
        Watch::Memory,
    )?;
    let Some(made) = made else {
        println!("skipped: no C++ compiler with C++20, _Float16 and contexts");
        return Ok(());
    };
    println!("{}", made.in_both_orders()?);
    Ok(())
}
