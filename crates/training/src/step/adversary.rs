//! The discriminator's part in a step.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use discriminator::{Critic, LeCam, adaptive_weight, r1, ramp};
use layers::{Factors, Gradients, Tape};

use super::parts::Sums;
use super::{Pair, gradient_at};
use crate::adam::{Adam, AdamConfig};
use crate::config::{AdversarialConfig, UpdateOrder};
use crate::foreach::{copies, norm};
use crate::readings::Readings;
use crate::scale::Scale;
use crate::store::ParameterStore;

/// A discriminator under training.
pub struct Adversary {
    /// Its variables.
    pub parameters: ParameterStore,
    /// Its optimiser.
    pub optimizer: Adam,
    critic: Box<dyn Critic>,
    config: AdversarialConfig,
    lecam: LeCam,
    factors: Factors,
}

/// The adversarial term of the autoencoder's loss.
pub(super) struct GeneratorTerm {
    /// Weighted value, a scalar, f64.
    pub value: Tensor,
    /// Weighted gradient at the reconstruction.
    pub gradient: Tensor,
}

/// What the forward passes of a discriminator change.
pub(super) struct Kept {
    variables: HashMap<String, Tensor>,
    lecam: LeCam,
}

impl Adversary {
    /// A trainer of `critic`, whose variables are in `parameters`.
    ///
    /// # Errors
    /// If memory for the optimiser's moments cannot be had.
    pub fn new(
        config: AdversarialConfig,
        adam: AdamConfig,
        critic: Box<dyn Critic>,
        parameters: ParameterStore,
    ) -> Result<Self> {
        let optimizer = Adam::new(adam, &parameters)?;
        let (lecam, factors) = (LeCam::default(), Factors::F32);
        Ok(Self { parameters, optimizer, critic, config, lecam, factors })
    }

    /// The same, on a CPU with products that may be rounded to `factors`.
    pub fn with_factors(self, factors: Factors) -> Self {
        Self { factors, ..self }
    }

    /// The order of the two updates.
    pub fn order(&self) -> UpdateOrder {
        self.config.order
    }

    /// Whether the discriminator takes no part in `step` at all.
    pub(super) fn sleeps(&self, step: u64) -> bool {
        self.config.sleep && step < self.config.start
    }

    /// The adversarial term for the reconstruction `made`; `None` while the
    /// discriminator takes no part.
    ///
    /// `nll_gradient` is the gradient of the other losses at `made`, and
    /// `last_layer` takes such a gradient to the weight of the decoder's last layer.
    pub(super) fn generator_term(
        &self,
        made: &Tensor,
        nll_gradient: &Tensor,
        last_layer: impl Fn(&Tensor) -> vq_autoencoder::Result<Tensor>,
        step: u64,
        terms: &mut Readings,
    ) -> Result<Option<GeneratorTerm>> {
        if self.sleeps(step) {
            return Ok(None);
        }
        let mut tape = Tape::frozen().with_factors(self.factors);
        let logits = Var::from_tensor(&self.critic.logits_taped(made, &mut tape)?)?;
        let loss = self.config.generator_loss.loss(logits.as_tensor())?;
        let upstream = gradient_at(&loss, &logits)?;
        let gradient = tape.backward(&upstream, &mut Gradients::default())?;
        let gradient = gradient.context("the discriminator gives no gradient")?;
        // In f64 as the host would have it: the weight is not waited for.
        let weight = if self.config.adaptive {
            let ratio = adaptive_weight(&last_layer(nll_gradient)?, &last_layer(&gradient)?)?;
            (ratio.to_dtype(DType::F64)? * self.config.weight)?
        } else {
            Tensor::full(self.config.weight, (), made.device())?
        };
        let value = loss.detach().to_dtype(DType::F64)?;
        let factor = ramp(step, self.config.start, self.config.ramp);
        terms.add("g_loss", &value)?;
        terms.add("d_weight", &weight)?;
        terms.know("disc_factor", factor);
        let weight = (weight * factor)?;
        let gradient = gradient.broadcast_mul(&weight.to_dtype(gradient.dtype())?)?;
        Ok(Some(GeneratorTerm { value: (value * weight)?, gradient }))
    }

    /// What a batch that turns out to be broken must not have changed; nothing while the
    /// discriminator takes no part.
    pub(super) fn kept(&self, step: u64) -> Result<Option<Kept>> {
        if self.sleeps(step) {
            return Ok(None);
        }
        let (names, values): (Vec<_>, Vec<_>) = self.parameters.tensors().into_iter().unzip();
        let variables = names.into_iter().zip(copies(&values)?).collect();
        Ok(Some(Kept { variables, lecam: self.lecam.clone() }))
    }

    /// Undoes what forward passes did since [`kept`](Self::kept).
    pub(super) fn put_back(&mut self, kept: Kept) -> Result<()> {
        self.lecam = kept.lecam;
        self.parameters.load(&kept.variables)
    }

    /// What a continued run has to remember beside parameters and moments.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let Some(anchors) = &self.lecam.anchors else { return Ok(BTreeMap::new()) };
        let anchors = Tensor::stack(anchors, 0)?.to_device(&Device::Cpu)?;
        Ok(BTreeMap::from([("lecam".to_string(), anchors)]))
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// If it is not one of a discriminator.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let Some(anchors) = state.get("lecam") else { return Ok(()) };
        ensure!(anchors.dims() == [2], "LeCam averages {:?}, not 2", anchors.dims());
        let anchors = anchors.to_dtype(DType::F64)?;
        self.lecam.anchors = Some([anchors.get(0)?, anchors.get(1)?]);
        Ok(())
    }

    /// The gradients of the discriminator's own loss for a batch, in parts; their norm, too,
    /// goes to `terms`, which are to be checked then.
    pub(super) fn gradients(
        &mut self,
        pairs: &[Pair],
        step: u64,
        terms: &mut Readings,
    ) -> Result<Vec<(String, Tensor)>> {
        let device = pairs.first().context("a batch without pictures")?.images.device();
        let mut sums = Sums::default();
        for Pair { images, made, share } in pairs {
            terms.begin_part(*share);
            sums.add(self.part_gradients(images, made, step, terms)?, *share)?;
        }
        terms.end_parts();
        let size = norm(sums.0.iter().map(|(_, gradient)| gradient), device)?;
        terms.add("disc_grad_norm", &size)?;
        terms.check();
        Ok(sums.0)
    }

    fn part_gradients(
        &mut self,
        images: &Tensor,
        made: &Tensor,
        step: u64,
        terms: &mut Readings,
    ) -> Result<Vec<(String, Tensor)>> {
        let tape = || Tape::from_data().with_factors(self.factors);
        let (mut real_tape, mut fake_tape) = (tape(), tape());
        let real = Var::from_tensor(&self.critic.logits_taped(images, &mut real_tape)?)?;
        let fake = Var::from_tensor(&self.critic.logits_taped(made, &mut fake_tape)?)?;
        // It learns in full from its start on: the ramp is for who learns from it.
        let weight = self.config.critic_weight * ramp(step, self.config.start, 0);
        let mut loss = self.config.critic_loss.loss(&real, &fake)?;
        let means = [mean(&real)?, mean(&fake)?];
        if self.config.lecam > 0.0 {
            if let Some(penalty) = self.lecam.penalty(&real, &fake)? {
                terms.add("lecam", &penalty)?;
                loss = (loss + (penalty * self.config.lecam)?)?;
            }
            self.lecam.follow(&means[0], &means[1])?;
        }
        let loss = (loss * weight)?;
        terms.add("disc_loss", &loss)?;
        terms.add("logits_real", &means[0])?;
        terms.add("logits_fake", &means[1])?;
        // How often it is right: a discriminator that always is has won.
        let right = [positive(&real)?, positive(&fake.neg()?)?];
        terms.add("disc_accuracy_real", &right[0])?;
        terms.add("disc_accuracy_fake", &right[1])?;
        terms.add("disc_accuracy", &((&right[0] + &right[1])? * 0.5)?)?;
        let mut gradients = Gradients::default();
        let store = loss.backward()?;
        for (logits, tape) in [(&real, real_tape), (&fake, fake_tape)] {
            // candle leaves out what is multiplied by 0: the loss before the first step.
            if let Some(upstream) = store.get(logits.as_tensor()) {
                tape.backward(upstream, &mut gradients)?;
            }
        }
        let every = self.config.r1_every.max(1);
        if self.config.r1 > 0.0 && weight > 0.0 && step.is_multiple_of(every) {
            let penalty = r1(&*self.critic, images)?;
            terms.add("r1", &penalty.value)?;
            let gamma = weight * self.config.r1 * every as f64;
            gradients.extend((penalty.surrogate * (0.5 * gamma))?.backward()?)?;
        }
        self.parameters.gradients(|parameter| gradients.get(parameter))
    }

    /// One update of the discriminator by `gradients`, each times `scale` first.
    pub(super) fn update(
        &mut self,
        gradients: &[(String, Tensor)],
        lr: f64,
        scale: Scale,
    ) -> Result<()> {
        self.optimizer.update(gradients, lr * self.config.lr_ratio, scale)?;
        self.parameters.refresh()
    }
}

/// A scalar, f64.
fn mean(logits: &Tensor) -> candle_core::Result<Tensor> {
    logits.detach().mean_all()?.to_dtype(DType::F64)
}

/// The fraction of `logits` above 0: a scalar, f64.
fn positive(logits: &Tensor) -> candle_core::Result<Tensor> {
    let above = logits.detach().gt(0f64)?.to_dtype(DType::F32)?;
    mean(&above)
}
