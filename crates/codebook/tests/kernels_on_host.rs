//! CUDA kernels of this crate, all but the tensor cores' sweep, compiled for the CPU by a C++
//! compiler, against plain formulas, in both orders of threads, and watched for accesses outside of
//! buffers. Where there is no compiler that will do, the test says so and passes.

use std::path::Path;

use anyhow::Result;

#[test]
fn kernels_are_what_formulas_say() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [
        ("FILE_FACTS", "facts.cuh"),
        ("FILE_PREPARE", "prepare.cu"),
        ("FILE_SWEEP", "sweep_scalar.cu"),
        ("FILE_RESOLVE", "resolve.cu"),
        ("FILE_SUMS", "sums.cu"),
        ("FILE_ARGMAX", "argmax.cu"),
    ];
    golden::kernels_on_host::check(
        &root.join("tests/kernels_on_host"),
        &files.map(|(name, file)| (name, root.join("src/cuda").join(file))),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )
}
