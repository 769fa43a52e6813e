//! What a generated picture says about how it was made: enough to make it again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use checkpoints::sha256_bytes;
use image_data::png_text;
use pipeline::{Front, Generator, GuidanceOptions, RgbImage, Sampling, WeightFormat};
use serde::{Deserialize, Serialize};

use crate::args::GeneratorArgs;
use crate::table::shown;

/// The recipe of one picture, in its `synth` chunk.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Recipe {
    /// [`Self::TASK`].
    pub task: String,
    /// The program that drew it.
    pub version: String,
    /// The model.
    pub model: ModelRecipe,
    /// What it was drawn under.
    pub condition: ConditionRecipe,
    /// The seed of the run.
    pub seed: u64,
    /// Which picture of the run it is.
    pub sample: u64,
    /// Width and height.
    pub size: [u32; 2],
    /// Width and height of the code grid.
    pub grid: [usize; 2],
    /// How codes were drawn.
    pub sampling: Sampling,
    /// How closely to the condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<GuidanceRecipe>,
    /// What was kept of another picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
    /// Which of several it was chosen from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// What was computed in.
    pub dtype: String,
    /// What the transformer's weights were kept as, where not as `dtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFormat>,
    /// Where.
    pub device: String,
}

/// The model: where it was, and what it was.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ModelRecipe {
    /// As it was named on the command line.
    pub path: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_stage: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_stage_config: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition_stage: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class_names: Option<PathBuf>,
    /// The identity of the transformer.
    pub sha256: String,
    /// The identity of the codec of its codes.
    pub codec_sha256: String,
}

/// A condition, for people and for the model.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ConditionRecipe {
    /// Its kind in the model's configuration.
    pub kind: String,
    /// A class, a text, the name of a file.
    pub name: String,
    /// As the model saw it.
    pub front: Front,
    /// What read the text, as it was named; drawing the picture again does not need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<PathBuf>,
}

/// Classifier-free guidance.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct GuidanceRecipe {
    scale: f64,
    interval: Option<usize>,
}

/// What was kept of another picture.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its file, as it was named.
    pub picture: String,
    /// Of its pixels, in the size that was used.
    pub sha256: String,
    /// Kept codes, row by row.
    pub codes: Vec<Option<u32>>,
    /// If its pixels were pasted: over how many they fade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub border: Option<u32>,
}

/// Which candidate was chosen.
///
/// Its number is enough to draw it again: what chose it is not asked a second time.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// How many there were.
    pub of: u32,
    /// Its number, from 0.
    pub number: u32,
    /// How likely it was, where that was what counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_code: Option<f64>,
    /// The program that chose it, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scorer: Option<String>,
    /// The number that the program gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
}

impl Candidate {
    /// It is number `number`, and its scorer, or the likelihood in bits where there is none,
    /// gave it `score`.
    pub fn choose(&mut self, number: u32, score: f64) {
        self.number = number;
        match self.scorer {
            Some(_) => self.score = Some(score),
            None => self.bits_per_code = Some(-score),
        }
    }
}

impl From<GuidanceOptions> for GuidanceRecipe {
    fn from(GuidanceOptions { scale, interval }: GuidanceOptions) -> Self {
        Self { scale, interval }
    }
}

impl From<GuidanceRecipe> for GuidanceOptions {
    fn from(GuidanceRecipe { scale, interval }: GuidanceRecipe) -> Self {
        Self { scale, interval }
    }
}

impl ModelRecipe {
    /// What `args` name, loaded as `generator`.
    pub fn new(args: &GeneratorArgs, generator: &Generator) -> Self {
        Self {
            path: args.model.clone().unwrap_or_default(),
            config: args.config.clone(),
            first_stage: args.first_stage.clone(),
            first_stage_config: args.first_stage_config.clone(),
            condition_stage: args.condition_stage.clone(),
            class_names: args.class_names.clone(),
            sha256: generator.sha256().to_owned(),
            codec_sha256: generator.codec().sha256().to_owned(),
        }
    }

    /// The arguments that name it; how it is loaded is not said here.
    pub fn arguments(&self) -> GeneratorArgs {
        GeneratorArgs {
            model: Some(self.path.clone()),
            config: self.config.clone(),
            first_stage: self.first_stage.clone(),
            first_stage_config: self.first_stage_config.clone(),
            condition_stage: self.condition_stage.clone(),
            class_names: self.class_names.clone(),
            ..GeneratorArgs::default()
        }
    }

    /// Checks that `generator` is the model that this was.
    ///
    /// # Errors
    /// With both identities.
    pub fn check(&self, generator: &Generator, picture: &Path) -> Result<()> {
        let pairs = [
            ("transformer", &self.sha256, generator.sha256()),
            ("codec", &self.codec_sha256, generator.codec().sha256()),
        ];
        for (what, recorded, loaded) in pairs {
            if recorded != loaded {
                bail!(
                    "{}: it was drawn by a {what} with sha256 {recorded}, and this one has \
                     {loaded}: its weights differ, so it would be another picture; name the \
                     right model with --model",
                    picture.display()
                );
            }
        }
        Ok(())
    }
}

impl Recipe {
    /// What stands in `task`.
    pub const TASK: &'static str = "generate";

    /// The recipe in the PNG file `path`.
    ///
    /// # Errors
    /// When there is none, or it is not one of a generated picture.
    pub fn read(path: &Path) -> Result<Self> {
        let chunks = png_text(path)?;
        let Some((_, text)) = chunks.iter().find(|(keyword, _)| keyword == "synth") else {
            bail!(
                "{}: it does not say how it was made (it has no synth chunk; some programs drop \
                 it when they save a picture)",
                path.display()
            );
        };
        let value: serde_json::Value = serde_json::from_str(text)
            .with_context(|| format!("{}: synth chunk", path.display()))?;
        if value["task"] != Self::TASK {
            bail!(
                "{}: it was not generated (its task is {}), so it cannot be drawn again",
                path.display(),
                shown(&value["task"].to_string())
            );
        }
        serde_json::from_value(value)
            .with_context(|| format!("{}: its recipe is incomplete", path.display()))
    }

    /// The text chunks of the picture: `parameters` for people, `synth` with the
    /// recipe.
    ///
    /// # Errors
    /// When a number in it has no JSON.
    pub fn text_chunks(&self) -> Result<Vec<(String, String)>> {
        let recipe = serde_json::to_string(self)?;
        Ok(vec![("parameters".to_owned(), self.for_people()), ("synth".to_owned(), recipe)])
    }

    fn for_people(&self) -> String {
        let Sampling { greedy, temperature, top_k, top_p } = &self.sampling;
        let mut text = shown(&self.condition.name);
        text += &format!(
            "\nSeed: {}, Sample: {}, Size: {}x{}, Model: {}",
            self.seed,
            self.sample,
            self.size[0],
            self.size[1],
            shown(&self.model.path.to_string_lossy()),
        );
        if *greedy {
            text += ", Sampler: greedy";
        } else {
            let k = top_k.map_or("all".to_owned(), |k| k.to_string());
            text += &format!(", Temperature: {temperature}, Top-k: {k}, Top-p: {top_p}");
        }
        if let Some(guidance) = self.guidance {
            text += &format!(", CFG scale: {}", guidance.scale);
        }
        if let Some(kept) = &self.kept {
            text += &format!(", Completes: {}", shown(&kept.picture));
        }
        if let Some(weights) = self.weights {
            text += &format!(", Weights: {weights}");
        }
        if let Some(candidate) = &self.candidate {
            text += &format!(", Best of: {}", candidate.of);
            if let Some(scorer) = &candidate.scorer {
                text += &format!(" by {}", shown(scorer));
            }
        }
        text + &format!(
            ", Model sha256: {}, Version: synth-cli {}",
            self.model.sha256, self.version
        )
    }
}

/// The SHA-256 of a picture's size and pixels, whatever its file.
pub fn sha256_of(picture: &RgbImage) -> String {
    let mut bytes = format!("{}x{}\n", picture.width(), picture.height()).into_bytes();
    bytes.extend_from_slice(picture.as_raw());
    sha256_bytes(&bytes)
}
