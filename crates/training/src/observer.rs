//! What a run tells whoever watches it.

use std::collections::BTreeMap;
use std::path::Path;

/// Named numbers of one step or validation, as they go into `metrics.jsonl`.
pub type Terms = BTreeMap<&'static str, f64>;

/// Something that happened in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run starts or continues.
    Started {
        /// Steps done already.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// Numbers that training changes.
        parameters: usize,
        /// Pictures to train on and held out.
        pictures: (usize, usize),
        /// The checkpoint it continues from.
        resumed: Option<&'a Path>,
    },
    /// Something worth knowing, once.
    Note {
        /// What.
        message: &'a str,
    },
    /// Pictures are turned into codes, before training begins.
    Encoding {
        /// Which.
        what: &'static str,
        /// How many are done.
        done: usize,
        /// How many there are.
        pictures: usize,
    },
    /// An update was done.
    Step {
        /// Steps done.
        step: u64,
        /// Its losses, learning rate and norms.
        terms: &'a Terms,
        /// Pictures in it.
        pictures: usize,
        /// Seconds it took, data included.
        seconds: f64,
    },
    /// Held-out pictures were measured.
    Validated {
        /// Steps done.
        step: u64,
        /// The measurements, under their names in `metrics.jsonl`.
        terms: &'a Terms,
    },
    /// Codes that nothing used were replaced.
    Revived {
        /// Steps done.
        step: u64,
        /// How many.
        codes: usize,
    },
    /// A file that people may want to look at was written.
    Wrote {
        /// What it is, in a word or two.
        what: &'static str,
        /// Where it is.
        path: &'a Path,
    },
    /// Something is not as it should be; the run goes on.
    Warning {
        /// What, and what to do.
        message: &'a str,
    },
}

/// Watches a run: draws progress, collects numbers in a test.
pub trait Observer {
    /// Called for every event, on the thread that trains.
    fn see(&mut self, event: &Event);
}

/// Sees nothing.
impl Observer for () {
    fn see(&mut self, _event: &Event) {}
}
