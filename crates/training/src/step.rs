//! One update of a first stage: forward, losses, gradients, Adam.
//!
//! The full backward pass happens once. The losses of the reconstruction are
//! first differentiated down to the reconstruction itself, each on its own
//! (pixels and LPIPS; the discriminator); eq. 7 of the paper compares the two
//! at the last layer, and only their weighted sum goes back through the
//! autoencoder. Encoder and decoder run on tapes of [`layers`]; losses, quantizer and
//! discriminator use candle's graph.
//!
//! Encoder and decoder compute in the dtype of the model. Between them everything is f32:
//! what the encoder makes becomes f32 before it is quantized, what the decoder makes before
//! it is looked at, and gradients go back as they came. The discriminator is f32 whatever the
//! autoencoder is: its batch statistics, power iterations and R1 live on small differences, its
//! gradient is compared with that of the other losses (eq. 7), and it is small.

mod adversary;
mod cross_entropy;
mod reconstruction;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor, Var};
use codebook::{CodeGrid, Quantizer};
use layers::{Gradients, Tape};
use vq_autoencoder::VqModel;

pub use adversary::Adversary;
pub(crate) use cross_entropy::binary_cross_entropy;
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
    /// The most pictures that go through the networks at once.
    part: usize,
}

/// What an update did.
pub struct StepOutcome {
    /// Losses under the reference's names, `lr` and `grad_norm`.
    pub terms: Terms,
    /// The codes of the batch; none where there was nothing finite to quantize.
    pub codes: Option<CodeGrid>,
    /// The first term that was not finite: nothing was updated then.
    pub broken: Option<&'static str>,
    /// The autoencoder's gradients before clipping, f32, sorted by name.
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
    /// A trainer of `model`, which was built from `parameters`, in f32 or half precision.
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
            part: config.batch.max(1),
        })
    }

    /// Update number `step` (from 0) with `images` `[B, C, H, W]`: pictures or depth maps in
    /// `[-1, 1]`, or label maps with a channel a label. More
    /// pictures than the configuration's `batch` go through the networks in parts of that
    /// many, whose gradients are accumulated; batch norm and the adaptive weight see one
    /// part at a time, as in the reference.
    ///
    /// # Errors
    /// If the pictures do not fit the model.
    pub fn step(&mut self, images: &Tensor, lr: f64, step: u64) -> Result<StepOutcome> {
        // On a thread of the pool, so that no layer has to wake it.
        rayon::scope(|_| self.update(images, lr, step))
    }

    fn update(&mut self, images: &Tensor, lr: f64, step: u64) -> Result<StepOutcome> {
        let mut terms = Terms::from([("lr", lr)]);
        let (mut codes, mut sums, mut pairs) = (Vec::new(), Sums::default(), Vec::new());
        for (part, share) in parts(images, self.part)? {
            let mut own = Terms::new();
            let pass = self.backward(&part, step, &mut own)?;
            merge(&mut terms, own, share);
            let Some(pass) = pass else { break };
            sums.add(pass.gradients, share)?;
            codes.push(pass.codes);
            pairs.push((part, pass.made, share));
        }
        if let Some(term) = not_finite(&terms) {
            return Ok(StepOutcome::broken(term, terms));
        }
        let gradients = sums.0;
        let size = norm(gradients.iter().map(|(_, gradient)| gradient))?;
        terms.insert("grad_norm", size);
        let mut outcome = StepOutcome {
            broken: not_finite(&terms),
            terms,
            codes: Some(joined(&codes)?),
            gradients,
            critic_gradients: Vec::new(),
        };
        if outcome.broken.is_some() {
            return Ok(outcome);
        }
        self.optimizer.update(&outcome.gradients, lr, clip_factor(size, self.clip))?;
        self.parameters.refresh()?;

        if let Some(adversary) = &mut self.adversary {
            let mut sums = Sums::default();
            for (images, made, share) in pairs {
                let made = match adversary.order() {
                    UpdateOrder::SingleForward => made,
                    UpdateOrder::Reference => reconstruct(&self.model, &images)?,
                };
                let mut own = Terms::new();
                sums.add(adversary.gradients(&images, &made, step, &mut own)?, share)?;
                merge(&mut outcome.terms, own, share);
            }
            outcome.critic_gradients = sums.0;
            let (gradients, terms) = (&outcome.critic_gradients, &mut outcome.terms);
            adversary.update(gradients, lr, step, self.clip, terms)?;
            outcome.broken = not_finite(&outcome.terms);
        }
        Ok(outcome)
    }

    /// Losses and gradients of some of an update's pictures; `None` as soon as a term is
    /// not finite.
    fn backward(&self, images: &Tensor, step: u64, terms: &mut Terms) -> Result<Option<Pass>> {
        let mut encoder = Tape::from_data();
        let z = self.model.pre_quant_taped(images, &mut encoder)?.to_dtype(DType::F32)?;
        let z = Var::from_tensor(&z)?;
        // The quantizer refuses what is not finite, and the discriminator's running
        // statistics would keep it: such a batch ends here.
        terms.insert("latent_rms", rms(&z)?);
        if not_finite(terms).is_some() {
            return Ok(None);
        }
        let quantized = self.model.quantizer().quantize(z.as_tensor())?;
        let mut decoder = Tape::default();
        let embeddings = quantized.embeddings.detach();
        let hidden = self.model.decode_hidden_taped(&embeddings, &mut decoder)?;
        let made = self.model.last_convolution_taped(&hidden, &mut decoder)?;
        let made = made.to_dtype(DType::F32)?;

        // A leaf in place of the reconstruction, to collect gradients at.
        let leaf = Var::from_tensor(&made)?;
        let nll = self.loss.nll(images, leaf.as_tensor(), terms)?;
        let mut upstream = gradient_at(&nll, &leaf)?;
        let mut total = f64::from(nll.to_scalar::<f32>()?);
        terms.insert("nll_loss", total);
        if not_finite(terms).is_some() {
            return Ok(None);
        }

        if let Some(adversary) = &self.adversary {
            let last = |upstream: &Tensor| self.model.last_layer_gradient(&hidden, upstream);
            let term = adversary.generator_term(&made, &upstream, last, step, terms)?;
            if let Some(term) = term {
                total += term.value;
                upstream = (upstream + term.gradient)?;
            }
        }

        let quantizer_loss = quantized.losses.total;
        let quantizer_value = f64::from(quantizer_loss.to_scalar::<f32>()?);
        terms.insert("quant_loss", quantizer_value);
        for (name, part) in [
            ("codebook_loss", Some(&quantized.losses.codebook)),
            ("commit_loss", Some(&quantized.losses.commitment)),
            ("entropy_loss", quantized.losses.extra.as_ref()),
        ] {
            if let Some(part) = part {
                terms.insert(name, f64::from(part.to_scalar::<f32>()?));
            }
        }
        total += self.codebook_weight * quantizer_value;
        terms.insert("total_loss", total);

        let mut gradients = Gradients::default();
        // The tape holds it for as long as it has to.
        drop(hidden);
        let dtype = self.model.dtype();
        let upstream = decoder.backward(&upstream.to_dtype(dtype)?, &mut gradients)?;
        let upstream = upstream.context("the decoder's input has no gradient")?;
        let upstream = upstream.to_dtype(DType::F32)?;
        // Its gradient is that of the total loss, by the chain rule.
        let reconstruction = (quantized.embeddings * upstream)?.sum_all()?;
        let surrogate = (reconstruction + (quantizer_loss * self.codebook_weight)?)?;
        let mut store = surrogate.backward()?;
        let upstream = store.remove(z.as_tensor()).context("the encoder gets no gradient")?;
        gradients.extend(store)?;
        encoder.backward(&upstream.to_dtype(dtype)?, &mut gradients)?;
        let gradients = self.parameters.gradients(|parameter| gradients.get(parameter))?;
        Ok(Some(Pass { made, codes: quantized.codes, gradients }))
    }
}

/// What a forward and a backward pass leave.
struct Pass {
    made: Tensor,
    codes: CodeGrid,
    gradients: Vec<(String, Tensor)>,
}

/// Gradients by name, summed over parts of a batch.
#[derive(Default)]
struct Sums(Vec<(String, Tensor)>);

impl Sums {
    /// Adds `share` of each gradient: losses are means, so that of a batch is made of its
    /// parts' by their shares of the pictures.
    fn add(&mut self, gradients: Vec<(String, Tensor)>, share: f64) -> Result<()> {
        if share == 1.0 {
            self.0 = gradients;
            return Ok(());
        }
        if self.0.is_empty() {
            let scale = |(name, gradient): (String, Tensor)| Ok((name, (gradient * share)?));
            self.0 = gradients.into_iter().map(scale).collect::<Result<_>>()?;
            return Ok(());
        }
        ensure!(self.0.len() == gradients.len(), "parts of a batch have other gradients");
        for ((name, sum), (other, gradient)) in self.0.iter_mut().zip(gradients) {
            ensure!(*name == other, "parts of a batch have other gradients: {name}, {other}");
            *sum = (&*sum + (gradient * share)?)?;
        }
        Ok(())
    }
}

/// `images` in parts of at most `size`, each with its share of the pictures.
fn parts(images: &Tensor, size: usize) -> Result<Vec<(Tensor, f64)>> {
    let count = images.dim(0)?;
    if count <= size {
        return Ok(vec![(images.clone(), 1.0)]);
    }
    let starts = (0..count).step_by(size);
    starts
        .map(|start| {
            let len = size.min(count - start);
            Ok((images.narrow(0, start, len)?.contiguous()?, len as f64 / count as f64))
        })
        .collect()
}

/// Adds `share` of each of `own` to `terms`.
fn merge(terms: &mut Terms, own: Terms, share: f64) {
    for (name, value) in own {
        *terms.entry(name).or_insert(0.0) += share * value;
    }
}

/// The codes of all parts.
fn joined(codes: &[CodeGrid]) -> Result<CodeGrid> {
    match codes {
        [one] => Ok(one.clone()),
        many => {
            let tensors: Vec<_> = many.iter().map(CodeGrid::codes).collect();
            Ok(CodeGrid::new(Tensor::cat(&tensors, 0)?)?)
        }
    }
}

/// What the autoencoder makes of `images`; the way back is not kept.
fn reconstruct(model: &VqModel, images: &Tensor) -> Result<Tensor> {
    let z = model.pre_quant_taped(images, &mut Tape::from_data())?.to_dtype(DType::F32)?;
    let embeddings = model.quantizer().quantize(&z)?.embeddings.detach();
    let hidden = model.decode_hidden_taped(&embeddings, &mut Tape::default())?;
    Ok(model.last_convolution_taped(&hidden, &mut Tape::default())?.to_dtype(DType::F32)?)
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
