//! The command line as it is typed; nothing is looked up here.

mod generate;

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use pipeline::{ModelSpec, WeightFormat, Weights};

use generate::block_formats;
pub use generate::{
    CompletionArgs, ConditionArgs, DistributionArgs, GenerateArgs, GeneratorArgs, SamplingArgs,
    ScoreArgs,
};

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 nothing to do, or what was named is not there; 2 error, \
also when one of many inputs failed and the others are done.

Results go to stdout (a table, or JSON lines with --json), progress and errors \
to stderr.";

const COMMON: &str = "Common options";
const MODEL: &str = "Model";
const PICTURES: &str = "Pictures";
const OUTPUT: &str = "Output";
const DRAWING: &str = "How the result draws where `generate` is told nothing (our format)";

/// Images to codes, codes to images, and new images, with a VQGAN and a transformer.
#[derive(Parser, Debug)]
#[command(name = "synth-cli", version, about, after_help = AFTER_HELP)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What every command understands.
    #[command(flatten)]
    pub common: Common,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Draw new pictures: by class, from text, from a map, from a part of a picture
    Generate(Box<GenerateArgs>),
    /// Encode pictures and decode them again, to see what the model keeps
    Reconstruct(ReconstructArgs),
    /// Turn pictures into codes
    Encode(EncodeArgs),
    /// Turn codes into pictures
    Decode(DecodeArgs),
    /// Say how well a transformer knows pictures, in bits a code
    Score(Box<ScoreArgs>),
    /// Say what a model, a codes file or a picture holds
    Inspect(InspectArgs),
    /// Turn any model into our format, or ours into others'
    Convert(ConvertArgs),
    /// Models from the hub: list, pull, path, remove
    #[command(subcommand)]
    Models(ModelsCommand),
}

/// Options of all commands.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = COMMON)]
pub struct Common {
    /// Where to compute: cpu, cuda, cuda:N or metal
    #[arg(long, global = true, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// What to compute in; on a CPU, what weights of codecs are kept in: half the memory, and
    /// bf16 is multiplied as such where the CPU does that (AMX)
    #[arg(
        long,
        global = true,
        default_value = "f32",
        value_parser = PossibleValuesParser::new(["f32", "bf16", "f16"])
    )]
    pub dtype: String,
    /// Threads to compute with [default: one per core]
    #[arg(
        long,
        global = true,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    pub threads: Option<u16>,
    /// Print results as JSON lines
    #[arg(long, global = true)]
    pub json: bool,
    /// Keep stderr for errors: no progress, no notes
    #[arg(long, global = true)]
    pub quiet: bool,
}

/// Which model, and how much memory it may take.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = MODEL)]
pub struct ModelArgs {
    /// A model folder, a reference run folder (configs/*-project.yaml and
    /// checkpoints/last.ckpt), a diffusers folder, a weights file, or a name on the
    /// hub, owner/name, also @revision and :file; what it is is found out from its content
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// The configuration of a weights file, where its shapes do not say enough: a
    /// reference project file (YAML), a config.json, or a preset's name
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: Option<PathBuf>,
    /// Take the moving average of the weights, where the file has one
    #[arg(long)]
    pub ema: bool,
    /// Memory for activations, in MiB; larger pictures are processed in tiles
    /// [default: tiles of 512x512 pixels]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub memory: Option<u64>,
}

/// Which pictures, and how they are read.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = PICTURES)]
pub struct PictureArgs {
    /// Pictures, or folders of them (read with their sub-folders)
    #[arg(required = true, value_name = "IMAGE|DIR")]
    pub inputs: Vec<PathBuf>,
    /// Refuse pictures of more pixels than this; raise it for large ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_pixels: Option<u64>,
    /// Pictures of one size to process together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = batch_size)]
    pub batch: usize,
}

/// `reconstruct`.
#[derive(clap::Args, Debug)]
pub struct ReconstructArgs {
    #[command(flatten)]
    pub pictures: PictureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder for the results; sub-folders of inputs are kept
    #[arg(long, help_heading = OUTPUT, value_name = "DIR", default_value = "reconstructed")]
    pub output: PathBuf,
    /// Also write NAME-compare.png: the original beside its reconstruction
    #[arg(long, help_heading = OUTPUT)]
    pub compare: bool,
    /// Measure PSNR and SSIM of each picture, and their means
    #[arg(long, help_heading = OUTPUT)]
    pub metrics: bool,
    /// Replace files that exist
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
}

/// `encode`.
#[derive(clap::Args, Debug)]
pub struct EncodeArgs {
    #[command(flatten)]
    pub pictures: PictureArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder for the results: NAME.codes.safetensors for each picture
    #[arg(long, help_heading = OUTPUT, value_name = "DIR", default_value = "codes")]
    pub output: PathBuf,
    /// Write all codes to this one file instead; all pictures must then have
    /// a code grid of the same size
    #[arg(long, help_heading = OUTPUT, value_name = "FILE", conflicts_with = "output")]
    pub single: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
}

/// `decode`.
#[derive(clap::Args, Debug)]
pub struct DecodeArgs {
    /// Codes files, or folders with files called *.codes.safetensors
    #[arg(required = true, value_name = "CODES|DIR")]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// The folder for the pictures, which get the names they were encoded from
    #[arg(long, help_heading = OUTPUT, value_name = "DIR", default_value = "decoded")]
    pub output: PathBuf,
    /// Pictures of one size to process together
    #[arg(long, help_heading = OUTPUT, value_name = "N", default_value_t = 1, value_parser = batch_size)]
    pub batch: usize,
    /// Replace files that exist
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
}

/// `inspect`.
#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    /// Model folders, weights files, codes files, pictures
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The configuration of a weights file: a reference project file (YAML), a
    /// config.json, or a preset's name
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: Option<PathBuf>,
    /// Take the moving average of the weights, where the file has one
    #[arg(long)]
    pub ema: bool,
}

/// `convert`.
#[derive(clap::Args, Debug)]
pub struct ConvertArgs {
    /// The model: whatever --model takes
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The configuration of a weights file, where its shapes do not say enough: a
    /// reference project file (YAML), a config.json, or a preset's name
    #[arg(long, value_name = "FILE|PRESET")]
    pub config: Option<PathBuf>,
    /// Take the moving average of the weights, where the file has one
    #[arg(long)]
    pub ema: bool,
    /// The codec of a transformer's codes: for a weights file without one (LlamaGen), or to
    /// give a model another decoder of the same codes (init.keep_codes in training); a codec
    /// of other codes is refused
    #[arg(long, value_name = "PATH")]
    pub first_stage: Option<PathBuf>,
    /// The configuration of a codec that is a weights file
    #[arg(long, value_name = "FILE|PRESET", requires = "first_stage")]
    pub first_stage_config: Option<PathBuf>,
    /// Names of a transformer's classes, one a line, where it does not state them
    #[arg(long, value_name = "FILE")]
    pub class_names: Option<PathBuf>,
    /// The folder for the result
    #[arg(long, help_heading = OUTPUT, value_name = "DIR")]
    pub output: PathBuf,
    /// Whose files: ours (a model folder); reference (a checkpoint, its project file
    /// and safetensors for taming-transformers, or for LlamaGen); diffusers (a
    /// VQModel folder). A transformer comes with its codecs
    #[arg(long, help_heading = OUTPUT, value_name = "FORMAT", default_value = "ours",
          value_parser = PossibleValuesParser::new(["ours", "reference", "taming", "llamagen", "diffusers"]))]
    pub to: String,
    /// What numbers become; keep leaves every bit as it is
    #[arg(long, help_heading = OUTPUT, value_name = "DTYPE", default_value = "keep",
          value_parser = PossibleValuesParser::new(["keep", "f32", "bf16", "f16"]))]
    pub numbers: String,
    /// What the matrices of a transformer's linear layers are stored in blocks of, for
    /// drawing on a CPU, as `generate --weights` rounds them; its other numbers and its
    /// codecs are as --numbers says [default: none]
    #[arg(long, help_heading = OUTPUT, value_name = "FORMAT", value_parser = block_formats())]
    pub weights: Option<WeightFormat>,
    /// Replace a model that is there, also the one that is converted
    #[arg(long, help_heading = OUTPUT)]
    pub force: bool,
    #[command(flatten, next_help_heading = DRAWING)]
    pub distribution: DistributionArgs,
}

/// `models`.
#[derive(Subcommand, Debug)]
pub enum ModelsCommand {
    /// What is in the cache
    List,
    /// Download models, or what is missing of them
    Pull {
        /// owner/name, also @revision and :file
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
    },
    /// Where a model is in the cache; asks nobody
    Path {
        /// owner/name, also @revision and :file
        #[arg(value_name = "MODEL")]
        model: String,
    },
    /// Remove models from the cache, all their revisions
    Remove {
        /// owner/name
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<String>,
    },
}

impl ConvertArgs {
    /// Where the model is.
    pub fn spec(&self) -> ModelSpec {
        spec(&self.model, self.config.as_deref(), self.ema)
    }
}

impl ModelArgs {
    /// Where the model is.
    pub fn spec(&self) -> ModelSpec {
        spec(&self.model, self.config.as_deref(), self.ema)
    }
}

impl InspectArgs {
    /// The model at `path`. A folder has its own configuration.
    pub fn spec(&self, path: &Path) -> ModelSpec {
        spec(path, self.config.as_deref().filter(|_| !path.is_dir()), self.ema)
    }
}

fn spec(model: &Path, config: Option<&Path>, ema: bool) -> ModelSpec {
    let weights = if ema { Weights::Averaged } else { Weights::Trained };
    ModelSpec { model: model.to_path_buf(), config: config.map(Path::to_path_buf), weights }
}

fn batch_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=4096) => Ok(n),
        _ => Err("give a number from 1 to 4096".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
