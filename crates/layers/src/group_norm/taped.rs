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
        if ![x, &self.weight, &self.bias].into_iter().all(cpu::supports) {
            return tape.record(x, |x| self.apply(x, silu));
        }
        let op = GroupNormOp { groups: self.groups, eps: self.eps, silu };
        let (x, weight, bias) = (x.detach(), self.weight.detach(), self.bias.detach());
        let y = fast::group_norm(&x, &weight, &bias, op)?;
        let trained = [&self.weight, &self.bias].map(|parameter| -> Result<Option<Tensor>> {
            Ok(tape.wants(parameter)?.then(|| parameter.clone()))
        });
        let [train_weight, train_bias] = trained;
        let (train_weight, train_bias) = (train_weight?, train_bias?);
        tape.push(move |dy, plus, gradients| {
            let [dx, dweight, dbias] = fast::gradients(&x, &weight, &bias, dy, plus, op)?;
            for (parameter, gradient) in [(train_weight, dweight), (train_bias, dbias)] {
                if let Some(parameter) = parameter {
                    gradients.add(&parameter, gradient)?;
                }
            }
            Ok(Some(dx))
        });
        Ok(y)
    }
}
