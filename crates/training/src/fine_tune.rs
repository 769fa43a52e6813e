//! Starting from a model that was trained before, here or elsewhere.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{Device, Tensor};
use checkpoints::TensorFile;
use pipeline::{CodecWeights, ModelSpec};

use crate::checkpoint::{Checkpoints, Loaded};
use crate::config::{InitConfig, RunConfig, TrainConfig};
use crate::step::VqTrainer;
use crate::store::ParameterStore;

/// Where a reference checkpoint keeps its discriminator, and where ours is built.
const DISCRIMINATOR: &str = "loss.discriminator.";

/// `config` with the architecture of the model it starts from. A run that was begun knows
/// it, even when that model has gone.
///
/// # Errors
/// When the model cannot be found or read, or `config` describes another architecture.
pub(crate) fn resolved(config: &TrainConfig) -> Result<Cow<'_, TrainConfig>> {
    if config.init.model.as_os_str().is_empty() || config.init.partial {
        return Ok(Cow::Borrowed(config));
    }
    let path = config.run.join("config.toml");
    let model = if path.is_file() && Checkpoints::new(config.run.join("checkpoints"), 1).any()? {
        TrainConfig::read(&path, &[])?.model
    } else {
        CodecWeights::load(&spec(&config.init)).context("init.model")?.config
    };
    ensure!(
        config.model == TrainConfig::default().model || config.model == model,
        "[model] is not the architecture of init.model = {}: leave [model] out, or set \
         init.partial = true to take only the weights that fit",
        config.init.model.display()
    );
    let config = TrainConfig { model, ..config.clone() };
    config.validate().context("with the architecture of init.model")?;
    Ok(Cow::Owned(config))
}

/// Gives `trainer` the weights that `config.init` names. Returns warnings.
///
/// # Errors
/// When they cannot be read, or do not fit.
pub(crate) fn start(
    config: &TrainConfig,
    trainer: &mut VqTrainer,
    device: &Device,
) -> Result<Vec<String>> {
    let init = &config.init;
    let name = || format!("init.model = {}", init.model.display());
    let run = run_checkpoint(&init.model, device)?;
    let weights = CodecWeights::load(&spec(init)).with_context(name)?;
    let mut warnings = Vec::new();
    match (&run, init.optimizer) {
        (Some(run), true) => {
            trainer.parameters.load(&run.section("model.")).with_context(name)?;
            let updates = run.progress.updates;
            let state = run.section("optimizer.");
            trainer.optimizer.load_state(updates, &state).with_context(name)?;
        }
        (None, true) => return Err(no_moments(&init.model)),
        (_, false) => {
            let tensors = if init.partial {
                let (tensors, said) =
                    fitting(weights.tensors, &trainer.parameters).with_context(name)?;
                warnings.extend(said);
                tensors
            } else {
                weights.tensors.into_iter().collect()
            };
            trainer.parameters.load(&tensors).with_context(name)?;
        }
    }

    let Some(adversary) = trainer.adversary.as_mut().filter(|_| init.discriminator) else {
        return Ok(warnings);
    };
    let critic = match &run {
        Some(run) => run.section("critic."),
        None => discriminator(&weights.file, device).with_context(name)?,
    };
    if critic.is_empty() {
        let message = format!(
            "{} holds no discriminator: this run's starts from noise",
            init.model.display()
        );
        warnings.push(message);
        return Ok(warnings);
    }
    adversary.parameters.load(&critic).with_context(|| {
        format!(
            "the discriminator of {} is another than [adversarial.patchgan] describes (set that, \
             or init.discriminator = false)",
            init.model.display()
        )
    })?;
    if let (Some(run), true) = (&run, init.optimizer) {
        let updates = run.progress.critic_updates;
        adversary.optimizer.load_state(updates, &run.section("critic_optimizer."))?;
        adversary.load_state(&run.section("critic_state."))?;
    }
    Ok(warnings)
}

/// Of `tensors`, a model's, those that fit the variables in `store`, and the fresh values of
/// the others. Says which parts of the network the others are, where there are any.
///
/// # Errors
/// When nothing fits, which is another kind of model.
fn fitting(
    mut tensors: BTreeMap<String, Tensor>,
    store: &ParameterStore,
) -> Result<(HashMap<String, Tensor>, Option<String>)> {
    let mut values = HashMap::new();
    let mut parts = BTreeSet::new();
    let mut fresh = 0;
    for (name, variable) in store.variables() {
        let value = match tensors.remove(&name).filter(|old| old.dims() == variable.dims()) {
            Some(old) => old,
            None => {
                fresh += 1;
                parts.insert(part(&name).to_owned());
                variable.copy()?
            }
        };
        values.insert(name, value);
    }
    let all = values.len();
    ensure!(fresh < all, "not one of its tensors has the name and shape of one of [model]'s {all}");
    let parts = parts.into_iter().collect::<Vec<_>>().join(", ");
    let said = format!("init.partial: {fresh} of {all} tensors start from noise: {parts}");
    Ok((values, (fresh > 0).then_some(said)))
}

/// The part of the network that a weight belongs to: `decoder.up.4` of
/// `decoder.up.4.block.0.conv1.weight`.
fn part(name: &str) -> &str {
    let ends: Vec<usize> = name.match_indices('.').map(|(at, _)| at).collect();
    match ends.get(2).or(ends.last()) {
        Some(&end) => &name[..end],
        None => name,
    }
}

/// What is said where moments are asked for and there are none.
pub(crate) fn no_moments(model: &Path) -> anyhow::Error {
    anyhow!(
        "init.optimizer = true needs a run folder with a checkpoint of ours, and {} is none: set \
         it to false",
        model.display()
    )
}

fn spec(init: &InitConfig) -> ModelSpec {
    match init.config.as_os_str().is_empty() {
        true => ModelSpec::new(&init.model),
        false => ModelSpec::with_config(&init.model, &init.config),
    }
}

/// The newest intact checkpoint of a run folder of ours.
pub(crate) fn run_checkpoint(model: &Path, device: &Device) -> Result<Option<Loaded>> {
    let folder = model.join("checkpoints");
    // A reference run has a folder of that name too, with other files in it.
    if !model.join("config.toml").is_file() || !folder.is_dir() {
        return Ok(None);
    }
    Ok(Checkpoints::new(folder, 1).newest(device)?.0)
}

/// The discriminator in a weights file; nothing where there is none.
fn discriminator(file: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    let file = TensorFile::open(file)?;
    let names = file.names().filter_map(|name| {
        // A transformer's checkpoint holds its first stage under a name.
        Some((name, &name[name.find(DISCRIMINATOR)?..]))
    });
    names.map(|(name, key)| Ok((key.to_string(), file.tensor(name, device)?))).collect()
}
