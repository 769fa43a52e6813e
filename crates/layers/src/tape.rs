//! Gradients of a chain of layers without candle's graph.
//!
//! candle's backward pass fills zeros for every gradient it meets and then adds to
//! them: on a CPU, whose time goes into memory, a third of a training step. A layer
//! that is run on a [`Tape`] leaves a function there which takes the gradient of its
//! output to the gradient of its input, and puts those of its parameters into
//! [`Gradients`]. [`Tape::backward`] runs them in reverse. What is computed is the
//! same; tests compare the two.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Module, Result, Tensor, TensorId, Var};

use crate::factors::Factors;
use crate::wide::wide;

/// The way back through one layer, or through a block of several.
///
/// Gets the gradient of the output, and what is to be added to the gradient of the
/// input (another branch's, of the same input); returns that sum, or nothing where
/// nobody asks for it.
type Step =
    Box<dyn FnOnce(&Tensor, Option<&Tensor>, &mut Gradients) -> Result<Option<Tensor>> + Send>;

/// The way back through layers that were run one after the other.
#[derive(Default)]
pub struct Tape {
    steps: Vec<Step>,
    /// Whether nobody asks for the gradient of the first layer's input.
    starts_with_data: bool,
    /// Whether nobody asks for the gradients of parameters.
    frozen: bool,
    factors: Factors,
}

impl Tape {
    /// A tape whose first input is data: no gradient to it is computed.
    pub fn from_data() -> Self {
        Self { starts_with_data: true, ..Self::default() }
    }

    /// A tape that finds the gradient of its first input only: parameters are taken for
    /// constants.
    pub fn frozen() -> Self {
        Self { frozen: true, ..Self::default() }
    }

    /// The same tape, on which products may be rounded so.
    pub fn with_factors(self, factors: Factors) -> Self {
        Self { factors, ..self }
    }

    /// What the factors of products may be rounded to, on a CPU, in the layer that is recorded
    /// next, there and back.
    pub fn factors(&self) -> Factors {
        self.factors
    }

    /// An empty tape for a branch of a layer that is recorded here.
    pub fn branch(&self) -> Self {
        Self { frozen: self.frozen, factors: self.factors, ..Self::default() }
    }

    /// Whether the layer that is recorded next has to find the gradient of its input.
    pub fn wants_input(&self) -> bool {
        !(self.starts_with_data && self.steps.is_empty())
    }

    /// Whether the layer that is recorded next has to find the gradient of `parameter`.
    ///
    /// # Errors
    /// When that was computed from variables: a tape does not know its way back to them.
    pub fn wants(&self, parameter: &Tensor) -> Result<bool> {
        if parameter.track_op() && !parameter.is_variable() {
            candle_core::bail!("a tape takes parameters that are variables, not computed from some")
        }
        Ok(parameter.is_variable() && !self.frozen)
    }

    /// Records the way back through a layer: see [`Tape::backward_add`] for what it
    /// gets and returns.
    pub fn push(
        &mut self,
        step: impl FnOnce(&Tensor, Option<&Tensor>, &mut Gradients) -> Result<Option<Tensor>>
        + Send
        + 'static,
    ) {
        self.steps.push(Box::new(step));
    }

    /// Runs `layer` with candle's own graph, which [`Tape::backward`] then goes
    /// through: for layers that have nothing faster.
    ///
    /// # Errors
    /// What `layer` returns.
    pub fn record(
        &mut self,
        x: &Tensor,
        layer: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let leaf = Var::from_tensor(x)?;
        let y = layer(leaf.as_tensor())?;
        let output = y.detach();
        let frozen = self.frozen;
        self.push(move |dy, plus, gradients| {
            let mut store = (&y * dy)?.sum_all()?.backward()?;
            // candle leaves gradients of variables in a graph of their own.
            let dx = store.remove(leaf.as_tensor()).map(|dx| dx.detach());
            if !frozen {
                gradients.extend(store)?;
            }
            dx.map(|dx| sum(dx, plus)).transpose()
        });
        Ok(output)
    }

    /// From the gradient of the last output to that of the first input, `None` where
    /// the tape was made [`from_data`](Self::from_data). Gradients of parameters are
    /// added to `gradients`.
    ///
    /// # Errors
    /// When `dy` does not have the last output's shape.
    pub fn backward(self, dy: &Tensor, gradients: &mut Gradients) -> Result<Option<Tensor>> {
        self.backward_add(dy, None, gradients)
    }

    /// [`backward`](Self::backward), with `plus` added to the gradient of the first
    /// input.
    ///
    /// # Errors
    /// As there.
    pub fn backward_add(
        self,
        dy: &Tensor,
        plus: Option<&Tensor>,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let mut gradient = Some(dy.detach());
        let count = self.steps.len();
        for (back, step) in self.steps.into_iter().rev().enumerate() {
            let Some(dy) = gradient else { break };
            gradient = step(&dy, plus.filter(|_| back + 1 == count), gradients)?;
        }
        if count == 0 { gradient.map(|dy| sum(dy, plus)).transpose() } else { Ok(gradient) }
    }
}

/// `gradient + plus`.
pub(crate) fn sum(gradient: Tensor, plus: Option<&Tensor>) -> Result<Tensor> {
    match plus {
        Some(plus) => gradient + plus,
        None => Ok(gradient),
    }
}

/// Gradients of parameters; those of several passes are added up in f32 at least.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// Adds to the gradient of a parameter.
    ///
    /// # Errors
    /// When it has one of another shape.
    pub fn add(&mut self, parameter: &Tensor, gradient: Tensor) -> Result<()> {
        self.add_id(parameter.id(), gradient)
    }

    /// Adds all that candle's own backward pass left.
    ///
    /// # Errors
    /// As for [`add`](Self::add).
    pub fn extend(&mut self, store: GradStore) -> Result<()> {
        let found = store.get_ids().filter_map(|&id| Some((id, store.get_id(id)?.detach())));
        found.into_iter().try_for_each(|(id, gradient)| self.add_id(id, gradient))
    }

    /// The gradient of a parameter, if it has one.
    pub fn get(&self, parameter: &Tensor) -> Option<&Tensor> {
        self.0.get(&parameter.id())
    }

    fn add_id(&mut self, id: TensorId, gradient: Tensor) -> Result<()> {
        let gradient = match self.0.get(&id) {
            // Half precision would lose what is small beside the sum so far.
            Some(so_far) => (wide(&gradient)? + wide(so_far)?)?,
            None => gradient,
        };
        self.0.insert(id, gradient);
        Ok(())
    }
}

/// A layer that runs on a [`Tape`].
pub trait Taped: Module {
    /// The forward pass, without candle's graph; the way back is put on `tape`.
    ///
    /// # Errors
    /// As for the forward pass, and when a parameter was computed from variables.
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor>;
}
