//! R1: a critic that is flat around real pictures (Mescheder et al. 2018, "Which Training
//! Methods for GANs do actually Converge?", eq. 9).
//!
//! The penalty is a gradient's square, so that its own gradient takes a derivative of a
//! derivative, which candle's backward pass does not have. But `|g|²` with `g = ∇ₓ D` is
//! the derivative of D along g, and with the direction held fixed its gradient with
//! respect to the weights is half of the penalty's (the other half comes from g itself, and
//! is the same). The derivative along a direction is an ordinary forward pass
//! ([`Critic::tangent`]), whose gradient an ordinary backward pass finds: no finite
//! differences, nothing approximated.

use candle_core::{Result, Tensor, Var};

use crate::Critic;

/// The penalty of a batch.
#[derive(Clone, Debug)]
pub struct R1 {
    /// The mean over pictures of `|∇ₓ D(x)|²`, where D is the mean logit of a picture: a
    /// scalar, f64, that nobody has waited for.
    pub value: Tensor,
    /// A scalar whose gradients are the penalty's; its value is twice the penalty's.
    pub surrogate: Tensor,
}

/// The penalty of `critic` at real `images` `[B, C, H, W]`, for a critic that trains: norms
/// by the statistics of this batch, which stay as they are. A factor of γ/2 is the
/// caller's.
///
/// # Errors
/// When the images do not fit the critic, or none of its outputs depends on them.
pub fn r1(critic: &dyn Critic, images: &Tensor) -> Result<R1> {
    let batch = images.dim(0)?;
    // The derivative along v is linear in v, and its gradient with respect to v is that
    // of D, whatever v is.
    let direction = Var::from_tensor(&images.zeros_like()?)?;
    let along = derivative(critic, images, direction.as_tensor())?;
    let mut store = along.backward()?;
    let Some(gradient) = store.remove(direction.as_tensor()) else {
        candle_core::bail!("r1: the critic does not depend on its images")
    };
    let gradient = gradient.detach();
    let squares = gradient.to_dtype(candle_core::DType::F64)?.sqr()?.sum_all()?;
    // Not `squares / batch`, which candle multiplies by the reciprocal.
    let value = squares.div(&Tensor::full(batch as f64, (), images.device())?)?;
    let surrogate = (derivative(critic, images, &gradient)? * (2.0 / batch as f64))?;
    Ok(R1 { value, surrogate })
}

/// The derivative of the sum over pictures of their mean logits, along `direction`.
fn derivative(critic: &dyn Critic, images: &Tensor, direction: &Tensor) -> Result<Tensor> {
    critic.tangent(&images.detach(), direction)?.flatten_from(1)?.mean(1)?.sum_all()
}

#[cfg(test)]
mod tests;
