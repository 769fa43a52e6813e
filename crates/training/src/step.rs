//! One update of a first stage: forward, losses, gradients, Adam.
//!
//! The full backward pass happens once. The losses of the reconstruction are
//! first differentiated down to the reconstruction itself, each on its own
//! (pixels and LPIPS; the discriminator); eq. 7 of the paper compares the two
//! at the last layer, and only their weighted sum goes back through the
//! autoencoder. Encoder and decoder run on tapes of [`layers`]; losses, quantizer and
//! discriminator use candle's graph.

mod adversary;
mod reconstruction;

use anyhow::{Context, Result};
use candle_core::{Tensor, Var};
use codebook::{CodeGrid, Quantizer};
use layers::{Gradients, Tape};
use vq_autoencoder::VqModel;

pub use adversary::Adversary;
pub use reconstruction::{Perceptual, ReconstructionLoss};

use crate::adam::Adam;
use crate::config::{TrainConfig, UpdateOrder};
use crate::elementwise::norm;
use crate::observer::Terms;
use crate::store::ParameterStore;

/// A first stage under training.
pub struct VqTrainer {
    /// The autoencoder; it shares its variables with `parameters`.
    pub model: VqModel,
    /// The autoencoder's variables.
    pub parameters: ParameterStore,
    /// The autoencoder's optimiser.
    pub optimizer: Adam,
    /// The discriminator, if there is one.
    pub adversary: Option<Adversary>,
    loss: ReconstructionLoss,
    codebook_weight: f64,
    clip: f64,
}

/// What an update did.
pub struct StepOutcome {
    /// Losses under the reference's names, `lr` and `grad_norm`.
    pub terms: Terms,
    /// The codes of the batch; none where there was nothing finite to quantize.
    pub codes: Option<CodeGrid>,
    /// The first term that was not finite: nothing was updated then.
    pub broken: Option<&'static str>,
    /// The autoencoder's gradients before clipping, sorted by name.
    pub gradients: Vec<(String, Tensor)>,
    /// The discriminator's gradients before clipping, sorted by name.
    pub critic_gradients: Vec<(String, Tensor)>,
}

impl StepOutcome {
    /// Of a batch that was given up at `term`.
    fn broken(term: &'static str, terms: Terms) -> Self {
        Self {
            terms,
            codes: None,
            broken: Some(term),
            gradients: Vec::new(),
            critic_gradients: Vec::new(),
        }
    }
}

impl VqTrainer {
    /// A trainer of `model`, whose variables are in `parameters`.
    ///
    /// # Errors
    /// If memory for the optimiser's moments cannot be had.
    pub fn new(
        config: &TrainConfig,
        model: VqModel,
        parameters: ParameterStore,
        loss: ReconstructionLoss,
        adversary: Option<Adversary>,
    ) -> Result<Self> {
        let optimizer = Adam::new(config.optimizer.adam.clone(), &parameters)?;
        Ok(Self {
            model,
            parameters,
            optimizer,
            adversary,
            loss,
            codebook_weight: config.loss.codebook_weight,
            clip: config.optimizer.clip,
        })
    }

    /// Update number `step` (from 0) with `images` `[B, 3, H, W]` in `[-1, 1]`.
    ///
    /// # Errors
    /// If the pictures do not fit the model.
    pub fn step(&mut self, images: &Tensor, lr: f64, step: u64) -> Result<StepOutcome> {
        // On a thread of the pool, so that no layer has to wake it.
        rayon::scope(|_| self.update(images, lr, step))
    }

    fn update(&mut self, images: &Tensor, lr: f64, step: u64) -> Result<StepOutcome> {
        let mut terms = Terms::from([("lr", lr)]);

        let mut encoder = Tape::from_data();
        let z = Var::from_tensor(&self.model.pre_quant_taped(images, &mut encoder)?)?;
        // The quantizer refuses what is not finite, and the discriminator's running
        // statistics would keep it: such a batch ends here.
        terms.insert("latent_rms", rms(&z)?);
        if let Some(term) = not_finite(&terms) {
            return Ok(StepOutcome::broken(term, terms));
        }
        let quantized = self.model.quantizer().quantize(z.as_tensor())?;
        let mut decoder = Tape::default();
        let embeddings = quantized.embeddings.detach();
        let hidden = self.model.decode_hidden_taped(&embeddings, &mut decoder)?;
        let made = self.model.last_convolution_taped(&hidden, &mut decoder)?;

        // A leaf in place of the reconstruction, to collect gradients at.
        let leaf = Var::from_tensor(&made)?;
        let nll = self.loss.nll(images, leaf.as_tensor(), &mut terms)?;
        let mut upstream = gradient_at(&nll, &leaf)?;
        let mut total = f64::from(nll.to_scalar::<f32>()?);
        terms.insert("nll_loss", total);
        if let Some(term) = not_finite(&terms) {
            return Ok(StepOutcome::broken(term, terms));
        }

        if let Some(adversary) = &self.adversary {
            let last = |upstream: &Tensor| self.model.last_layer_gradient(&hidden, upstream);
            let term = adversary.generator_term(&made, &upstream, last, step, &mut terms)?;
            if let Some(term) = term {
                total += term.value;
                upstream = (upstream + term.gradient)?;
            }
        }

        let quantizer_loss = quantized.losses.total;
        let quantizer_value = f64::from(quantizer_loss.to_scalar::<f32>()?);
        terms.insert("quant_loss", quantizer_value);
        total += self.codebook_weight * quantizer_value;
        terms.insert("total_loss", total);

        let mut gradients = Gradients::default();
        let upstream = decoder.backward(&upstream, &mut gradients)?;
        let upstream = upstream.context("the decoder's input has no gradient")?;
        // Its gradient is that of the total loss, by the chain rule.
        let reconstruction = (quantized.embeddings * upstream)?.sum_all()?;
        let surrogate = (reconstruction + (quantizer_loss * self.codebook_weight)?)?;
        let mut store = surrogate.backward()?;
        let upstream = store.remove(z.as_tensor()).context("the encoder gets no gradient")?;
        gradients.extend(store)?;
        encoder.backward(&upstream, &mut gradients)?;
        let gradients = self.parameters.gradients(|parameter| gradients.get(parameter));
        let size = norm(gradients.iter().map(|(_, gradient)| gradient))?;
        terms.insert("grad_norm", size);

        let mut outcome = StepOutcome {
            broken: not_finite(&terms),
            terms,
            codes: Some(quantized.codes),
            gradients,
            critic_gradients: Vec::new(),
        };
        if outcome.broken.is_some() {
            return Ok(outcome);
        }
        self.optimizer.update(&outcome.gradients, lr, clip_factor(size, self.clip))?;

        if let Some(adversary) = &mut self.adversary {
            let made = match adversary.order() {
                UpdateOrder::SingleForward => leaf.as_detached_tensor(),
                UpdateOrder::Reference => reconstruct(&self.model, images)?,
            };
            outcome.critic_gradients =
                adversary.learn(images, &made, lr, step, self.clip, &mut outcome.terms)?;
            outcome.broken = not_finite(&outcome.terms);
        }
        Ok(outcome)
    }
}

/// What the autoencoder makes of `images`; the way back is not kept.
fn reconstruct(model: &VqModel, images: &Tensor) -> Result<Tensor> {
    let z = model.pre_quant_taped(images, &mut Tape::from_data())?;
    let embeddings = model.quantizer().quantize(&z)?.embeddings.detach();
    let hidden = model.decode_hidden_taped(&embeddings, &mut Tape::default())?;
    Ok(model.last_convolution_taped(&hidden, &mut Tape::default())?)
}

/// The gradient of the scalar `loss` at `leaf`.
fn gradient_at(loss: &Tensor, leaf: &Var) -> Result<Tensor> {
    let gradients = loss.backward()?;
    let gradient = gradients.get(leaf.as_tensor());
    Ok(gradient.context("a loss does not depend on the reconstruction")?.clone())
}

/// What all gradients are multiplied by so that their norm is at most `limit`
/// (0: no limit), as `torch.nn.utils.clip_grad_norm_` computes it.
pub(crate) fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// The root of the mean square.
fn rms(tensor: &Tensor) -> Result<f64> {
    Ok(norm([tensor].into_iter())? / (tensor.elem_count().max(1) as f64).sqrt())
}

fn not_finite(terms: &Terms) -> Option<&'static str> {
    terms.iter().find(|(_, value)| !value.is_finite()).map(|(&name, _)| name)
}

#[cfg(test)]
mod tests;
