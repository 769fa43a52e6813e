//! Adam and AdamW, with the arithmetic of `torch.optim` and a state that can
//! be saved.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Storage, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use simd::isa::Isa;
use simd::vector::{self, Kernel, Vector};

use crate::elementwise::{CHUNK, in_place, source};
use crate::scale::Scale;
use crate::store::ParameterStore;

/// The constants of Adam (Kingma and Ba, 2015, algorithm 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamConfig {
    /// Decay of the first moment. The reference VQGAN has 0.5.
    pub beta1: f64,
    /// Decay of the second moment. The reference VQGAN has 0.9.
    pub beta2: f64,
    /// Added to the square root of the second moment, outside of the root.
    pub eps: f64,
    /// Decoupled weight decay (Loshchilov and Hutter, 2019); 0 is plain Adam.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { beta1: 0.5, beta2: 0.9, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// One parameter and its two moments.
struct Slot {
    parameter: Var,
    first: Var,
    second: Var,
    /// Whether weight decay is for it.
    decays: bool,
}

/// Adam over the parameters of one [`ParameterStore`].
///
/// `m <- m + (1 - b1) (g - m)`, `v <- b2 v + (1 - b2) g^2`,
/// `p <- (1 - lr wd) p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)`.
pub struct Adam {
    config: AdamConfig,
    step: u64,
    slots: BTreeMap<String, Slot>,
}

impl Adam {
    /// An optimiser with zero moments for every parameter of `store`.
    ///
    /// # Errors
    /// If memory for the moments cannot be had.
    pub fn new(config: AdamConfig, store: &ParameterStore) -> Result<Self> {
        Self::with_groups(config, store, |_, _| true)
    }

    /// The same, with weight decay for the parameters alone of which `decays` says so,
    /// given a name and the rank of the tensor.
    ///
    /// # Errors
    /// As [`Adam::new`].
    pub fn with_groups(
        config: AdamConfig,
        store: &ParameterStore,
        decays: impl Fn(&str, usize) -> bool,
    ) -> Result<Self> {
        Self::over(config, store.parameters(), decays)
    }

    /// The same, of some of a store's parameters.
    pub(crate) fn over(
        config: AdamConfig,
        parameters: Vec<(String, Var)>,
        decays: impl Fn(&str, usize) -> bool,
    ) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for (name, parameter) in parameters {
            let zeros = parameter.zeros_like()?;
            let (first, second) = (Var::from_tensor(&zeros)?, Var::from_tensor(&zeros)?);
            let decays = decays(&name, parameter.rank());
            slots.insert(name, Slot { parameter, first, second, decays });
        }
        Ok(Self { config, step: 0, slots })
    }

    /// Updates done so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// One update from `gradients` (as [`ParameterStore::gradients`] gives
    /// them), each multiplied by `scale` first (the clipping factor).
    /// Parameters without a gradient stay as they are.
    ///
    /// Where `scale` is NaN nothing changes but the count of updates: see
    /// [`take_back`](Self::take_back).
    ///
    /// # Errors
    /// If a gradient belongs to no parameter or has another shape.
    pub fn update(
        &mut self,
        gradients: &[(String, Tensor)],
        lr: f64,
        scale: impl Into<Scale>,
    ) -> Result<()> {
        self.step += 1;
        let scale = scale.into();
        if scale.is_known_broken() {
            return Ok(());
        }
        let rates = Rates::new(&self.config, self.step, lr, scale);
        let slots = gradients.iter().map(|(name, gradient)| {
            let slot = self.slots.get(name).with_context(|| format!("no parameter {name}"))?;
            ensure!(
                gradient.shape() == slot.parameter.shape(),
                "{name}: gradient {:?} for parameter {:?}",
                gradient.dims(),
                slot.parameter.dims()
            );
            Ok((slot, gradient))
        });
        let slots = slots.collect::<Result<Vec<_>>>()?;
        match slots.first().map(|(_, gradient)| gradient.device()) {
            None => Ok(()),
            // Most parameters are too small to be shared out themselves.
            Some(Device::Cpu) => slots.par_iter().try_for_each(|(slot, gradient)| {
                rates.apply_in_place(slot, &gradient.contiguous()?)
            }),
            #[cfg(feature = "cuda")]
            Some(Device::Cuda(_)) => rates.apply_to_all(&slots),
            Some(_) => {
                slots.iter().try_for_each(|(slot, gradient)| rates.apply_by_formula(slot, gradient))
            }
        }
    }

    /// The last update turned out not to have happened: its scale was NaN.
    pub fn take_back(&mut self) {
        self.step = self.step.saturating_sub(1);
    }

    /// The moments by name (`NAME.exp_avg`, `NAME.exp_avg_sq`), as torch calls
    /// them.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (name, slot) in &self.slots {
            state.insert(format!("{name}.exp_avg"), slot.first.as_detached_tensor());
            state.insert(format!("{name}.exp_avg_sq"), slot.second.as_detached_tensor());
        }
        state
    }

    /// Puts a saved state back.
    ///
    /// # Errors
    /// If a moment is missing or has another shape.
    pub fn load_state(&mut self, step: u64, state: &HashMap<String, Tensor>) -> Result<()> {
        for (name, slot) in &self.slots {
            for (suffix, moment) in [("exp_avg", &slot.first), ("exp_avg_sq", &slot.second)] {
                let key = format!("{name}.{suffix}");
                let saved = state.get(&key).with_context(|| format!("no optimiser state {key}"))?;
                ensure!(
                    saved.shape() == moment.shape(),
                    "optimiser state {key} is {:?}, not {:?}",
                    saved.dims(),
                    moment.dims()
                );
                moment.set(&saved.to_device(moment.device())?.contiguous()?)?;
            }
        }
        self.step = step;
        Ok(())
    }

    /// Forgets both moments of some rows of the parameter `name`, whose values
    /// were replaced from outside.
    ///
    /// # Errors
    /// If there is no such parameter or row.
    pub fn reset_rows(&mut self, name: &str, rows: &[u32]) -> Result<()> {
        let slot = self.slots.get(name).with_context(|| format!("no parameter {name}"))?;
        let count = slot.parameter.dim(0)?;
        let mut keep = vec![1f32; count];
        for &row in rows {
            let entry = keep.get_mut(row as usize);
            *entry.with_context(|| format!("{name} has {count} rows, not a row {row}"))? = 0.0;
        }
        let mut shape = vec![1; slot.parameter.rank()];
        shape[0] = count;
        let keep = Tensor::from_vec(keep, shape, slot.parameter.device())?;
        for moment in [&slot.first, &slot.second] {
            moment.set(&moment.as_detached_tensor().broadcast_mul(&keep)?)?;
        }
        Ok(())
    }
}

/// What one step multiplies by.
struct Rates {
    scale: Scale,
    beta1: f64,
    beta2: f64,
    step_size: f64,
    root_correction: f64,
    eps: f64,
    shrink: f64,
}

/// The same as kernels have it, but for the scale.
struct Rounded {
    gain1: f32,
    beta2: f32,
    gain2: f32,
    size: f32,
    root: f32,
    eps: f32,
}

impl Rates {
    fn new(config: &AdamConfig, step: u64, lr: f64, scale: Scale) -> Self {
        let t = step.min(i32::MAX as u64) as i32;
        Self {
            scale,
            beta1: config.beta1,
            beta2: config.beta2,
            step_size: lr / (1.0 - config.beta1.powi(t)),
            root_correction: (1.0 - config.beta2.powi(t)).sqrt(),
            eps: config.eps,
            shrink: 1.0 - lr * config.weight_decay,
        }
    }

    /// What the parameter is multiplied by first.
    fn shrink_of(&self, slot: &Slot) -> f64 {
        if slot.decays { self.shrink } else { 1.0 }
    }

    fn known_scale(&self) -> Result<f64> {
        match &self.scale {
            Scale::Known(scale) => Ok(*scale),
            Scale::OnDevice(_) => bail!("an update here wants a scale that the host knows"),
        }
    }

    fn rounded(&self) -> Rounded {
        Rounded {
            gain1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            gain2: (1.0 - self.beta2) as f32,
            size: self.step_size as f32,
            root: self.root_correction as f32,
            eps: self.eps as f32,
        }
    }

    /// The path of the CPU, whose arithmetic is that of the kernel, too: everything in one pass
    /// over memory.
    fn apply_in_place(&self, slot: &Slot, gradient: &Tensor) -> Result<()> {
        const NAME: &str = "adam";
        let rates = self.rounded();
        let (scale, shrink) = (self.known_scale()? as f32, self.shrink_of(slot) as f32);
        let (storage, layout) = gradient.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("a gradient that is not on the CPU") };
        let gradient = source(NAME, storage, layout)?;
        let isa = Isa::detect();
        in_place(NAME, &slot.parameter, |parameter| {
            in_place(NAME, &slot.first, |first| {
                in_place(NAME, &slot.second, |second| {
                    let moments = first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK));
                    let chunks = parameter.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
                    chunks.zip(moments).for_each(|((parameter, gradient), (first, second))| {
                        let rates = &rates;
                        let update =
                            Update { rates, scale, shrink, parameter, first, second, gradient };
                        vector::run(isa, update);
                    });
                    Ok(())
                })
            })
        })?;
        Ok(())
    }

    /// The path of NVIDIA GPUs: one kernel for all parameters.
    #[cfg(feature = "cuda")]
    fn apply_to_all(&self, slots: &[(&Slot, &Tensor)]) -> Result<()> {
        use layers::cuda::foreach::{AdamParameter, AdamRates, adam};

        let Rounded { gain1, beta2, gain2, size, root, eps } = self.rounded();
        let (scale, gate) = match &self.scale {
            Scale::Known(scale) => (*scale as f32, None),
            Scale::OnDevice(gate) => (1.0, Some(gate)),
        };
        let rates = AdamRates { scale, gain1, beta2, gain2, size, root, eps };
        let parameters = slots.iter().map(|(slot, gradient)| AdamParameter {
            parameter: &slot.parameter,
            first: &slot.first,
            second: &slot.second,
            gradient,
            shrink: self.shrink_of(slot) as f32,
        });
        Ok(adam(&parameters.collect::<Vec<_>>(), &rates, gate)?)
    }

    /// The same as whole-tensor formulas: the path of other devices, and the
    /// oracle of the fast ones.
    fn apply_by_formula(&self, slot: &Slot, gradient: &Tensor) -> Result<()> {
        let gradient = (gradient * self.known_scale()?)?;
        let (m, v) = (slot.first.as_detached_tensor(), slot.second.as_detached_tensor());
        let first = (&m + ((&gradient - &m)? * (1.0 - self.beta1))?)?;
        let second = ((v * self.beta2)? + (gradient.sqr()? * (1.0 - self.beta2))?)?;
        let root = ((second.sqrt()? / self.root_correction)? + self.eps)?;
        let update = ((&first / root)? * self.step_size)?;
        let parameter = ((slot.parameter.as_detached_tensor() * self.shrink_of(slot))? - update)?;
        slot.parameter.set(&parameter.detach())?;
        slot.first.set(&first)?;
        slot.second.set(&second)?;
        Ok(())
    }
}

/// An update of some numbers of a parameter.
struct Update<'a> {
    rates: &'a Rounded,
    scale: f32,
    shrink: f32,
    parameter: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    gradient: &'a [f32],
}

impl Kernel for Update<'_> {
    // Plain arithmetic: the compiler finds the vectors.
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { scale, shrink, .. } = self;
        let &Rounded { gain1, beta2, gain2, size, root, eps } = self.rates;
        let moments = self.first.iter_mut().zip(self.second);
        let numbers = self.parameter.iter_mut().zip(self.gradient);
        for ((p, g), (m, v)) in numbers.zip(moments) {
            let g = g * scale;
            *m += gain1 * (g - *m);
            *v = beta2 * *v + gain2 * g * g;
            *p = shrink * *p - size * (*m / (v.sqrt() / root + eps));
        }
    }
}

#[cfg(test)]
mod tests;
