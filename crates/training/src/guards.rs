//! What goes wrong in a run without stopping it: most codes unused, or a
//! discriminator that has won.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use codebook::{CodeGrid, RecentUsage};

use crate::config::{GuardsConfig, TrainConfig};
use crate::observer::Terms;

/// A state that is only worth a warning when it lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lasting(u64);

impl Lasting {
    /// Counts a step in which the state was `there`; whether to warn now: when it
    /// has lasted `patience` steps, and again every ten times as many.
    fn step(&mut self, there: bool, patience: u64) -> bool {
        self.0 = if there { self.0 + 1 } else { 0 };
        let patience = patience.max(1);
        self.0 >= patience && (self.0 - patience).is_multiple_of(10 * patience)
    }
}

/// Watches the codes and the discriminator of a run.
pub struct Guards {
    config: GuardsConfig,
    codes: usize,
    usage: RecentUsage,
    unused: Lasting,
    /// Accuracy on real and on made pictures, averaged.
    accuracy: Option<[f64; 2]>,
    won: Lasting,
}

impl Guards {
    /// The guards of a run with a codebook of `codes`.
    pub fn new(config: &TrainConfig, codes: usize) -> Self {
        Self {
            config: config.guards.clone(),
            codes,
            // A codebook needs some codes per row before it can be called unused.
            usage: RecentUsage::new(codes, RecentUsage::WINDOW.max(4 * codes)),
            unused: Lasting::default(),
            accuracy: None,
            won: Lasting::default(),
        }
    }

    /// Looks at a step that was done: its `codes`, and its `terms`, to which
    /// `usage` and `perplexity` of the last codes are added. Returns warnings.
    ///
    /// # Errors
    /// If a code is not in the codebook.
    pub fn after_step(&mut self, codes: &CodeGrid, terms: &mut Terms) -> Result<Vec<String>> {
        self.usage.add(codes)?;
        let used = self.usage.used_fraction();
        terms.insert("usage", used);
        terms.insert("perplexity", self.usage.perplexity());
        let patience = self.config.patience;
        let mut warnings = Vec::new();
        if self.unused.step(used < self.config.usage, patience) {
            warnings.push(format!(
                "only {:.1} % of the {} codes are in use, for {} steps now: revive unused ones \
                 (revival.every = 100), take codes of unit length and dimension 8 \
                 (model.quantizer.kind = \"normalized\"), or fewer codes",
                100.0 * used,
                self.codes,
                self.unused.0
            ));
        }
        let accuracies = ["disc_accuracy_real", "disc_accuracy_fake"].map(|name| terms.get(name));
        if let [Some(&real), Some(&fake)] = accuracies {
            let gain = 1.0 / patience.max(1) as f64;
            let old = self.accuracy.unwrap_or([0.5; 2]);
            let [real, fake] =
                [(old[0], real), (old[1], fake)].map(|(old, new)| old + gain * (new - old));
            self.accuracy = Some([real, fake]);
            let limit = self.config.accuracy;
            if self.won.step(real > limit && fake > limit, patience) {
                warnings.push(format!(
                    "the discriminator has won: it is right in {:.1} % of the patches of pictures \
                     and {:.1} % of those of reconstructions, and teaches little now. Start it \
                     later (adversarial.start), make it weaker (adversarial.patchgan.ndf, \
                     adversarial.lr_ratio), or regularise it (adversarial.lecam = 0.001, \
                     adversarial.r1)",
                    100.0 * real,
                    100.0 * fake
                ));
            }
        }
        Ok(warnings)
    }

    /// What a run that goes on has to remember.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let codes = self.usage.codes();
        let count = codes.len();
        if count == 0 {
            return Ok(BTreeMap::new());
        }
        let [real, fake] = self.accuracy.unwrap_or([f64::NAN; 2]);
        let counters = [self.unused.0 as f64, self.won.0 as f64, real, fake];
        Ok(BTreeMap::from([
            ("codes".to_string(), Tensor::from_vec(codes, count, &Device::Cpu)?),
            ("counters".to_string(), Tensor::new(&counters, &Device::Cpu)?),
        ]))
    }

    /// Goes on from a saved state. Without one (a checkpoint of an older version)
    /// everything is as at the start.
    ///
    /// # Errors
    /// If the state is not one of these guards.
    pub fn load(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let (Some(codes), Some(counters)) = (state.get("codes"), state.get("counters")) else {
            return Ok(());
        };
        let counters = counters.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        ensure!(counters.len() == 4, "guards: {} counters, not 4", counters.len());
        let codes = codes.to_dtype(DType::U32)?;
        let count = codes.dim(0)?;
        if count > 0 {
            self.usage.add(&CodeGrid::new(codes.reshape((1, 1, count))?)?)?;
        }
        self.unused = Lasting(counters[0] as u64);
        self.won = Lasting(counters[1] as u64);
        self.accuracy = counters[2].is_finite().then_some([counters[2], counters[3]]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(codes: &[u32]) -> Result<CodeGrid> {
        Ok(CodeGrid::from_vec(codes.to_vec(), (1, 1, codes.len()), &Device::Cpu)?)
    }

    fn guards(patience: u64) -> Guards {
        let guards = GuardsConfig { usage: 0.5, accuracy: 0.9, patience };
        let config = TrainConfig { guards, ..TrainConfig::default() };
        Guards::new(&config, 4)
    }

    #[test]
    fn unused_codes_are_worth_a_warning_when_it_lasts() -> Result<()> {
        let mut guards = guards(3);
        let mut warned = Vec::new();
        for step in 1..=40 {
            let mut terms = Terms::new();
            let warnings = guards.after_step(&grid(&[2, 2])?, &mut terms)?;
            assert!(terms["usage"] == 0.25 && (terms["perplexity"] - 1.0).abs() < 1e-6);
            if let [warning] = &warnings[..] {
                assert!(warning.contains("25.0 % of the 4 codes"), "{warning}");
                warned.push(step);
            }
        }
        assert_eq!(warned, [3, 33]);
        assert!(guards.after_step(&grid(&[0, 1])?, &mut Terms::new())?.is_empty());
        assert_eq!(guards.unused, Lasting(0));
        Ok(())
    }

    #[test]
    fn a_discriminator_that_is_always_right_has_won() -> Result<()> {
        let mut guards = guards(5);
        let terms = |real: f64, fake: f64| {
            Terms::from([("disc_accuracy_real", real), ("disc_accuracy_fake", fake)])
        };
        let codes = grid(&[0, 1, 2, 3])?;
        // Half right is the best a discriminator without an opinion can do.
        for _ in 0..50 {
            assert!(guards.after_step(&codes, &mut terms(1.0, 0.0))?.is_empty());
        }
        let mut until = 0;
        while guards.after_step(&codes, &mut terms(1.0, 1.0))?.is_empty() {
            until += 1;
        }
        // The average of fake rises over 0.9 after eleven steps; five later it counts.
        assert_eq!(until, 14);
        Ok(())
    }

    #[test]
    fn a_saved_state_goes_on() -> Result<()> {
        let (mut whole, mut first) = (guards(4), guards(4));
        let steps: [&[u32]; 6] = [&[0], &[0, 0], &[1, 0], &[1], &[0], &[3, 2, 2]];
        let run = |guards: &mut Guards, steps: &[&[u32]]| -> Result<Vec<(Terms, Vec<String>)>> {
            let mut seen = Vec::new();
            for codes in steps {
                let mut terms =
                    Terms::from([("disc_accuracy_real", 0.95), ("disc_accuracy_fake", 0.92)]);
                let warnings = guards.after_step(&grid(codes)?, &mut terms)?;
                seen.push((terms, warnings));
            }
            Ok(seen)
        };
        let expected = run(&mut whole, &steps)?;
        let mut actual = run(&mut first, &steps[..2])?;
        let mut second = guards(4);
        second.load(&first.state()?.into_iter().collect())?;
        actual.extend(run(&mut second, &steps[2..])?);
        assert_eq!(actual, expected);
        second.load(&HashMap::new())?;
        Ok(())
    }
}
