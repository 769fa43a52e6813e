//! The CUDA kernels that draw codes, compiled for the CPU by a C++ compiler, against plain
//! formulas, in both orders of threads, and watched for accesses outside of buffers. Where there is
//! no compiler that will do, the test says so and passes.

use std::path::Path;

use anyhow::Result;
use {candle_core as _, candle_nn as _, cond_transformer as _};

#[test]
fn kernels_are_what_formulas_say() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [
        ("FILE_COMMON", "common.cuh"),
        ("FILE_LINEAR", "linear.cu"),
        ("FILE_PRODUCTS", "products.cu"),
        ("FILE_ATTENTION", "attention.cu"),
        ("FILE_CHOOSE", "choose.cu"),
    ];
    golden::kernels_on_host::check(
        &root.join("tests/kernels_on_host"),
        &files.map(|(name, file)| (name, root.join("src/cuda").join(file))),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )
}
