//! CUDA kernels of this crate, those of `foreach.cu` apart, compiled for the CPU by a C++ compiler, against plain
//! formulas, in both orders of threads, and watched for accesses outside of buffers. Where there is
//! no compiler that will do, the test says so and passes.

use std::path::Path;

use anyhow::Result;

/// Compiles `folder`'s driver with these files of `src/cuda`, and runs it.
fn run(folder: &str, files: &[(&str, &str)]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = |&(name, file)| (name, root.join("src/cuda").join(file));
    golden::kernels_on_host::check(
        &root.join("tests").join(folder),
        &files.iter().map(file).collect::<Vec<_>>(),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )
}

#[test]
fn attention_is_what_formulas_say() -> Result<()> {
    run("attention_on_host", &[("FILE_ATTENTION", "attention.cuh")])
}

#[test]
fn norms_are_what_formulas_say() -> Result<()> {
    let files =
        [("FILE_COMMON", "common.cuh"), ("FILE_GROUPS", "group_norm.cu"), ("FILE_ROWS", "rows.cu")];
    run("norms_on_host", &files)
}

#[test]
fn what_sequences_need_is_what_formulas_say() -> Result<()> {
    run("sequence_on_host", &[("FILE_SEQUENCE", "sequence.cu")])
}

#[test]
fn maps_are_what_formulas_say() -> Result<()> {
    let files = [
        ("FILE_COMMON", "common.cuh"),
        ("FILE_GROUPS", "group_norm.cu"),
        ("FILE_BATCHES", "batch_norm.cu"),
        ("FILE_PLANES", "planes.cu"),
        ("FILE_POINTWISE", "pointwise.cu"),
    ];
    run("maps_on_host", &files)
}
