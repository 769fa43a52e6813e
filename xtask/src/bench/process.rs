//! This program in a process of its own: with as many threads as are measured, or for its
//! memory alone.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::memory::Peak;

/// Where rayon and candle look for their number of threads.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Whether the pools of this process have, or will have, `threads` threads.
pub(super) fn has_threads(threads: usize) -> bool {
    std::env::var(THREADS).ok().as_deref() == Some(&threads.to_string())
}

/// Goes on with `threads` threads, in a process of our own: the pools read their size from
/// the environment when they start.
pub(super) fn go_on_with(threads: usize) -> Result<()> {
    let mut command = command(threads)?;
    command.args(std::env::args_os().skip(1));
    become_process(command)
}

/// This program, limited to `threads`.
fn command(threads: usize) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.env(THREADS, threads.to_string());
    Ok(command)
}

/// Goes on as `command`, under the same process id where the system can, so that
/// who ends us ends it.
fn become_process(mut command: Command) -> Result<()> {
    #[cfg(unix)]
    {
        let error = std::os::unix::process::CommandExt::exec(&mut command);
        Err(error).context("cannot start the benchmark")
    }
    #[cfg(not(unix))]
    {
        let status = command.status().context("cannot start the benchmark")?;
        // What went wrong is on the terminal already.
        std::process::exit(status.code().unwrap_or(2))
    }
}

/// The memory of a process with these `arguments` that does only the work.
pub(super) fn memory_of_ours(threads: usize, arguments: &[String]) -> Result<Peak> {
    let output = command(threads)?.args(arguments).arg("--own-memory").output()?;
    ensure!(
        output.status.success(),
        "the process that measures memory failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [bare, peak] => Ok(Peak { bare, peak }),
        _ => bail!("the process that measures memory said {text:?}"),
    }
}
