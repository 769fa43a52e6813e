//! The commands.

mod convert;
mod decode;
mod encode;
mod generate;
mod inspect;
mod models;
mod reconstruct;
mod score;

use anyhow::Result;

use crate::args::{Args, Command};
use crate::exit::Outcome;
use crate::session::Session;

/// Does what the arguments say.
///
/// # Errors
/// When it could not begin. What fails later is reported as it happens.
pub fn run(args: Args) -> Result<Outcome> {
    let session = Session::new(&args.common)?;
    match args.command {
        Command::Generate(args) => generate::run(&session, &args),
        Command::Score(args) => score::run(&session, &args),
        Command::Reconstruct(args) => reconstruct::run(&session, &args),
        Command::Encode(args) => encode::run(&session, &args),
        Command::Decode(args) => decode::run(&session, &args),
        Command::Inspect(args) => inspect::run(&session, &args),
        Command::Convert(args) => convert::run(&session, &args),
        Command::Models(command) => models::run(&session, &command),
    }
}
