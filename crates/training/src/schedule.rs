//! The learning rate over the steps of a run.

use serde::{Deserialize, Serialize};

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays: the reference's choice for every model.
    Constant,
    /// Half a cosine from the peak down to the floor (Loshchilov and Hutter,
    /// 2017, one period).
    Cosine,
}

/// Linear warm-up, then [`Decay`]. A pure function of the step, so a resumed
/// run needs no state of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest learning rate.
    pub lr: f64,
    /// Steps of linear warm-up from `lr / warmup` to `lr`.
    pub warmup: u64,
    /// What follows.
    pub decay: Decay,
    /// Fraction of `lr` where the cosine ends.
    pub floor: f64,
}

impl Schedule {
    /// The learning rate of update number `step` (from 0) out of `steps`.
    pub fn at(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return self.lr * (step + 1) as f64 / self.warmup as f64;
        }
        match self.decay {
            Decay::Constant => self.lr,
            Decay::Cosine => {
                let span = steps.saturating_sub(self.warmup).max(1);
                let progress = ((step - self.warmup) as f64 / span as f64).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                self.lr * (self.floor + (1.0 - self.floor) * cosine)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_then_cosine_to_the_floor() {
        let schedule = Schedule { lr: 2.0, warmup: 10, decay: Decay::Cosine, floor: 0.1 };
        assert!((schedule.at(0, 110) - 0.2).abs() < 1e-12);
        assert!((schedule.at(9, 110) - 2.0).abs() < 1e-12);
        assert!((schedule.at(10, 110) - 2.0).abs() < 1e-12);
        assert!((schedule.at(60, 110) - 1.1).abs() < 1e-12);
        assert!((schedule.at(110, 110) - 0.2).abs() < 1e-12);
        let flat = Schedule { decay: Decay::Constant, warmup: 0, ..schedule };
        assert_eq!(flat.at(77, 110), 2.0);
    }
}
