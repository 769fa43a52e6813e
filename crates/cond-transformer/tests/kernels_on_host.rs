//! The CUDA kernels that draw codes, compiled for the CPU by a C++ compiler, against plain
//! formulas, and watched for accesses outside of buffers. Threads take turns in two orders, which
//! no result may depend on: where barriers lack, one of the two reads what is not there yet. Where
//! there is no compiler that will do, the test says so and passes.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use golden::kernels_on_host::Watch;
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
        Watch::Memory,
    )?;
    let Some(made) = made else {
        println!("skipped: no C++ compiler with C++20, _Float16 and contexts");
        return Ok(());
    };
    let run = |order: &[&str]| {
        let output = made.command().args(order).output().context("cannot run the kernels")?;
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_string();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}\n{errors}", output.status);
        // That it has run, and not a part of it.
        ensure!(said.ends_with("cases, 0 off"), "{said}");
        Ok(said)
    };
    let (said, backwards) = (run(&[])?, run(&["backwards"])?);
    ensure!(said == backwards, "forwards {said}\nbackwards {backwards}");
    println!("{said}, watched for {:?}", made.watch);
    Ok(())
}
