//! How the temperature of the samples falls in training.

use serde::{Deserialize, Serialize};

/// A linear warm-up, then half a cosine, then constant (taming
/// `LambdaWarmUpCosineScheduler`; its parameter names are accepted too).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TemperatureSchedule {
    /// Steps from `start` to `max`.
    #[serde(default)]
    pub warm_up_steps: u64,
    /// The step that reaches `min`, counted from step 0.
    pub max_decay_steps: u64,
    /// The temperature of step 0, where there is a warm-up.
    #[serde(alias = "lr_start")]
    pub start: f64,
    /// The temperature after the warm-up.
    #[serde(alias = "lr_max")]
    pub max: f64,
    /// The temperature from `max_decay_steps` on.
    #[serde(alias = "lr_min")]
    pub min: f64,
}

impl TemperatureSchedule {
    /// The temperature of training step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warm_up_steps {
            let slope = (self.max - self.start) / self.warm_up_steps as f64;
            return self.start + slope * step as f64;
        }
        let decay_steps = self.max_decay_steps.saturating_sub(self.warm_up_steps);
        let done = if decay_steps == 0 {
            1.0
        } else {
            ((step - self.warm_up_steps) as f64 / decay_steps as f64).min(1.0)
        };
        self.min + 0.5 * (self.max - self.min) * (1.0 + (done * std::f64::consts::PI).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_then_decays() {
        let schedule = TemperatureSchedule {
            warm_up_steps: 10,
            max_decay_steps: 110,
            start: 0.5,
            max: 1.0,
            min: 0.1,
        };
        let close = |step, expected: f64| {
            let actual = schedule.at(step);
            assert!((actual - expected).abs() < 1e-12, "step {step}: {actual} is not {expected}");
        };
        close(0, 0.5);
        close(5, 0.75);
        close(10, 1.0);
        close(60, 0.55);
        close(110, 0.1);
        close(u64::MAX, 0.1);
    }

    #[test]
    fn without_decay_it_is_constant() {
        let schedule = TemperatureSchedule {
            warm_up_steps: 0,
            max_decay_steps: 0,
            start: 1.0,
            max: 1.0,
            min: 0.5,
        };
        assert_eq!(schedule.at(0), 0.5);
    }
}
