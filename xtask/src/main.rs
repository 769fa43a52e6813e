//! The chores of contributors: `cargo xtask train`, `cargo xtask assets`, ...

mod assets;
mod bench;
mod export;
mod interrupt;
mod judge;
mod nearest;
mod plot;
mod progress;
mod questions;
mod recolour;
mod torture;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps freed memory for the next tensor of its size: with the system's allocator
/// every large tensor is made of new pages, and touching those costs more than most
/// layers compute.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "xtask", about = "Chores: train models, render example pictures")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Train a model; the same command again continues a run that was stopped
    #[command(subcommand)]
    Train(train::Train),
    /// Write what a run has learned as a model folder: of a first stage the newest
    /// checkpoint, of a transformer its best model with the first stage inside
    Export(export::Export),
    /// Measure speed, next to candle's own ops, torch and FAISS
    Bench(bench::Bench),
    /// Kill a training process again and again; its run must not notice
    Torture(torture::Torture),
    /// Put samples beside the training pictures that they are most like
    Nearest(nearest::Nearest),
    /// Answer what people ask about the method, each by an experiment on a shipped model
    Questions(questions::Questions),
    /// Make a set of captioned pictures in which things have other colours, too
    Recolour(recolour::Recolour),
    /// Say whether samples of a recoloured set have the colour asked for, and the outline
    Judge(judge::Judge),
    /// Render the example pictures in assets/pictures
    Assets(assets::Assets),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Train(train) => train.run(),
        Chore::Export(export) => export.run().map(|()| ExitCode::SUCCESS),
        Chore::Bench(bench) => bench.run().map(|()| ExitCode::SUCCESS),
        Chore::Torture(torture) => torture.run().map(|()| ExitCode::SUCCESS),
        Chore::Nearest(nearest) => nearest.run().map(|()| ExitCode::SUCCESS),
        Chore::Questions(questions) => questions.run().map(|()| ExitCode::SUCCESS),
        Chore::Recolour(recolour) => recolour.run().map(|()| ExitCode::SUCCESS),
        Chore::Judge(judge) => judge.run().map(|()| ExitCode::SUCCESS),
        Chore::Assets(assets) => assets.run().map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
