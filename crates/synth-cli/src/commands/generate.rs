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

use anyhow::{Result, bail};
use pipeline::Generator;

use crate::args::{GenerateArgs, GeneratorArgs};
use crate::exit::Outcome;
use crate::output_plan;
use crate::session::Session;

pub use conditions::front_of;

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
    Drawing::new(session, args, &generator).run(&plan)
}

fn prepare(session: &Session, args: &GenerateArgs) -> Result<(Generator, Plan)> {
    if args.grid && args.shard.of > 1 {
        bail!("--grid wants all pictures and --shard draws a share of them: leave one out");
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
