//! CUDA kernels, compiled for the CPU by a C++ compiler, for tests without a GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// Compiles `folder`'s `driver.cpp` with the kernels `files`, each of which it includes by the
/// name of a macro; the program is in `to`, under the folder's name. `None` where there is no
/// compiler (`$CXX` or `c++`) that takes the folder's `probe.cpp`.
///
/// Types of half precision are in `half_types.h`, which is found beside the folder's own.
///
/// # Errors
/// If the kernels do not compile.
pub fn compile(folder: &Path, files: &[(&str, PathBuf)], to: &Path) -> Result<Option<PathBuf>> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let made = to.join(folder.file_name().unwrap_or_default());
    let compile = |source: &str, to: &Path| {
        let mut command = Command::new(&compiler);
        // No product and sum become one operation.
        command.args([
            "-std=c++20",
            "-O2",
            "-ffp-contract=off",
            "-Wno-unknown-pragmas",
            "-pthread",
        ]);
        command.arg("-I").arg(folder).arg("-I");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("host"));
        for (name, path) in files {
            command.arg(format!("-D{name}=\"{}\"", path.display()));
        }
        command.arg(folder.join(source)).arg("-o").arg(to).output()
    };
    match compile("probe.cpp", &made.with_extension("probe")) {
        Ok(probe) if probe.status.success() => {}
        _ => return Ok(None),
    }
    let result = compile("driver.cpp", &made)?;
    let said = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.success(), "the kernels do not compile for the CPU: {said}");
    Ok(Some(made))
}
