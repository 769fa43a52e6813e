//! `synth-cli`: images to codes, codes to images, from the command line.
//!
//! Arguments are parsed into [`args`], resolved once by [`session`], and the
//! [`commands`] do the rest with `pipeline`. No formula lives here.

mod args;
mod batches;
mod commands;
mod download_bar;
mod exit;
mod external_scorer;
mod generation_recipe;
mod inputs;
mod output_names;
mod output_plan;
mod recipe;
mod report;
mod session;
mod table;
mod threads;

use std::process::ExitCode;

use clap::Parser;

/// Keeps freed memory for the next feature map of its size: with the system's
/// allocator every large one is made of new pages, and touching those costs more
/// than many layers compute.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = args::Args::parse();
    threads::limit(args.common.threads);
    match commands::run(args) {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::report(&error),
    }
}
