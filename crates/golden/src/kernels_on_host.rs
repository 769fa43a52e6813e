//! CUDA kernels, compiled for the CPU by a C++ compiler, for tests without a GPU.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What a program is watched for while it runs, as compute-sanitizer's tools do on a GPU: it fails
/// when it sees that.
#[derive(Clone, Copy, Debug)]
pub enum Watch {
    /// Accesses outside of buffers, and such as are not aligned.
    Memory,
    /// Accesses of two threads that nothing orders.
    Races,
}

impl Watch {
    /// What compilers are asked for.
    fn options(self) -> &'static [&'static str] {
        match self {
            // Stacks of contexts are not watched: the library cannot tell one from another.
            Self::Memory => &[
                "-O1",
                "-g1",
                "-fsanitize=address,alignment,bounds",
                "-fno-sanitize-recover=all",
                "--param=asan-stack=0",
            ],
            Self::Races => &["-O1", "-g1", "-fsanitize=thread"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Races => "races",
        }
    }
}

/// Whether programs can be watched here: where addresses are more random than that, those of some
/// compilers end as they begin, now and then.
fn can_watch() -> bool {
    const MOST_RANDOM: u32 = 28;
    let bits = std::fs::read_to_string("/proc/sys/vm/mmap_rnd_bits");
    bits.is_ok_and(|bits| bits.trim().parse().is_ok_and(|bits: u32| bits <= MOST_RANDOM))
}

/// Kernels that were compiled.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    /// What it is watched for; nothing where the compiler or the machine cannot do that.
    pub watch: Option<Watch>,
}

impl Program {
    /// Runs it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // What is allocated lives as long as the program.
        command.env("ASAN_OPTIONS", "detect_leaks=0");
        command
    }

    /// What it says, which has to end with all cases right, and has to be the same if threads take
    /// turns backwards: where barriers lack, one of the two reads what is not there yet. For drivers
    /// whose blocks are those of `contexts.h`.
    ///
    /// # Errors
    /// If that is not so.
    pub fn in_both_orders(&self) -> Result<String> {
        let run = |order: &[&str]| {
            let output = self.command().args(order).output().context("cannot run the kernels")?;
            let said = String::from_utf8_lossy(&output.stdout).trim_end().to_string();
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{}: {said}\n{errors}", output.status);
            // That it has run, and not a part of it.
            ensure!(said.ends_with("cases, 0 off"), "{said}");
            Ok(said)
        };
        let (said, backwards) = (run(&[])?, run(&["backwards"])?);
        ensure!(said == backwards, "forwards {said}\nbackwards {backwards}");
        Ok(format!("{said}, watched for {:?}", self.watch))
    }
}

/// Compiles a driver whose blocks are those of `contexts.h`, as [`compile`] does, and tells of its
/// cases, [in both orders](Program::in_both_orders); or says that there is no compiler.
///
/// # Errors
/// If kernels do not compile, or a case is not right.
pub fn check(folder: &Path, files: &[(&str, PathBuf)], to: &Path) -> Result<()> {
    let name = folder.display();
    match compile(folder, files, to, Watch::Memory)? {
        Some(program) => println!("{name}: {}", program.in_both_orders()?),
        None => println!("skipped: no C++ compiler with C++20, _Float16 and contexts ({name})"),
    }
    Ok(())
}

/// Compiles `folder`'s `driver.cpp` with the kernels `files`, each of which it includes by the
/// name of a macro; the program is in `to`. `None` where there is no compiler (`$CXX` or `c++`)
/// that takes the folder's `probe.cpp`, or else that of `host`, which has to run, too.
///
/// Beside the folder's own files `host`'s are found: `half_types.h`, types of half precision;
/// `contexts.h`, blocks whose threads are contexts; `cases.h`, what drivers say of their cases. What
/// else kernels need is in the folder's `cuda_on_host.h`, if there is one.
///
/// # Errors
/// If the kernels do not compile.
pub fn compile(
    folder: &Path,
    files: &[(&str, PathBuf)],
    to: &Path,
    watch: Watch,
) -> Result<Option<Program>> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_string());
    let name = folder.file_name().unwrap_or_default();
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("host");
    let own_probe = folder.join("probe.cpp");
    let probe = if own_probe.exists() { own_probe } else { host.join("probe.cpp") };
    let compile = |source: &Path, to: &Path, watch: Option<Watch>| {
        let mut command = Command::new(&compiler);
        // No product and sum become one operation.
        command.args(["-std=c++20", "-ffp-contract=off", "-Wno-unknown-pragmas", "-pthread"]);
        command.args(watch.map_or(&["-O2"][..], Watch::options));
        command.arg("-I").arg(folder).arg("-I").arg(&host);
        for (name, path) in files {
            command.arg(format!("-D{name}=\"{}\"", path.display()));
        }
        command.arg(source).arg("-o").arg(to).output()
    };
    for watch in can_watch().then_some(watch).map(Some).into_iter().chain([None]) {
        let path = to.join(name).with_extension(watch.map_or("plain", Watch::name));
        let program = Program { path: path.with_extension("probe"), watch };
        let does = compile(&probe, &program.path, watch).is_ok_and(|made| made.status.success())
            && program.command().output().is_ok_and(|ran| ran.status.success());
        if does {
            let result = compile(&folder.join("driver.cpp"), &path, watch)?;
            let said = String::from_utf8_lossy(&result.stderr);
            ensure!(result.status.success(), "the kernels do not compile for the CPU: {said}");
            return Ok(Some(Program { path, watch }));
        }
    }
    Ok(None)
}
