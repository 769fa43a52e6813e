//! How the program ends.

use std::path::PathBuf;
use std::process::ExitCode;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for is done.
    Done,
    /// There was nothing to do.
    Nothing,
    /// Some of it failed, and that was reported; the rest is done.
    Failed,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Nothing => Self::from(1),
            Outcome::Failed => Self::from(2),
        }
    }
}

/// Nothing is where the user pointed.
#[derive(Debug)]
pub struct NotFound(pub Vec<PathBuf>);

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.0.iter().map(|path| path.display().to_string()).collect();
        write!(f, "no such file or folder: {}", names.join(", "))
    }
}

impl std::error::Error for NotFound {}

/// Says on stderr what went wrong, and gives the exit code for it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("synth-cli: {error:#}");
    let no_model = match error.downcast_ref::<pipeline::Error>() {
        Some(pipeline::Error::NotFound { .. }) => true,
        Some(pipeline::Error::NotHere { source, .. } | pipeline::Error::Hub(source)) => {
            source.is_not_found()
        }
        _ => false,
    };
    if no_model || error.is::<NotFound>() {
        Outcome::Nothing.into()
    } else {
        Outcome::Failed.into()
    }
}
