//! `generate` and `score` as they are typed.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use pipeline::{SamplingChange, WeightFormat};

use super::{MODEL, OUTPUT, PICTURES, PictureArgs, batch_size};

const CONDITION: &str = "Condition";
const COMPLETION: &str = "Completion";
const SAMPLING: &str = "Sampling";

/// Where the codecs of a transformer are, if not where it says.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = MODEL)]
pub struct GeneratorArgs {
    /// A transformer's model folder, a reference run folder (configs/*-project.yaml
    /// and checkpoints/last.ckpt), or a weights file with --config
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// The configuration of a weights file: a reference project file (YAML), a
    /// config.json, or a preset such as llamagen-b
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: Option<PathBuf>,
    /// The codec of the codes, for a weights file without one (LlamaGen)
    #[arg(long, value_name = "PATH")]
    pub first_stage: Option<PathBuf>,
    /// The configuration of a codec that is a weights file
    #[arg(long, value_name = "FILE|PRESET", requires = "first_stage")]
    pub first_stage_config: Option<PathBuf>,
    /// The codec of the condition, for a weights file without one
    #[arg(long, value_name = "PATH")]
    pub condition_stage: Option<PathBuf>,
    /// The T5 that reads prompts for a model that takes captions as embeddings (LlamaGen):
    /// a folder with config.json, tokenizer.json and model.safetensors, or a name on the
    /// hub, such as google/flan-t5-xl
    #[arg(long, value_name = "DIR|NAME")]
    pub text_encoder: Option<PathBuf>,
    /// Names of the classes, one a line, where the model does not state them
    #[arg(long, value_name = "FILE")]
    pub class_names: Option<PathBuf>,
    /// What the transformer keeps its weights as: half the bytes are nearly twice the
    /// speed on a CPU; q8 and q4 are for the CPU; codecs stay as they are [default: that
    /// of --dtype]
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub weights: Option<WeightFormat>,
    /// Memory for activations when decoding, in MiB; larger pictures are decoded in
    /// tiles [default: tiles of 512x512 pixels]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub memory: Option<u64>,
}

/// What is drawn.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = CONDITION)]
pub struct ConditionArgs {
    /// Classes, by number or name; `all` for every one
    #[arg(long, value_name = "N|NAME", num_args = 1.., conflicts_with_all = ["prompt", "condition"])]
    pub class: Vec<String>,
    /// Texts
    #[arg(long, value_name = "TEXT", num_args = 1.., conflicts_with = "condition")]
    pub prompt: Vec<String>,
    /// Label maps or depth maps (PNG), pictures, layouts (JSON) or embeddings of
    /// captions (safetensors), as the model takes them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub condition: Vec<PathBuf>,
}

/// Which part of a picture is kept.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = COMPLETION)]
pub struct CompletionArgs {
    /// Keep a part of this picture and draw the rest anew
    #[arg(long, value_name = "FILE")]
    pub complete: Option<PathBuf>,
    /// How much is kept: this part of the codes, from the top [default: 0.5]
    #[arg(long, value_name = "PART", requires = "complete", conflicts_with = "mask")]
    pub keep: Option<f64>,
    /// What is kept: where this picture is black; white is drawn anew
    #[arg(long, value_name = "FILE", requires = "complete")]
    pub mask: Option<PathBuf>,
    /// Put the kept pixels themselves over what is drawn, not only their codes
    #[arg(long, requires = "complete")]
    pub paste: bool,
    /// Pixels over which pasted pixels fade into drawn ones
    #[arg(long, value_name = "PX", requires = "paste", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=4096))]
    pub border: u32,
}

/// How it is drawn.
#[derive(clap::Args, Debug, Clone, Default)]
#[command(next_help_heading = SAMPLING)]
pub struct SamplingArgs {
    /// The seed: the same seed draws the same pictures
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub distribution: DistributionArgs,
    /// Always takes the likeliest code
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p"])]
    pub greedy: bool,
    /// Guides only the first N codes after the first
    #[arg(long, value_name = "N")]
    pub cfg_interval: Option<usize>,
    /// Draws each picture N times and keeps the best: the likeliest, or what --scorer
    /// likes most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub candidates: u32,
    /// A program that scores candidates (docs/generating.md): it gets a line of JSON for
    /// each, {"path": PNG, "kind": .., "condition": .., "class": ..}, and answers with a
    /// number on a line, the higher the better
    #[arg(long, value_name = "COMMAND")]
    pub scorer: Option<String>,
    /// How long the scorer may take for a batch of candidates, its start included
    #[arg(long, value_name = "SECONDS", requires = "scorer", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub scorer_timeout: u64,
}

/// From what codes are drawn; `generate` follows it, and `convert` makes it the model's own.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct DistributionArgs {
    /// Divides the logits: below 1 is tamer, above wilder [default: the model's]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Draws among the K likeliest codes; `all` for all [default: the model's]
    #[arg(long, value_name = "K")]
    pub top_k: Option<TopK>,
    /// Draws among the likeliest codes that together reach this probability; 1 for all
    /// [default: the model's]
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Guidance: how closely to follow the condition; 1 for none [default: the model's]
    #[arg(long, value_name = "G")]
    pub cfg_scale: Option<f64>,
}

impl DistributionArgs {
    /// What is otherwise than the model has it.
    pub fn change(&self) -> SamplingChange {
        let &Self { temperature, top_k, top_p, cfg_scale } = self;
        let top_k = top_k.map(|top_k| match top_k {
            TopK::All => None,
            TopK::Best(k) => Some(k),
        });
        SamplingChange { temperature, top_k, top_p, cfg_scale }
    }
}

/// `generate`.
#[derive(clap::Args, Debug)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: GeneratorArgs,
    #[command(flatten)]
    pub condition: ConditionArgs,
    #[command(flatten)]
    pub completion: CompletionArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Width in pixels; beyond the training size a window slides over the picture
    /// [default: that of --condition or --complete, else the training size]
    #[arg(long, help_heading = PICTURES, value_name = "W", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub width: Option<u32>,
    /// Height in pixels
    #[arg(long, help_heading = PICTURES, value_name = "H", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub height: Option<u32>,
    /// Pictures of each condition
    #[arg(long, help_heading = PICTURES, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub count: u32,
    /// Pictures to draw together; the results are the same
    #[arg(long, help_heading = PICTURES, value_name = "N", default_value_t = 8, value_parser = batch_size)]
    pub batch: usize,
    /// Draw the i-th of n shares of the pictures, from 1/n to n/n
    #[arg(long, help_heading = PICTURES, value_name = "i/n", default_value = "1/1")]
    pub shard: Shard,
    /// Draw the picture of this PNG file again, byte for byte, from what it says
    /// about itself
    #[arg(
        long,
        help_heading = PICTURES,
        value_name = "IMAGE.png",
        conflicts_with_all = ["class", "prompt", "condition", "weights", "keep", "mask", "seed", "temperature",
            "top_k", "top_p", "greedy", "cfg_scale", "cfg_interval", "candidates", "scorer",
            "scorer_timeout", "width", "height", "count", "shard", "grid"]
    )]
    pub from: Option<PathBuf>,
    /// The folder for the pictures
    #[arg(long, help_heading = OUTPUT, value_name = "DIR", default_value = "generated")]
    pub output: PathBuf,
    /// Also write a sheet of all pictures
    #[arg(long, help_heading = OUTPUT)]
    pub grid: bool,
    /// Write no preview of large pictures while they are drawn
    #[arg(long, help_heading = OUTPUT)]
    pub no_preview: bool,
    /// Replace files that exist
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
}

/// `score`.
#[derive(clap::Args, Debug)]
pub struct ScoreArgs {
    #[command(flatten)]
    pub pictures: PictureArgs,
    #[command(flatten)]
    pub model: GeneratorArgs,
    /// The class of all pictures, by number or name
    #[arg(long, help_heading = CONDITION, value_name = "N|NAME", conflicts_with_all = ["prompt", "condition"])]
    pub class: Option<String>,
    /// The text of all pictures
    #[arg(long, help_heading = CONDITION, value_name = "TEXT", conflicts_with = "condition")]
    pub prompt: Option<String>,
    /// The condition of all pictures
    #[arg(long, help_heading = CONDITION, value_name = "FILE")]
    pub condition: Option<PathBuf>,
    /// Score pictures in their own size; without it they are scaled and cropped to the
    /// size that the model was trained on
    #[arg(long, help_heading = PICTURES)]
    pub full_size: bool,
    /// Write NAME-bits.png to this folder: a map of the bits of every code, black 0,
    /// white as many as chance needs, or more
    #[arg(long, help_heading = OUTPUT, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
}

/// `--weights`: the names of formats.
fn formats() -> impl TypedValueParser<Value = WeightFormat> {
    named(|_| true)
}

/// `--weights` of `convert`: the names of formats of blocks.
pub fn block_formats() -> impl TypedValueParser<Value = WeightFormat> {
    named(|format| format.block().is_some())
}

fn named(wanted: fn(WeightFormat) -> bool) -> impl TypedValueParser<Value = WeightFormat> {
    let formats = WeightFormat::ALL.into_iter().filter(|&format| wanted(format));
    PossibleValuesParser::new(formats.map(WeightFormat::name))
        .try_map(|name| name.parse::<WeightFormat>())
}

/// `--top-k`: a number, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopK {
    /// The K likeliest.
    Best(usize),
    /// All codes.
    All,
}

impl std::str::FromStr for TopK {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            text => match text.parse() {
                Ok(0) => Err("top-k 0 keeps no code; give 1 or more, or `all`".to_owned()),
                Ok(k) => Ok(Self::Best(k)),
                Err(_) => Err("give a number, or `all`".to_owned()),
            },
        }
    }
}

/// `--shard i/n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    pub number: u64,
    /// How many there are.
    pub of: u64,
}

impl Shard {
    /// Whether the picture with this number (from 0) is in the share.
    pub fn has(self, index: u64) -> bool {
        index % self.of == self.number - 1
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("give i/n with i from 1 to n: 1/4, 2/4, 3/4, 4/4".to_owned()),
        }
    }
}
