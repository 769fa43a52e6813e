//! Ctrl-C: the first asks the run to leave with a checkpoint, the second leaves at once.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// 128 + SIGINT, as shells report a process that was interrupted.
pub const EXIT_CODE: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens for Ctrl-C (and SIGTERM and SIGHUP: a machine that shuts down, a terminal that
/// closes) from now on. What is returned turns true at the first.
pub fn listen() -> Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            // Half-written files are swept when the run goes on.
            std::process::exit(EXIT_CODE.into());
        }
        eprintln!("\nstopping after this step, with a checkpoint; again to leave at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(&ASKED)
}
