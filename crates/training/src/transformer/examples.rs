//! Code sequences and their conditions, and batches of them.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use checkpoints::codes_file::CodesFile;
use cond_transformer::Permuter;
use image_data::{Position, epoch_order, example_rng};
use rand::Rng;

use super::condition::Conditioning;

/// Sequences of codes, each with the conditions that may stand in front of it.
pub struct CodeExamples {
    /// `[N, L]`, in the order in which they are drawn.
    codes: Vec<u32>,
    length: usize,
    /// For each example its conditions; one of them is drawn every epoch.
    conditions: Vec<Vec<Vec<u32>>>,
    /// What pictures they are of.
    names: Vec<String>,
}

/// Sequences for one forward pass.
#[derive(Clone, Debug)]
pub struct ExampleBatch {
    /// Condition tokens `[B, N]`, u32.
    pub conditions: Vec<Vec<u32>>,
    /// Codes `[B, L]`.
    pub codes: Vec<Vec<u32>>,
    /// What pictures they are of.
    pub names: Vec<String>,
    /// Where the next batch begins.
    pub next: Position,
}

impl ExampleBatch {
    /// The codes as a tensor `[B, L]`, u32.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn code_tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::new(self.codes.clone(), device)?)
    }
}

impl CodeExamples {
    /// The examples of `files`, whose grids are all of one size, in the order of
    /// `permuter`. `conditions` are the codes of conditions that are grids, a file for each
    /// of `files`; none for other conditions.
    ///
    /// # Errors
    /// If a picture has no condition.
    pub fn new(
        files: &[CodesFile],
        conditions: &[CodesFile],
        permuter: &Permuter,
        conditioning: &Conditioning,
    ) -> Result<Self> {
        let length = permuter.forward().len();
        let mut examples =
            Self { codes: Vec::new(), length, conditions: Vec::new(), names: Vec::new() };
        for (number, file) in files.iter().enumerate() {
            let grids = conditions.get(number);
            for (i, (item, codes)) in
                file.items.iter().zip(file.codes.chunks_exact(length)).enumerate()
            {
                examples.codes.extend(permuter.permute(codes)?);
                examples.conditions.push(match grids.map(|grids| grids.item_codes(i)) {
                    None => conditioning.choices(&item.name)?,
                    Some(codes) => {
                        let codes = codes.with_context(|| {
                            format!("{} is without the codes of its condition", item.name)
                        })?;
                        vec![conditioning.tokens(codes)]
                    }
                });
                examples.names.push(item.name.clone());
            }
        }
        Ok(examples)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.conditions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Codes of a sequence.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The codes of example `index`, in the order in which they are drawn.
    pub fn codes(&self, index: usize) -> &[u32] {
        &self.codes[index * self.length..][..self.length]
    }

    /// The first condition of example `index`.
    pub fn condition(&self, index: usize) -> &[u32] {
        self.conditions[index].first().map_or(&[], Vec::as_slice)
    }

    /// What picture example `index` is of.
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// The examples at `indices`, each under its first condition.
    pub fn plain_batch(&self, indices: &[usize]) -> ExampleBatch {
        ExampleBatch {
            conditions: indices.iter().map(|&i| self.condition(i).to_vec()).collect(),
            codes: indices.iter().map(|&i| self.codes(i).to_vec()).collect(),
            names: indices.iter().map(|&i| self.names[i].clone()).collect(),
            next: Position::default(),
        }
    }
}

/// Shuffled batches without end; what comes depends on (seed, position) alone.
pub(super) struct CodeBatches {
    seed: u64,
    batch: usize,
    order: Option<(u64, Vec<usize>)>,
}

impl CodeBatches {
    pub(super) fn new(seed: u64, batch: usize) -> Self {
        Self { seed, batch, order: None }
    }

    /// The batch at `start`. The last, smaller one of an epoch is left out, unless
    /// it is the only one.
    pub(super) fn at(&mut self, examples: &CodeExamples, start: Position) -> Result<ExampleBatch> {
        let len = examples.len();
        ensure!(len > 0, "there are no examples to learn from");
        ensure!(start.index <= len, "cannot go on at example {} of {len}", start.index);
        let size = self.batch.min(len);
        let start = if start.index + size > len {
            Position { epoch: start.epoch + 1, index: 0 }
        } else {
            start
        };
        let order = match self.order.take() {
            Some((epoch, order)) if epoch == start.epoch && order.len() == len => order,
            _ => epoch_order(len, self.seed, start.epoch),
        };
        let indices = &order[start.index..start.index + size];
        let mut batch = ExampleBatch {
            conditions: Vec::with_capacity(size),
            codes: Vec::with_capacity(size),
            names: Vec::with_capacity(size),
            next: Position { epoch: start.epoch, index: start.index + size },
        };
        for &index in indices {
            let choices = &examples.conditions[index];
            let mut rng = example_rng(self.seed, start.epoch, index);
            let choice = (u64::from(rng.next_u32()) * choices.len() as u64) >> 32;
            batch.conditions.push(choices[choice as usize].clone());
            batch.codes.push(examples.codes(index).to_vec());
            batch.names.push(examples.names[index].clone());
        }
        self.order = Some((start.epoch, order));
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(count: usize) -> CodeExamples {
        CodeExamples {
            codes: (0..2 * count as u32).collect(),
            length: 2,
            conditions: (0..count as u32).map(|i| vec![vec![100 + i], vec![200 + i]]).collect(),
            names: (0..count).map(|i| i.to_string()).collect(),
        }
    }

    #[test]
    fn an_epoch_has_every_example_once_and_batches_repeat() -> Result<()> {
        let examples = examples(10);
        let mut batches = CodeBatches::new(7, 3);
        let (mut position, mut seen) = (Position::default(), Vec::new());
        for _ in 0..3 {
            let batch = batches.at(&examples, position)?;
            let again = CodeBatches::new(7, 3).at(&examples, position)?;
            assert_eq!((&batch.codes, &batch.conditions), (&again.codes, &again.conditions));
            for (codes, condition) in batch.codes.iter().zip(&batch.conditions) {
                assert_eq!(codes[0] / 2, condition[0] % 100);
                seen.push(codes[0]);
            }
            position = batch.next;
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), position.index), (9, 9));
        assert_eq!(batches.at(&examples, position)?.next, Position { epoch: 1, index: 3 });
        Ok(())
    }

    #[test]
    fn few_examples_are_one_batch() -> Result<()> {
        let batch = CodeBatches::new(1, 8).at(&examples(3), Position::default())?;
        assert_eq!(batch.codes.len(), 3);
        Ok(())
    }
}
