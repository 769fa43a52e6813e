//! One update of a first stage: forward, losses, gradients, Adam.
//!
//! The full backward pass happens once. The losses of the reconstruction are
//! first differentiated down to the reconstruction itself, each on its own
//! (pixels and LPIPS; the discriminator); eq. 7 of the paper compares the two
//! at the last layer, and only their weighted sum goes back through the
//! autoencoder. Encoder and decoder run on tapes of [`layers`]; losses, quantizer and
//! discriminator use candle's graph.
//!
//! Nothing here waits for the device but [`Gathered::read`], at the end: whether a batch is
//! broken is for the device to find out ([`Gathered::scale`]), and updates by what is broken
//! change nothing.
//!
//! Encoder and decoder compute in the dtype of the model. Between them everything is f32:
//! what the encoder makes becomes f32 before it is quantized, what the decoder makes before
//! it is looked at, and gradients go back as they came. The discriminator is f32 whatever the
//! autoencoder is: its batch statistics, power iterations and R1 live on small differences, its
//! gradient is compared with that of the other losses (eq. 7), and it is small. Where products
//! alone are rounded ([`layers::Factors`], on a CPU) its own are, too: maps and statistics are not.

mod adversary;
mod cross_entropy;
mod parts;
mod reconstruction;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use codebook::{CodeGrid, Quantizer};
use layers::{Factors, Gradients, Tape};
use vq_autoencoder::VqModel;

pub use adversary::Adversary;
pub(crate) use cross_entropy::binary_cross_entropy;
pub use reconstruction::{Perceptual, ReconstructionLoss};

use crate::adam::Adam;
use crate::config::{TrainConfig, UpdateOrder};
use crate::foreach::norm;
use crate::observer::Terms;
use crate::readings::{Gathered, Read, Readings};
use crate::store::ParameterStore;

use self::parts::{Sums, parts};

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
    /// Whether the decoder alone is trained.
    keep_codes: bool,
    clip: f64,
    factors: Factors,
    /// The most pictures that go through the networks at once.
    part: usize,
}

/// What an update did.
pub struct StepOutcome {
    /// Losses under the reference's names, `lr` and `grad_norm`.
    pub terms: Terms,
    /// The codes of the batch, on the CPU; none where it was given up.
    pub codes: Option<CodeGrid>,
    /// The first term that was not finite: nothing was updated then, but for the autoencoder
    /// where the discriminator's turn comes after it ([`UpdateOrder::Reference`]).
    pub broken: Option<&'static str>,
    /// The autoencoder's gradients before clipping, f32, sorted by name.
    pub gradients: Vec<(String, Tensor)>,
    /// The discriminator's gradients before clipping, sorted by name.
    pub critic_gradients: Vec<(String, Tensor)>,
}

impl StepOutcome {
    /// Of a batch that was given up.
    fn given_up(read: Read) -> Self {
        Self {
            terms: read.terms,
            codes: None,
            broken: read.broken,
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
        let keep_codes = config.init.keep_codes;
        let mut trained = parameters.parameters();
        trained.retain(|(name, _)| !(keep_codes && VqModel::decides_codes(name)));
        let optimizer = Adam::over(config.optimizer.adam.clone(), trained, |_, _| true)?;
        Ok(Self {
            model,
            parameters,
            optimizer,
            adversary,
            loss,
            codebook_weight: config.loss.codebook_weight,
            keep_codes,
            clip: config.optimizer.clip,
            factors: config.precision.factors(),
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
        // The discriminator's forward passes move its statistics before anybody knows
        // whether the batch is worth it.
        let kept = match &self.adversary {
            Some(adversary) => adversary.kept(step)?,
            None => None,
        };
        let outcome = self.try_update(images, lr, step)?;
        if let (Some(_), Some(kept), Some(adversary)) = (outcome.broken, kept, &mut self.adversary)
        {
            adversary.put_back(kept)?;
        }
        Ok(outcome)
    }

    fn try_update(&mut self, images: &Tensor, lr: f64, step: u64) -> Result<StepOutcome> {
        let mut readings = Readings::default();
        readings.know("lr", lr);
        let (mut codes, mut sums, mut pairs) = (Vec::new(), Sums::default(), Vec::new());
        for (images, share) in parts(images, self.part)? {
            readings.begin_part(share);
            let Some(pass) = self.backward(&images, step, &mut readings)? else {
                return Ok(StepOutcome::given_up(readings.gather(&[])?.read()?));
            };
            sums.add(pass.gradients, share)?;
            codes.push(pass.codes);
            pairs.push(Pair { images, made: pass.made, share });
        }
        readings.end_parts();
        readings.check();
        let gradients = sums.0;
        readings.add("grad_norm", &norm(gradients.iter().map(|(_, g)| g), images.device())?)?;
        readings.check();
        let mut critic_gradients = Vec::new();
        let mut adversary = self.adversary.as_mut().filter(|adversary| !adversary.sleeps(step));
        if let Some(adversary) = &mut adversary
            && adversary.order() == UpdateOrder::SingleForward
        {
            critic_gradients = adversary.gradients(&pairs, step, &mut readings)?;
        }

        let grids: Vec<_> = codes.iter().map(CodeGrid::codes).collect();
        let gathered = readings.gather(&grids)?;
        let scale = gathered.scale("grad_norm", self.clip, None)?;
        if scale.is_known_broken() {
            return Ok(StepOutcome::given_up(gathered.read()?));
        }
        self.optimizer.update(&gradients, lr, scale.clone())?;
        self.parameters.refresh()?;
        // What is said of the discriminator afterwards.
        let mut later = None;
        if let Some(adversary) = &mut adversary {
            let scale = if adversary.order() == UpdateOrder::Reference {
                for pair in &mut pairs {
                    pair.made = reconstruct(&self.model, &pair.images, self.factors)?;
                }
                let mut readings = Readings::default();
                critic_gradients = adversary.gradients(&pairs, step, &mut readings)?;
                let gathered = later.insert(readings.gather(&[])?);
                gathered.scale("disc_grad_norm", self.clip, Some(&scale))?
            } else {
                gathered.scale("disc_grad_norm", self.clip, None)?
            };
            adversary.update(&critic_gradients, lr, scale)?;
        }

        // Here the device is waited for, which has been told everything.
        let read = gathered.read()?;
        if read.broken.is_some() {
            self.optimizer.take_back();
        }
        let later = later.map(Gathered::read).transpose()?;
        let broken = read.broken.or(later.as_ref().and_then(|read| read.broken));
        if broken.is_some()
            && let Some(adversary) = adversary
        {
            adversary.optimizer.take_back();
        }
        if read.broken.is_some() {
            return Ok(StepOutcome::given_up(read));
        }
        let mut terms = read.terms;
        terms.extend(later.into_iter().flat_map(|read| read.terms));
        let (_, height, width) = codes.first().context("a batch without pictures")?.dims();
        let size = (images.dim(0)?, height, width);
        let codes = Some(CodeGrid::from_vec(read.codes, size, &Device::Cpu)?);
        Ok(StepOutcome { terms, codes, broken, gradients, critic_gradients })
    }

    /// Losses and gradients of some of an update's pictures; `None` where the encoder's
    /// output is not finite.
    fn backward(&self, images: &Tensor, step: u64, terms: &mut Readings) -> Result<Option<Pass>> {
        let mut encoder = Tape::from_data().with_factors(self.factors);
        let z = self.model.pre_quant_taped(images, &mut encoder)?.to_dtype(DType::F32)?;
        let z = Var::from_tensor(&z)?;
        let latent_rms = rms(&z)?;
        terms.add("latent_rms", &latent_rms)?;
        terms.check();
        let quantized = match self.model.quantizer().quantize_without_waiting(z.as_tensor()) {
            // Where there is nothing to wait for it refuses what is not finite.
            Err(_) if !latent_rms.to_scalar::<f64>()?.is_finite() => return Ok(None),
            quantized => quantized?,
        };
        // Nobody asks for gradients beyond the decoder where it alone is trained.
        let decoder = if self.keep_codes { Tape::from_data() } else { Tape::default() };
        let mut decoder = decoder.with_factors(self.factors);
        let encoder = (!self.keep_codes).then_some(encoder);
        let embeddings = quantized.embeddings.detach();
        let hidden = self.model.decode_hidden_taped(&embeddings, &mut decoder)?;
        let made = self.model.last_convolution_taped(&hidden, &mut decoder)?;
        let made = made.to_dtype(DType::F32)?;

        // A leaf in place of the reconstruction, to collect gradients at.
        let leaf = Var::from_tensor(&made)?;
        let nll = self.loss.nll(images, leaf.as_tensor(), terms)?;
        let mut upstream = gradient_at(&nll, &leaf)?;
        let mut total = nll.detach().to_dtype(DType::F64)?;
        terms.add("nll_loss", &total)?;
        terms.check();

        if let Some(adversary) = &self.adversary {
            let last = |upstream: &Tensor| self.model.last_layer_gradient(&hidden, upstream);
            let term = adversary.generator_term(&made, &upstream, last, step, terms)?;
            if let Some(term) = term {
                total = (total + term.value)?;
                upstream = (upstream + term.gradient)?;
            }
        }

        let losses = quantized.losses;
        for (name, part) in [
            ("quant_loss", Some(&losses.total)),
            ("codebook_loss", Some(&losses.codebook)),
            ("commit_loss", Some(&losses.commitment)),
            ("entropy_loss", losses.extra.as_ref()),
        ] {
            if let Some(part) = part {
                terms.add(name, part)?;
            }
        }
        let quantizer_value = losses.total.detach().to_dtype(DType::F64)?;
        total = (total + (quantizer_value * self.codebook_weight)?)?;
        terms.add("total_loss", &total)?;

        let mut gradients = Gradients::default();
        // The tape holds it for as long as it has to.
        drop(hidden);
        let dtype = self.model.dtype();
        let upstream = decoder.backward(&upstream.to_dtype(dtype)?, &mut gradients)?;
        if let Some(encoder) = encoder {
            let upstream = upstream.context("the decoder's input has no gradient")?;
            let upstream = upstream.to_dtype(DType::F32)?;
            // Its gradient is that of the total loss, by the chain rule.
            let reconstruction = (quantized.embeddings * upstream)?.sum_all()?;
            let surrogate = (reconstruction + (losses.total * self.codebook_weight)?)?;
            let mut store = surrogate.backward()?;
            let upstream = store.remove(z.as_tensor()).context("the encoder gets no gradient")?;
            gradients.extend(store)?;
            encoder.backward(&upstream.to_dtype(dtype)?, &mut gradients)?;
        }
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

/// Some of an update's pictures and what was made of them, both `[B, C, H, W]`.
struct Pair {
    images: Tensor,
    made: Tensor,
    /// Of the update's pictures.
    share: f64,
}

/// What the autoencoder makes of `images`; the way back is not kept.
fn reconstruct(model: &VqModel, images: &Tensor, factors: Factors) -> Result<Tensor> {
    let tape = || Tape::default().with_factors(factors);
    let z = model.pre_quant_taped(images, &mut tape())?.to_dtype(DType::F32)?;
    let embeddings = model.quantizer().quantize_without_waiting(&z)?.embeddings.detach();
    let hidden = model.decode_hidden_taped(&embeddings, &mut tape())?;
    Ok(model.last_convolution_taped(&hidden, &mut tape())?.to_dtype(DType::F32)?)
}

/// The gradient of the scalar `loss` at `leaf`.
fn gradient_at(loss: &Tensor, leaf: &Var) -> Result<Tensor> {
    let gradients = loss.backward()?;
    let gradient = gradients.get(leaf.as_tensor());
    Ok(gradient.context("a loss does not depend on the reconstruction")?.clone())
}

/// The root of the mean square: a scalar, f64.
fn rms(tensor: &Tensor) -> Result<Tensor> {
    let root = (tensor.elem_count().max(1) as f64).sqrt();
    let norm = norm([tensor].into_iter(), tensor.device())?;
    // Not `norm / root`, which candle multiplies by the reciprocal.
    Ok(norm.div(&Tensor::full(root, (), tensor.device())?)?)
}

#[cfg(test)]
mod tests;
