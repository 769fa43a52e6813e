//! The CUDA kernels that draw codes, compiled for the CPU by a C++ compiler, against plain
//! formulas. Where there is no compiler that will do, the test says so and passes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
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
    let made = golden::kernels_on_host::compile(
        &root.join("tests/kernels_on_host"),
        &files.map(|(name, file)| (name, root.join("src/cuda").join(file))),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )?;
    let Some(made) = made else {
        println!("skipped: no C++ compiler with C++20, _Float16 and contexts");
        return Ok(());
    };
    let output = Command::new(&made).output().context("cannot run the kernels")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}", output.status);
    // That it has run, and not a part of it.
    ensure!(said.trim_end().ends_with("cases, 0 off"), "{said}");
    println!("{}", said.trim_end());
    Ok(())
}
