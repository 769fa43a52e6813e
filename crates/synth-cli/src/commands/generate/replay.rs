//! `--from`: a picture drawn again, from what it says about itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use pipeline::{Generator, fit_picture};

use super::plan::{Plan, Task, read_picture};
use crate::args::{GenerateArgs, GeneratorArgs};
use crate::exit::NotFound;
use crate::generation_recipe::{Recipe, sha256_of};
use crate::output_names::OutputNames;
use crate::session::Session;

/// The model and the plan to draw `picture` again.
///
/// # Errors
/// When it does not say how it was made, the model is another, or the picture that it
/// completes is not there.
pub fn prepare(
    session: &Session,
    args: &GenerateArgs,
    picture: &Path,
) -> Result<(Generator, Plan)> {
    if !picture.exists() {
        return Err(NotFound(vec![picture.to_path_buf()]).into());
    }
    let recipe = Recipe::read(picture)?;
    let named = match &args.model.model {
        Some(_) => args.model.clone(),
        None => recipe.model.arguments(),
    };
    let model = GeneratorArgs { memory: args.model.memory, weights: recipe.weights, ..named };
    let session = session.with_dtype(&recipe.dtype)?;
    if session.device_name() != recipe.device {
        session.note(&format!(
            "it was drawn on {}: on {} sums are rounded otherwise, and the picture may differ",
            recipe.device,
            session.device_name()
        ));
    }
    let generator = load(&session, &model)?;
    recipe.model.check(&generator, picture)?;
    let original = original(args, &recipe)?;
    let name = picture.file_name().unwrap_or(picture.as_os_str());
    let output = OutputNames::new(&args.output, &[".png"]).claim(Path::new(name)).remove(0);
    let plan = Plan::of_one(Task { recipe, original, output }, Path::new(""));
    Ok((generator, plan))
}

fn load(session: &Session, args: &GeneratorArgs) -> Result<Generator> {
    super::load(session, args)
}

/// The picture whose pixels are pasted: where it was, or where `--complete` says.
fn original(args: &GenerateArgs, recipe: &Recipe) -> Result<Option<Arc<pipeline::RgbImage>>> {
    let Some(kept) = recipe.kept.as_ref().filter(|kept| kept.border.is_some()) else {
        return Ok(None);
    };
    let recorded = Path::new(&kept.picture);
    let path = args.completion.complete.as_deref().unwrap_or(recorded);
    if !path.exists() {
        bail!(
            "{}: pixels of this picture were pasted, and it is not there: say where it is with \
             --complete",
            path.display()
        );
    }
    let picture = fit_picture(&read_picture(path)?, (recipe.size[0], recipe.size[1]))?;
    if sha256_of(&picture) != kept.sha256 {
        bail!(
            "{}: this is not the picture whose pixels were pasted: it was changed since",
            path.display()
        );
    }
    Ok(Some(Arc::new(picture)))
}
