//! The discriminator's part in a step.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use discriminator::{Critic, LeCam, adaptive_weight, r1, ramp};
use layers::{Gradients, Tape};

use super::{clip_factor, gradient_at};
use crate::adam::{Adam, AdamConfig};
use crate::config::{AdversarialConfig, UpdateOrder};
use crate::elementwise::norm;
use crate::observer::Terms;
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
}

/// The adversarial term of the autoencoder's loss.
pub(super) struct GeneratorTerm {
    /// Weighted value.
    pub value: f64,
    /// Weighted gradient at the reconstruction.
    pub gradient: Tensor,
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
        Ok(Self { parameters, optimizer, critic, config, lecam: LeCam::default() })
    }

    /// The order of the two updates.
    pub fn order(&self) -> UpdateOrder {
        self.config.order
    }

    /// Whether the discriminator takes no part in `step` at all.
    fn sleeps(&self, step: u64) -> bool {
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
        terms: &mut Terms,
    ) -> Result<Option<GeneratorTerm>> {
        if self.sleeps(step) {
            return Ok(None);
        }
        let mut tape = Tape::frozen();
        let logits = Var::from_tensor(&self.critic.logits_taped(made, &mut tape)?)?;
        let loss = self.config.generator_loss.loss(logits.as_tensor())?;
        let upstream = gradient_at(&loss, &logits)?;
        let gradient = tape.backward(&upstream, &mut Gradients::default())?;
        let gradient = gradient.context("the discriminator gives no gradient")?;
        let mut weight = self.config.weight;
        if self.config.adaptive {
            let ratio = adaptive_weight(&last_layer(nll_gradient)?, &last_layer(&gradient)?)?;
            weight *= f64::from(ratio.to_scalar::<f32>()?);
        }
        let value = f64::from(loss.to_scalar::<f32>()?);
        let factor = ramp(step, self.config.start, self.config.ramp);
        terms.insert("g_loss", value);
        terms.insert("d_weight", weight);
        terms.insert("disc_factor", factor);
        let weight = weight * factor;
        Ok(Some(GeneratorTerm { value: weight * value, gradient: (gradient * weight)? }))
    }

    /// What a continued run has to remember beside parameters and moments.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let Some(anchors) = self.lecam.anchors else { return Ok(BTreeMap::new()) };
        let anchors = Tensor::new(&anchors, &Device::Cpu)?;
        Ok(BTreeMap::from([("lecam".to_string(), anchors)]))
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// If it is not one of a discriminator.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let Some(anchors) = state.get("lecam") else { return Ok(()) };
        let anchors = anchors.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let [real, fake] = anchors[..] else { bail!("{} LeCam averages, not 2", anchors.len()) };
        self.lecam.anchors = Some([real, fake]);
        Ok(())
    }

    /// The gradients of the discriminator's own loss for pictures and what was made of
    /// them; none while it takes no part.
    pub(super) fn gradients(
        &mut self,
        images: &Tensor,
        made: &Tensor,
        step: u64,
        terms: &mut Terms,
    ) -> Result<Vec<(String, Tensor)>> {
        if self.sleeps(step) {
            return Ok(Vec::new());
        }
        let (mut real_tape, mut fake_tape) = (Tape::from_data(), Tape::from_data());
        let real = Var::from_tensor(&self.critic.logits_taped(images, &mut real_tape)?)?;
        let fake = Var::from_tensor(&self.critic.logits_taped(made, &mut fake_tape)?)?;
        // It learns in full from its start on: the ramp is for who learns from it.
        let weight = self.config.critic_weight * ramp(step, self.config.start, 0);
        let mut loss = self.config.critic_loss.loss(&real, &fake)?;
        let means = [mean(&real)?, mean(&fake)?];
        if self.config.lecam > 0.0 {
            if let Some(penalty) = self.lecam.penalty(&real, &fake)? {
                terms.insert("lecam", f64::from(penalty.to_scalar::<f32>()?));
                loss = (loss + (penalty * self.config.lecam)?)?;
            }
            if means.iter().all(|mean| mean.is_finite()) {
                self.lecam.follow(means[0], means[1]);
            }
        }
        let loss = (loss * weight)?;
        terms.insert("disc_loss", f64::from(loss.to_scalar::<f32>()?));
        terms.insert("logits_real", means[0]);
        terms.insert("logits_fake", means[1]);
        // How often it is right: a discriminator that always is has won.
        let right = [positive(&real)?, positive(&fake.neg()?)?];
        terms.insert("disc_accuracy_real", right[0]);
        terms.insert("disc_accuracy_fake", right[1]);
        terms.insert("disc_accuracy", 0.5 * (right[0] + right[1]));
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
            terms.insert("r1", penalty.value);
            let gamma = weight * self.config.r1 * every as f64;
            gradients.extend((penalty.surrogate * (0.5 * gamma))?.backward()?)?;
        }
        self.parameters.gradients(|parameter| gradients.get(parameter))
    }

    /// One update of the discriminator by `gradients`, whose norm is limited to `clip`.
    pub(super) fn update(
        &mut self,
        gradients: &[(String, Tensor)],
        lr: f64,
        step: u64,
        clip: f64,
        terms: &mut Terms,
    ) -> Result<()> {
        if self.sleeps(step) {
            return Ok(());
        }
        let size = norm(gradients.iter().map(|(_, gradient)| gradient))?;
        terms.insert("disc_grad_norm", size);
        if size.is_finite() {
            let lr = lr * self.config.lr_ratio;
            self.optimizer.update(gradients, lr, clip_factor(size, clip))?;
            self.parameters.refresh()?;
        }
        Ok(())
    }
}

fn mean(logits: &Tensor) -> candle_core::Result<f64> {
    Ok(f64::from(logits.mean_all()?.to_scalar::<f32>()?))
}

/// The fraction of `logits` above 0.
fn positive(logits: &Tensor) -> candle_core::Result<f64> {
    let above = logits.detach().gt(0f64)?.to_dtype(DType::F32)?;
    mean(&above)
}
