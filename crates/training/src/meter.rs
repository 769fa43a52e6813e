//! How fast a run is, and how much memory it takes.

use std::time::Instant;

use crate::observer::Terms;

/// The names of what a [`Meter`] measures, and of the time that
/// [`MetricsLog`](crate::MetricsLog) adds: what differs between two runs that are equal.
pub const MEASURED: [&str; 4] = ["time", "steps_per_s", "images_per_s", "memory_mb"];

/// Counts steps and pictures between two lines of the log.
pub struct Meter {
    since: Instant,
    steps: u64,
    pictures: usize,
}

impl Default for Meter {
    fn default() -> Self {
        Self { since: Instant::now(), steps: 0, pictures: 0 }
    }
}

impl Meter {
    /// Counts a step.
    pub fn count(&mut self, pictures: usize) {
        self.steps += 1;
        self.pictures += pictures;
    }

    /// Steps and pictures a second since the last call, validation, previews and
    /// checkpoints in between included; the process's memory now, in MiB.
    pub fn take(&mut self) -> Terms {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        let mut terms = Terms::from([
            ("steps_per_s", round(self.steps as f64 / seconds)),
            ("images_per_s", round(self.pictures as f64 / seconds)),
        ]);
        if let Some(memory) = memory_stats::memory_stats() {
            terms.insert("memory_mb", (memory.physical_mem >> 20) as f64);
        }
        *self = Self::default();
        terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_since_the_last_time() {
        let mut meter = Meter::default();
        meter.count(3);
        meter.count(5);
        let terms = meter.take();
        let ratio = terms["images_per_s"] / terms["steps_per_s"];
        assert!((3.9..4.1).contains(&ratio), "{terms:?}");
        assert!(terms["memory_mb"] > 0.0);
        assert_eq!(meter.take()["steps_per_s"], 0.0);
        assert!(terms.keys().all(|name| MEASURED.contains(name)));
    }
}
