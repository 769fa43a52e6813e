//! `synth-cli`: images to codes, codes to images, from the command line.
//!
//! Arguments are parsed into [`args`], resolved once by [`session`], and the
//! [`commands`] do the rest with `pipeline`. No formula lives here.

mod allocator;
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

fn main() -> ExitCode {
    allocator::keep_freed_pages();
    let args = args::Args::parse();
    threads::limit(args.common.threads);
    match commands::run(args) {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::report(&error),
    }
}
