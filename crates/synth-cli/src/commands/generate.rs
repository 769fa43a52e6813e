//! `generate`: new pictures from a transformer and its codecs.
//!
//! The arguments become a plan: a list of recipes, one a picture, each enough to
//! draw it. The plan is drawn in batches; what a picture is does not depend on them.

mod conditions;
mod drawing;
mod plan;
mod preview;
mod progress;
mod replay;

use std::time::Duration;

use anyhow::{Result, bail};
use pipeline::{Generator, Likelihood, Scorer};

use crate::args::{GenerateArgs, GeneratorArgs};
use crate::exit::Outcome;
use crate::external_scorer::ExternalScorer;
use crate::output_plan;
use crate::session::Session;

pub use conditions::Subject;

use self::drawing::Drawing;
use self::plan::Plan;

/// Draws everything.
///
/// # Errors
/// When the request makes no sense, the model cannot do it, or drawing fails.
pub fn run(session: &Session, args: &GenerateArgs) -> Result<Outcome> {
    let (generator, plan) = match &args.from {
        Some(picture) => replay::prepare(session, args, picture)?,
        None => prepare(session, args)?,
    };
    output_plan::check(&plan.outputs(), &plan.inputs(), args.force)?;
    if plan.pictures.is_empty() {
        session.note("this share has no pictures");
        return Ok(Outcome::Nothing);
    }
    let mut scorer = scorer(args, &generator)?;
    Drawing::new(session, args, &generator).run(&plan, scorer.as_mut())
}

/// What chooses among candidates.
fn scorer<'a>(args: &GenerateArgs, generator: &'a Generator) -> Result<Box<dyn Scorer + 'a>> {
    let Some(command) = &args.sampling.scorer else {
        return Ok(Box::new(Likelihood(generator)));
    };
    let patience = Duration::from_secs(args.sampling.scorer_timeout);
    Ok(Box::new(ExternalScorer::start(generator, command, patience)?))
}

fn prepare(session: &Session, args: &GenerateArgs) -> Result<(Generator, Plan)> {
    if args.grid && args.shard.of > 1 {
        bail!("--grid wants all pictures and --shard draws a share of them: leave one out");
    }
    if args.sampling.scorer.is_some() && args.sampling.candidates < 2 {
        bail!("--scorer chooses among candidates: say of how many, with --candidates N");
    }
    let generator = load(session, &args.model)?;
    let plan = Plan::new(session, args, &generator)?;
    Ok((generator, plan))
}

/// Loads the generator that `--model` names.
///
/// # Errors
/// When there is none.
pub fn load(session: &Session, args: &GeneratorArgs) -> Result<Generator> {
    let Some(model) = &args.model else {
        bail!("--model is missing: name a transformer's folder, or a checkpoint with --config");
    };
    session.load_generator(model, args)
}
