//! The CUDA kernels that draw codes, compiled for the CPU by a C++ compiler, against plain
//! formulas. Where there is no compiler that will do, the test says so and passes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use {candle_core as _, candle_nn as _, cond_transformer as _, golden as _};

#[test]
fn kernels_are_what_formulas_say() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join("tests/kernels_on_host");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels_on_host");
    let compile = |source: &str, to: &Path| {
        let mut command = Command::new(&compiler);
        command.args(["-std=c++20", "-O2", "-Wno-unknown-pragmas", "-I"]).arg(&own);
        for name in ["common.cuh", "linear.cu", "products.cu", "attention.cu", "choose.cu"] {
            let path = root.join("src/cuda").join(name);
            let (macro_name, _) = name.split_once('.').unwrap_or((name, ""));
            let define = format!("-DFILE_{}=\"{}\"", macro_name.to_uppercase(), path.display());
            command.arg(define);
        }
        command.arg(own.join(source)).arg("-o").arg(to).output()
    };
    match compile("probe.cpp", &made.with_extension("probe")) {
        Ok(probe) if probe.status.success() => {}
        _ => {
            println!("skipped: no C++ compiler with C++20, _Float16 and contexts");
            return Ok(());
        }
    }
    let result = compile("driver.cpp", &made)?;
    let said = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.success(), "the kernels do not compile for the CPU: {said}");
    let output = Command::new(&made).output().context("cannot run the kernels")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}", output.status);
    // That it has run, and not a part of it.
    ensure!(said.trim_end().ends_with("cases, 0 off"), "{said}");
    println!("{}", said.trim_end());
    Ok(())
}
