//! What is to be drawn: a recipe and a file name for each picture.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::{DynamicImage, GrayImage};
use image_data::{Limits, load_rgb};
use pipeline::{
    Completion, Front, Generator, GuidanceOptions, Keep, RgbImage, Sampling, fit_mask, fit_picture,
};

use super::conditions::Subject;
use crate::args::{CompletionArgs, GenerateArgs, SamplingArgs};
use crate::exit::NotFound;
use crate::generation_recipe::{Candidate, ConditionRecipe, Kept, ModelRecipe, Recipe, sha256_of};
use crate::output_names::OutputNames;
use crate::session::Session;

/// The most pictures of one run.
const MAX_PICTURES: u64 = 1 << 32;

/// Everything that is to be drawn.
pub struct Plan {
    /// The pictures, in order.
    pub pictures: Vec<Task>,
    /// A sheet of all of them.
    pub sheet: Option<PathBuf>,
    /// How many candidates each is chosen from.
    pub candidates: u32,
    /// Files that are read, and must not be replaced.
    sources: Vec<PathBuf>,
}

/// One picture.
pub struct Task {
    /// How it is drawn.
    pub recipe: Recipe,
    /// The picture whose pixels are pasted back.
    pub original: Option<std::sync::Arc<RgbImage>>,
    /// Where it goes.
    pub output: PathBuf,
}

impl Plan {
    /// A plan of one picture.
    pub fn of_one(task: Task, source: &Path) -> Self {
        Self {
            pictures: vec![task],
            sheet: None,
            candidates: 1,
            sources: vec![source.to_path_buf()],
        }
    }

    /// The plan that the arguments describe.
    ///
    /// # Errors
    /// When they do not fit the model or each other.
    pub fn new(session: &Session, args: &GenerateArgs, generator: &Generator) -> Result<Self> {
        let text_encoder = args.model.text_encoder.as_deref();
        let subjects = Subject::all(session, generator, &args.condition, text_encoder)?;
        let total = subjects.len() as u64 * u64::from(args.count);
        if total > MAX_PICTURES {
            bail!("{total} pictures are more than one run draws");
        }
        let (sampling, guidance) = sampling(&args.sampling, generator)?;
        let source = args.completion.complete.as_deref().map(read_picture).transpose()?;
        let model = ModelRecipe::new(&args.model, generator);
        let mut names = OutputNames::new(&args.output, &[".png"]);
        let mut pictures = Vec::new();
        for (number, subject) in subjects.iter().enumerate() {
            let size = size_of(args, generator, subject, source.as_ref())?;
            let fit = args.width.is_some() || args.height.is_some();
            let front = subject.front(generator, size, fit)?;
            if guidance.is_some() {
                generator.absent(&front)?;
            }
            let kept = source
                .as_ref()
                .map(|source| keep(&args.completion, generator, source, size))
                .transpose()?;
            let template = Template {
                session,
                generator,
                args,
                model: &model,
                subject,
                front,
                size,
                sampling: &sampling,
                guidance,
                kept,
            };
            for count in 0..args.count {
                let index = number as u64 * u64::from(args.count) + u64::from(count);
                // Every share gives every picture the name that the whole run gives it.
                let output = template.claim(&mut names, index);
                if args.shard.has(index) {
                    pictures.push(template.task(index, output));
                }
            }
        }
        let sheet = args.grid.then(|| {
            let name = format!("sheet-{}", args.sampling.seed);
            names.claim(Path::new(&name)).remove(0)
        });
        let sources = args.condition.condition.iter().chain(&args.completion.complete);
        let sources = sources.chain(&args.completion.mask).cloned().collect();
        Ok(Self { pictures, sheet, candidates: args.sampling.candidates, sources })
    }

    /// The files that will be written.
    pub fn outputs(&self) -> Vec<PathBuf> {
        self.pictures.iter().map(|task| task.output.clone()).chain(self.sheet.clone()).collect()
    }

    /// The files that are read.
    pub fn inputs(&self) -> Vec<&Path> {
        self.sources.iter().map(PathBuf::as_path).collect()
    }
}

/// What the pictures of one subject have in common.
struct Template<'a> {
    session: &'a Session,
    generator: &'a Generator,
    args: &'a GenerateArgs,
    model: &'a ModelRecipe,
    subject: &'a Subject,
    front: Front,
    size: (u32, u32),
    sampling: &'a Sampling,
    guidance: Option<GuidanceOptions>,
    kept: Option<(Kept, Option<std::sync::Arc<RgbImage>>)>,
}

impl Template<'_> {
    fn claim(&self, names: &mut OutputNames, index: u64) -> PathBuf {
        let name = slug(&self.subject.name(self.generator));
        let name = format!("{name}-{}-{index:05}.x", self.args.sampling.seed);
        names.claim(Path::new(&name)).remove(0)
    }

    fn task(&self, index: u64, output: PathBuf) -> Task {
        let kind = self.generator.config().condition.kind();
        let (kept, original) = self.kept.clone().unzip();
        let grid = self.generator.codec().grid_size(self.size);
        Task {
            recipe: Recipe {
                task: Recipe::TASK.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                model: self.model.clone(),
                condition: ConditionRecipe {
                    kind: kind.to_owned(),
                    name: self.subject.name(self.generator),
                    front: self.front.clone(),
                    text_encoder: match self.subject {
                        Subject::Caption(..) => self.args.model.text_encoder.clone(),
                        _ => None,
                    },
                },
                seed: self.args.sampling.seed,
                sample: index,
                size: [self.size.0, self.size.1],
                grid: [grid.0, grid.1],
                sampling: self.sampling.clone(),
                guidance: self.guidance.map(Into::into),
                kept,
                candidate: (self.args.sampling.candidates > 1).then_some(Candidate {
                    of: self.args.sampling.candidates,
                    scorer: self.args.sampling.scorer.clone(),
                    ..Candidate::default()
                }),
                dtype: self.session.dtype_name().to_owned(),
                weights: self.generator.describe().kept_as,
                device: self.session.device_name().to_owned(),
            },
            original: original.flatten(),
            output,
        }
    }
}

/// The options, those of the model where the user says nothing.
fn sampling(
    args: &SamplingArgs,
    generator: &Generator,
) -> Result<(Sampling, Option<GuidanceOptions>)> {
    let chosen = generator.config().sampling.changed(&args.distribution.change())?;
    let sampling = Sampling { greedy: args.greedy, ..chosen.sampling() };
    let scale = chosen.cfg_scale;
    let guidance = (scale > 1.0).then_some(GuidanceOptions { scale, interval: args.cfg_interval });
    Ok((sampling, guidance))
}

/// The size of a picture: what the user says, else that of the picture to complete,
/// else that of the map it is drawn from, else the training size.
fn size_of(
    args: &GenerateArgs,
    generator: &Generator,
    subject: &Subject,
    source: Option<&RgbImage>,
) -> Result<(u32, u32)> {
    let training = generator.training_size();
    if args.width.is_some() || args.height.is_some() {
        return Ok((args.width.unwrap_or(training.0), args.height.unwrap_or(training.1)));
    }
    let map = subject.size(generator)?;
    let source = source.map(RgbImage::dimensions);
    if let (Some(map), Some(source)) = (map, source)
        && map != source
    {
        bail!(
            "the condition is {}x{} pixels and the picture to complete {}x{}: give both one size, \
             or say with --width and --height which size both are to be scaled to",
            map.0,
            map.1,
            source.0,
            source.1
        );
    }
    let size = source.or(map).unwrap_or(training);
    let small = size.0 < training.0 || size.1 < training.1;
    if small {
        bail!(
            "{} is {}x{} pixels, and this model draws {}x{} or more: scale it, or say with --width \
             and --height that it is to be scaled",
            if source.is_some() { "the picture to complete" } else { "the condition" },
            size.0,
            size.1,
            training.0,
            training.1
        );
    }
    Ok(size)
}

/// The kept codes of `source`, and its pixels where they are pasted.
fn keep(
    args: &CompletionArgs,
    generator: &Generator,
    source: &RgbImage,
    size: (u32, u32),
) -> Result<(Kept, Option<std::sync::Arc<RgbImage>>)> {
    let keep = match &args.mask {
        None => Keep::First(args.keep.unwrap_or(0.5)),
        Some(path) => {
            let mask = gray(read_picture(path)?);
            if mask.dimensions() != source.dimensions() {
                bail!(
                    "{}: the mask is {}x{} and the picture {}x{}; give it the same size",
                    path.display(),
                    mask.width(),
                    mask.height(),
                    source.width(),
                    source.height()
                );
            }
            Keep::Mask(fit_mask(&mask, size)?)
        }
    };
    let picture = fit_picture(source, size)?;
    let Completion { codes } = generator.completion(&picture, &keep)?;
    let file = args.complete.as_deref().unwrap_or(Path::new(""));
    let kept = Kept {
        picture: file.to_string_lossy().into_owned(),
        sha256: sha256_of(&picture),
        codes,
        border: args.paste.then_some(args.border),
    };
    Ok((kept, args.paste.then(|| std::sync::Arc::new(picture))))
}

/// Reads a picture that the user named.
///
/// # Errors
/// When it is not there, or none.
pub fn read_picture(path: &Path) -> Result<RgbImage> {
    if !path.exists() {
        return Err(NotFound(vec![path.to_path_buf()]).into());
    }
    load_rgb(path, &Limits::default()).with_context(|| path.display().to_string())
}

fn gray(picture: RgbImage) -> GrayImage {
    DynamicImage::ImageRgb8(picture).into_luma8()
}

/// A name as it can stand in a file name.
fn slug(name: &str) -> String {
    const LONGEST: usize = 40;
    let mut slug = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.chars().count() >= LONGEST {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "picture".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn names_of_files() {
        for (name, expected) in [
            ("red apple", "red-apple"),
            ("  Great White-Shark!", "great-white-shark"),
            ("../../etc/passwd", "etc-passwd"),
            ("狐", "狐"),
            ("", "picture"),
            ("...", "picture"),
        ] {
            assert_eq!(slug(name), expected);
        }
        assert_eq!(slug(&"x".repeat(99)).len(), 40);
    }
}
