//! A group norm on a tape.

use candle_core::{Result, Tensor};

use super::GroupNorm;
use super::fast::{self, GroupNormOp};
use crate::cpu;
use crate::tape::{Tape, Taped};

impl Taped for GroupNorm {
    fn forward_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.apply_taped(x, false, tape)
    }
}

impl GroupNorm {
    /// [`GroupNorm::forward_silu`] on a tape.
    ///
    /// # Errors
    /// As there, and when a parameter was computed from variables.
    pub fn forward_silu_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.apply_taped(x, true, tape)
    }

    fn apply_taped(&self, x: &Tensor, silu: bool, tape: &mut Tape) -> Result<Tensor> {
        let op = GroupNormOp { groups: self.groups, eps: self.eps, silu };
        #[cfg(feature = "cuda")]
        if crate::cuda::supports(&[x, &self.weight, &self.bias]) {
            let (x, weight, bias) = (x.detach(), self.weight.detach(), self.bias.detach());
            let (y, stats) = super::cuda::forward(&x, &weight, &bias, op)?;
            let back = move |dy: &Tensor, plus: Option<&Tensor>| {
                super::cuda::gradients([&x, &weight, &bias, &stats], dy, plus, op)
            };
            self.push(tape, back)?;
            return Ok(y);
        }
        if ![x, &self.weight, &self.bias].into_iter().all(cpu::supports) {
            return tape.record(x, |x| self.apply(x, silu));
        }
        let (x, weight, bias) = (x.detach(), self.weight.detach(), self.bias.detach());
        let y = fast::group_norm(&x, &weight, &bias, op)?;
        self.push(tape, move |dy, plus| fast::gradients(&x, &weight, &bias, dy, plus, op))?;
        Ok(y)
    }

    /// Records the way back, for which `gradients` finds those to input, weight and bias.
    fn push(
        &self,
        tape: &mut Tape,
        gradients: impl FnOnce(&Tensor, Option<&Tensor>) -> Result<[Tensor; 3]> + Send + 'static,
    ) -> Result<()> {
        let trained = [&self.weight, &self.bias].map(|parameter| -> Result<Option<Tensor>> {
            Ok(tape.wants(parameter)?.then(|| parameter.clone()))
        });
        let [train_weight, train_bias] = trained;
        let (train_weight, train_bias) = (train_weight?, train_bias?);
        tape.push(move |dy, plus, found| {
            let [dx, dweight, dbias] = gradients(dy, plus)?;
            for (parameter, gradient) in [(train_weight, dweight), (train_bias, dbias)] {
                if let Some(parameter) = parameter {
                    found.add(&parameter, gradient)?;
                }
            }
            Ok(Some(dx))
        });
        Ok(())
    }
}
