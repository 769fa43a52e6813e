//! Batches of a dataset, decoded ahead by worker threads, in one order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Dataset, Error, Example, Result, epoch_order, example_rng, stack};

/// A place in the stream of examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// How many examples of the epoch's order lie before.
    pub index: usize,
}

/// Pictures for one step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[B, 3, H, W]`, f32 in [-1, 1].
    pub images: Tensor,
    /// The names of the pictures, B of them.
    pub names: Vec<String>,
    /// Their places in the dataset, B of them.
    pub indices: Vec<usize>,
    /// Their classes, B of them, if every one has a class.
    pub classes: Option<Vec<u32>>,
    /// Their captions, B of them, if every one has a caption.
    pub captions: Option<Vec<String>>,
    /// `[B, H, W]`, u8: the label of each pixel, if every one has a label map. For a model
    /// that wants one channel a label: [`one_hot`](crate::one_hot).
    pub labels: Option<Tensor>,
    /// `[B, 1, H, W]`, f32 in [-1, 1], if every one has a depth map.
    pub depth: Option<Tensor>,
    /// Where the batch begins.
    pub start: Position,
    /// Where the next one begins: what a checkpoint keeps in order to go on.
    pub next: Position,
}

impl Batch {
    fn new(
        examples: Vec<Example>,
        indices: Vec<usize>,
        start: Position,
        next: Position,
        device: &Device,
    ) -> Result<Self> {
        let images: Vec<_> = examples.iter().map(|example| &example.image).collect();
        let images = stack(&images, device)?;
        let (count, _, height, width) = images.dims4()?;
        let labels: Option<Vec<&[u8]>> = examples
            .iter()
            .map(|example| Some(example.labels.as_ref()?.as_raw().as_slice()))
            .collect();
        let labels = labels
            .map(|maps| Tensor::from_vec(maps.concat(), (count, height, width), device))
            .transpose()?;
        let depth: Option<Vec<&[f32]>> = examples
            .iter()
            .map(|example| Some(example.depth.as_ref()?.as_raw().as_slice()))
            .collect();
        let depth = depth
            .map(|maps| Tensor::from_vec(maps.concat(), (count, 1, height, width), device))
            .transpose()?;
        let classes = examples.iter().map(|example| example.class).collect();
        let captions = examples.iter().map(|example| example.caption.clone()).collect();
        let names = examples.into_iter().map(|example| example.name).collect();
        Ok(Self { images, names, indices, classes, captions, labels, depth, start, next })
    }
}

/// How a dataset is turned into batches.
#[derive(Clone, Debug)]
pub struct BatchPlan {
    /// Pictures in a batch.
    pub batch_size: usize,
    /// Seed of the order and of all augmentation.
    pub seed: u64,
    /// Where to begin.
    pub start: Position,
    /// Threads that decode ahead; with 0 the caller decodes, when it asks for a batch.
    pub workers: usize,
    /// A new order every epoch; otherwise the dataset's own.
    pub shuffle: bool,
    /// The epoch before which to stop; without one, epochs follow one another.
    pub end_epoch: Option<u64>,
    /// Whether an epoch's last, smaller batch is left out. The reference keeps it.
    pub drop_last: bool,
    /// Where the tensors go.
    pub device: Device,
}

impl BatchPlan {
    /// Shuffled epochs without end from the beginning, decoded by the caller.
    pub fn new(batch_size: usize, seed: u64) -> Self {
        Self {
            batch_size,
            seed,
            start: Position::default(),
            workers: 0,
            shuffle: true,
            end_epoch: None,
            drop_last: false,
            device: Device::Cpu,
        }
    }
}

/// An iterator of batches.
///
/// The stream of examples depends on (dataset, seed, start) alone, not on the number of
/// workers: example number `n` comes from worker `n % workers` through a queue of its
/// own, and the queues are read in turn. A picture that cannot be read is left out, and
/// the next one takes its place; [`Batches::unreadable`] names them.
pub struct Batches {
    source: Source,
    len: usize,
    plan: BatchPlan,
    /// Examples taken from the source.
    taken: u64,
    unreadable: BTreeMap<usize, String>,
    /// Since the last beginning of an epoch: readable pictures, batches.
    epoch_readable: usize,
    epoch_batches: usize,
    finished: bool,
}

impl Batches {
    /// Shuffled batches without end on the CPU, from example `start_index` in the order of
    /// epoch `start_epoch` on.
    pub fn new(
        dataset: Arc<dyn Dataset>,
        batch_size: usize,
        seed: u64,
        start_epoch: u64,
        start_index: usize,
        workers: usize,
    ) -> Result<Self> {
        let start = Position { epoch: start_epoch, index: start_index };
        Self::with_plan(dataset, BatchPlan { start, workers, ..BatchPlan::new(batch_size, seed) })
    }

    /// Batches by `plan`.
    ///
    /// # Errors
    /// An empty dataset, a batch size of 0, a position beyond the dataset, or threads that
    /// cannot be started.
    pub fn with_plan(dataset: Arc<dyn Dataset>, plan: BatchPlan) -> Result<Self> {
        let argument = |reason: String| Err(Error::argument("Batches", reason));
        let len = dataset.len();
        if len == 0 {
            return argument("the dataset has no examples".to_string());
        }
        if plan.batch_size == 0 {
            return argument("the batch size is 0".to_string());
        }
        if plan.start.index > len {
            let index = plan.start.index;
            return argument(format!(
                "cannot go on at example {index} of {len}: the dataset has changed"
            ));
        }
        let stream = Stream {
            dataset,
            seed: plan.seed,
            shuffle: plan.shuffle,
            start: plan.start,
            end_epoch: plan.end_epoch,
            order: None,
        };
        let source = Source::start(stream, plan.workers, plan.batch_size)?;
        Ok(Self {
            source,
            len,
            plan,
            taken: 0,
            unreadable: BTreeMap::new(),
            epoch_readable: 0,
            epoch_batches: 0,
            finished: false,
        })
    }

    /// Where the next batch begins.
    pub fn next_position(&self) -> Position {
        position(self.plan.start, self.len, self.taken)
    }

    /// The pictures that could not be read so far: index in the dataset, and why.
    pub fn unreadable(&self) -> &BTreeMap<usize, String> {
        &self.unreadable
    }

    fn next_batch(&mut self) -> Result<Option<Batch>> {
        loop {
            let start = self.next_position();
            if self.ended(start) {
                return Ok(None);
            }
            if start.index == 0 {
                (self.epoch_readable, self.epoch_batches) = (0, 0);
            }
            let mut examples: Vec<Example> = Vec::with_capacity(self.plan.batch_size);
            let mut indices = Vec::with_capacity(self.plan.batch_size);
            while examples.len() < self.plan.batch_size {
                let at = self.next_position();
                if at.epoch != start.epoch {
                    break;
                }
                let (index, result) = self.source.take(self.taken)?;
                self.taken += 1;
                match result {
                    Ok(example) => {
                        examples.push(example);
                        indices.push(index);
                    }
                    Err(error) => {
                        self.unreadable.insert(index, error.to_string());
                    }
                }
            }
            self.epoch_readable += examples.len();
            let full = examples.len() == self.plan.batch_size;
            if full || (!examples.is_empty() && !self.plan.drop_last) {
                self.epoch_batches += 1;
                let next = self.next_position();
                return Ok(Some(Batch::new(examples, indices, start, next, &self.plan.device)?));
            }
            if self.taken >= self.len as u64 && self.epoch_batches == 0 {
                return Err(self.nothing_readable());
            }
        }
    }

    fn ended(&self, at: Position) -> bool {
        self.plan.end_epoch.is_some_and(|end| at.epoch >= end)
    }

    fn nothing_readable(&self) -> Error {
        let first = self.unreadable.values().next();
        Error::NothingReadable {
            readable: self.epoch_readable,
            len: self.len,
            batch_size: self.plan.batch_size,
            first: first.map(|reason| format!("; the first failure: {reason}")).unwrap_or_default(),
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.next_batch().transpose();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

/// The position of example number `n` counted from `start`.
fn position(start: Position, len: usize, n: u64) -> Position {
    let n = start.index as u64 + n;
    let len = len as u64;
    Position { epoch: start.epoch + n / len, index: (n % len) as usize }
}

/// The endless sequence of examples; every thread has one of its own.
#[derive(Clone)]
struct Stream {
    dataset: Arc<dyn Dataset>,
    seed: u64,
    shuffle: bool,
    start: Position,
    end_epoch: Option<u64>,
    order: Option<(u64, Vec<usize>)>,
}

/// An example or why there is none, with its index in the dataset.
type Taken = (usize, Result<Example>);

impl Stream {
    /// Example number `n` from the start, or `None` at the end.
    fn example(&mut self, n: u64) -> Option<Taken> {
        let len = self.dataset.len();
        let Position { epoch, index } = position(self.start, len, n);
        if self.end_epoch.is_some_and(|end| epoch >= end) {
            return None;
        }
        let index = if self.shuffle {
            let order = match self.order.take() {
                Some((known, order)) if known == epoch => order,
                _ => epoch_order(len, self.seed, epoch),
            };
            let index = order[index];
            self.order = Some((epoch, order));
            index
        } else {
            index
        };
        let mut rng = example_rng(self.seed, epoch, index);
        Some((index, self.dataset.get(index, &mut rng)))
    }
}

enum Source {
    Inline(Stream),
    Threads(Vec<Worker>),
}

struct Worker {
    queue: Option<Receiver<Taken>>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    fn start(stream: Stream, workers: usize, batch_size: usize) -> Result<Self> {
        if workers == 0 {
            return Ok(Self::Inline(stream));
        }
        // Two batches ahead, all queues together.
        let ahead = (2 * batch_size).div_ceil(workers);
        let mut threads = Vec::with_capacity(workers);
        for first in 0..workers {
            let (sender, queue) = sync_channel(ahead);
            let stream = stream.clone();
            let thread = std::thread::Builder::new()
                .name(format!("image-data-{first}"))
                .spawn(move || work(stream, first, workers, &sender))
                .map_err(|error| Error::argument("Batches", format!("no thread: {error}")))?;
            threads.push(Worker { queue: Some(queue), thread: Some(thread) });
        }
        Ok(Self::Threads(threads))
    }

    /// Example number `n`; numbers are asked for in order.
    fn take(&mut self, n: u64) -> Result<Taken> {
        match self {
            Self::Inline(stream) => stream.example(n).ok_or(Error::Worker),
            Self::Threads(workers) => {
                let worker = &workers[(n % workers.len() as u64) as usize];
                let queue = worker.queue.as_ref().ok_or(Error::Worker)?;
                queue.recv().map_err(|_| Error::Worker)
            }
        }
    }
}

/// Decodes every `step`-th example from `first` on, until nobody listens.
fn work(mut stream: Stream, first: usize, step: usize, queue: &SyncSender<Taken>) {
    for n in (first as u64..).step_by(step) {
        let Some(taken) = stream.example(n) else { return };
        if queue.send(taken).is_err() {
            return;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing the queue ends the thread at its next send.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported as a closed queue.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
