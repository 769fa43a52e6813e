//! Held-out likelihood, and whether a model has begun to memorise.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use cond_transformer::Dropouts;
use layers::Factors;

use super::config::HandOut;
use super::examples::CodeExamples;
use super::model::{CodeModel, Lesson};
use crate::observer::Terms;
use crate::pictures::spread;

/// The mean negative log-likelihood of a code of `count` examples, spread over all, in
/// nats: each under its first condition, without noise or dropout.
pub(super) fn held_out_nll(
    model: &CodeModel,
    examples: &CodeExamples,
    count: usize,
    batch: usize,
    device: &Device,
) -> Result<Terms> {
    let count = examples.len().min(count.max(1));
    let mut total = 0.0;
    let picked: Vec<_> = spread(examples.len(), count).collect();
    for picked in picked.chunks(batch) {
        let size = picked.len();
        let batch = examples.plain_batch(picked);
        let targets = batch.code_tensor(&Device::Cpu)?;
        let lesson = Lesson {
            conditions: Tensor::new(batch.conditions, device)?,
            inputs: targets.to_device(device)?,
            targets,
        };
        let nll = model.learn(&lesson, &Dropouts::default(), Factors::F32, None)?;
        total += nll.to_scalar::<f64>()? * size as f64;
    }
    let nll = total / count as f64;
    Ok(Terms::from([
        ("examples", count as f64),
        ("val_nll", nll),
        ("val_bits", nll / std::f64::consts::LN_2),
    ]))
}

/// The best validation so far, and how training stood around it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Best {
    /// Step and held-out NLL of the best validation.
    pub best: Option<(u64, f64)>,
    /// Mean training NLL before it.
    train: f64,
    /// Sum and count of training NLLs since the last validation.
    since: (f64, u64),
    /// Whether it was said that the model memorises.
    said: bool,
}

/// How much worse than the best the held-out NLL has to be before it is called a rise:
/// less may be chance.
const RISE: f64 = 0.01;

impl Best {
    /// Notes the NLL of an update.
    pub fn trained(&mut self, nll: f64) {
        self.since.0 += nll;
        self.since.1 += 1;
    }

    /// Notes a validation; returns whether it is the best so far, and what to say of a run
    /// that hands out these weights if the model has begun to memorise.
    pub fn validated(&mut self, step: u64, nll: f64, hand_out: HandOut) -> (bool, Option<String>) {
        let train = self.since.0 / self.since.1.max(1) as f64;
        self.since = (0.0, 0);
        let Some((at, best)) = self.best else {
            (self.best, self.train) = (Some((step, nll)), train);
            return (true, None);
        };
        if nll < best {
            (self.best, self.train, self.said) = (Some((step, nll)), train, false);
            return (true, None);
        }
        let memorises = nll > best * (1.0 + RISE) && train < self.train;
        if !memorises || self.said {
            return (false, None);
        }
        self.said = true;
        let kept = match hand_out {
            HandOut::Best => format!("the model folder keeps step {at}"),
            HandOut::Last => "the model folder has the latest step all the same: hand_out".into(),
        };
        let message = format!(
            "the model begins to memorise: since step {at} the held-out NLL has risen from \
             {best:.4} to {nll:.4} nats a code, while that of training fell from {:.4} to \
             {train:.4}; {kept} (more data or crops, dropout, a lower pkeep or a smaller model help)",
            self.train
        );
        (false, Some(message))
    }

    /// For the checkpoint.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let (step, best) = self.best.map_or((-1.0, 0.0), |(step, nll)| (step as f64, nll));
        let (sum, count) = self.since;
        let said = if self.said { 1.0 } else { 0.0 };
        let values = [step, best, self.train, sum, count as f64, said];
        let tensor = Tensor::new(&values, &Device::Cpu)?;
        Ok(BTreeMap::from([("best".to_owned(), tensor)]))
    }

    /// From a checkpoint.
    pub fn load(&mut self, state: &std::collections::HashMap<String, Tensor>) -> Result<()> {
        let values = state.get("best").context("the checkpoint has no validation.best")?;
        let values = values.to_device(&Device::Cpu)?.to_vec1::<f64>()?;
        ensure!(values.len() == 6, "validation.best has {} numbers, not 6", values.len());
        self.best = (values[0] >= 0.0).then_some((values[0] as u64, values[1]));
        self.train = values[2];
        self.since = (values[3], values[4] as u64);
        self.said = values[5] != 0.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memorising_is_a_rise_while_training_falls() -> Result<()> {
        let mut best = Best::default();
        let after = |best: &mut Best, step, train, held_out| {
            best.trained(train);
            best.validated(step, held_out, HandOut::Best)
        };
        assert_eq!(after(&mut best, 10, 5.0, 5.1), (true, None));
        assert_eq!(after(&mut best, 20, 4.0, 4.5), (true, None));
        // Worse, but by chance; worse with training worse too.
        assert_eq!(after(&mut best, 30, 3.9, 4.51), (false, None));
        assert_eq!(after(&mut best, 40, 4.2, 4.7), (false, None));
        let mut other = Best::default();
        best.trained(3.0);
        other.load(&best.state()?.into_iter().collect())?;
        assert_eq!(best, other);
        let (kept, said) = other.validated(50, 4.8, HandOut::Last);
        assert!(!kept && said.is_some_and(|said| said.contains("latest")));
        let (kept, said) = best.validated(50, 4.8, HandOut::Best);
        assert!(!kept && said.is_some_and(|said| said.contains("keeps step 20")));
        assert_eq!(after(&mut best, 60, 2.0, 5.0), (false, None));
        assert_eq!(after(&mut best, 70, 2.0, 4.4), (true, None));
        assert_eq!(best.best, Some((70, 4.4)));
        Ok(())
    }
}
