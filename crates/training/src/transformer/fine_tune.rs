//! Starting a second stage from a transformer that was trained before, here or elsewhere.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use pipeline::{Architecture, GeneratorSpec, ModelSpec, TransformerConfig, TransformerWeights};

use super::carry::{Carry, Heir};
use super::condition::Conditioning;
use super::config::{ConditionSetting, ModelSetting, TransformerTrainConfig};
use super::step::TransformerTrainer;
use crate::checkpoint::Checkpoints;
use crate::config::RunConfig;
use crate::fine_tune::{no_moments, run_checkpoint};

/// A configuration and what it starts from.
pub(super) struct Start<'a> {
    /// With the architecture of the model it starts from.
    pub config: Cow<'a, TransformerTrainConfig>,
    /// That model; none: noise, or a checkpoint of the run.
    pub from: Option<TransformerWeights>,
}

impl<'a> Start<'a> {
    /// Reads what `init.model` names. A run that was begun knows its architecture, even when
    /// that model has gone.
    ///
    /// # Errors
    /// When the model cannot be found or read, or `config` describes another architecture.
    pub(super) fn new(config: &'a TransformerTrainConfig) -> Result<Self> {
        let init = &config.init;
        if init.model.as_os_str().is_empty() {
            return Ok(Self { config: Cow::Borrowed(config), from: None });
        }
        let path = config.run.join("config.toml");
        let begun = path.is_file() && Checkpoints::new(config.run.join("checkpoints"), 1).any()?;
        let (model, from) = if begun {
            (TransformerTrainConfig::read(&path, &[])?.model, None)
        } else {
            let name = || format!("init.model = {}", init.model.display());
            let from = TransformerWeights::load(&spec(config)).with_context(name)?;
            (setting(&from.config.architecture).with_context(name)?, Some(from))
        };
        ensure!(
            config.model == TransformerTrainConfig::default().model || config.model == model,
            "[model] is not the architecture of init.model = {}: leave [model] out",
            init.model.display()
        );
        let config = TransformerTrainConfig { model, ..config.clone() };
        config.validate().context("with the architecture of init.model")?;
        Ok(Self { config: Cow::Owned(config), from })
    }
}

/// Puts the tokenizer of `from` where a run on captions looks for its own.
///
/// # Errors
/// If it cannot be written.
pub(super) fn hand_over_tokenizer(
    from: &TransformerWeights,
    condition: &ConditionSetting,
    path: &Path,
) -> Result<()> {
    if let (ConditionSetting::Text { .. }, Some(tokenizer)) = (condition, &from.tokenizer)
        && !path.exists()
    {
        checkpoints::atomic_write(path, |file| file.write_all(tokenizer))?;
    }
    Ok(())
}

/// A run that starts from another's weights.
pub(super) struct FineTune<'a> {
    pub config: &'a TransformerTrainConfig,
    pub from: &'a TransformerWeights,
    pub architecture: &'a Architecture,
    pub conditioning: &'a Conditioning,
    /// Height and width of its pictures in codes.
    pub grid: (usize, usize),
    /// Kinds of codes of its first stage, and which codec that is.
    pub codes: usize,
    pub codec_sha256: &'a str,
}

impl FineTune<'_> {
    /// Gives `trainer` the weights, and the moments if asked for. Returns warnings.
    ///
    /// # Errors
    /// When they do not fit the run's pictures, codes or condition; when there are no
    /// moments.
    pub(super) fn start(
        &self,
        trainer: &mut TransformerTrainer,
        device: &Device,
    ) -> Result<Vec<String>> {
        let init = &self.config.init;
        let name = || format!("init.model = {}", init.model.display());
        self.check(&self.from.config).with_context(name)?;
        let heir = Heir {
            architecture: self.architecture,
            condition: &self.conditioning.config,
            positions: self.conditioning.positions,
            codes: self.codes,
        };
        let carry = Carry::new(&self.from.config, &heir);
        let fresh = trainer.parameters.tensors();
        let load = |old: &BTreeMap<String, Tensor>| -> Result<HashMap<_, _>> {
            Ok(carry.values(&fresh, old)?.into_iter().collect())
        };
        if init.optimizer {
            let run = run_checkpoint(&init.model, device)?;
            let run = run.ok_or_else(|| no_moments(&init.model))?;
            let section = |name: &str| run.section(name).into_iter().collect::<BTreeMap<_, _>>();
            let values = load(&section("model.")).with_context(name)?;
            trainer.parameters.load(&values).with_context(name)?;
            let moments = moments(&carry, &fresh, &section("optimizer.")).with_context(name)?;
            trainer.optimizer.load_state(run.progress.updates, &moments).with_context(name)?;
        } else {
            let values = load(&self.from.tensors).with_context(name)?;
            trainer.parameters.load(&values).with_context(name)?;
        }

        let mut warnings = Vec::new();
        if !self.from.config.first_stage.may_be(self.codec_sha256) {
            warnings.push(format!(
                "{} draws the codes of another first stage than first_stage = {}: its codes may \
                 mean something else here",
                init.model.display(),
                self.config.first_stage.display()
            ));
        }
        let new = carry.new_rows();
        if new > 0 {
            warnings.push(format!(
                "{new} tokens of the condition are new to {} and start from noise",
                init.model.display()
            ));
        }
        Ok(warnings)
    }

    /// Checks what no row can be carried over without.
    fn check(&self, from: &TransformerConfig) -> Result<()> {
        let (theirs, ours) = (from.codes, self.codes);
        ensure!(
            theirs == ours,
            "it draws {theirs} kinds of codes, and first_stage = {} has {ours}",
            self.config.first_stage.display()
        );
        ensure!(
            from.permuter == self.config.order,
            "its codes come in the order {:?}, and order = {:?}",
            from.permuter,
            self.config.order
        );
        let [height, width] = from.grid;
        let learned = matches!(self.architecture, Architecture::Gpt(_));
        ensure!(
            !learned || self.grid == (height, width),
            "it was trained on {height}x{width} codes and has learned their positions, and \
             pictures here are {}x{}: change pictures.side to {} times what it is",
            self.grid.0,
            self.grid.1,
            height as f64 / self.grid.0.max(1) as f64
        );
        Ok(())
    }
}

fn spec(config: &TransformerTrainConfig) -> GeneratorSpec {
    let init = &config.init;
    GeneratorSpec {
        config: (!init.config.as_os_str().is_empty()).then(|| init.config.clone()),
        // A file of LlamaGen's brings none; of others only the transformer is wanted here.
        first_stage: Some(ModelSpec::new(&config.first_stage)),
        ..GeneratorSpec::new(&init.model)
    }
}

/// `architecture` as a configuration says it.
fn setting(architecture: &Architecture) -> Result<ModelSetting> {
    Ok(match architecture {
        Architecture::Gpt(config) => {
            if config.n_unmasked > 0 {
                bail!(
                    "its first {} positions see each other (n_unmasked), which is not trained here",
                    config.n_unmasked
                );
            }
            let (n_layer, n_head, n_embd) = (config.n_layer, config.n_head, config.n_embd);
            ModelSetting::Gpt { n_layer, n_head, n_embd }
        }
        Architecture::Llama(config) => {
            let shared = config.n_kv_head.is_some_and(|heads| heads != config.n_head);
            let usual = !shared
                && config.ffn_dim_multiplier.is_none()
                && config.rope_base == 10_000.0
                && config.norm_eps == 1e-5;
            ensure!(
                usual,
                "n_kv_head, ffn_dim_multiplier, rope_base or norm_eps are not those of \
                 LlamaGen's published models, which are what is trained here"
            );
            ModelSetting::Llama {
                n_layer: config.n_layer,
                n_head: config.n_head,
                dim: config.dim,
                multiple_of: config.multiple_of,
            }
        }
    })
}

/// The moments (`NAME.exp_avg`, `NAME.exp_avg_sq`) of all parameters; those of new rows
/// are 0.
fn moments(
    carry: &Carry,
    parameters: &BTreeMap<String, Tensor>,
    old: &BTreeMap<String, Tensor>,
) -> Result<HashMap<String, Tensor>> {
    let zeros = parameters.iter().map(|(name, value)| Ok((name.clone(), value.zeros_like()?)));
    let zeros: BTreeMap<_, _> = zeros.collect::<Result<_>>()?;
    let mut moments = HashMap::new();
    for kind in [".exp_avg", ".exp_avg_sq"] {
        let of_kind = old
            .iter()
            .filter_map(|(name, value)| Some((name.strip_suffix(kind)?.to_owned(), value.clone())));
        let values = carry.values(&zeros, &of_kind.collect())?;
        moments.extend(values.into_iter().map(|(name, value)| (name + kind, value)));
    }
    Ok(moments)
}
