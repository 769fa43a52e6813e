//! Numbers of a step that a device may still be computing.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};

use crate::foreach::{self, Numbers};
use crate::observer::Terms;
use crate::scale::Scale;

/// The terms of a step on their way from the device, where they are read all at once.
///
/// Whoever asks a GPU for a number waits until all before it is done, and then the GPU waits
/// for work. So a step collects its terms as they are, has its updates depend on them
/// ([`Gathered::scale`]), and reads them once, when there is nothing more to ask for. A step
/// that looked at each would stop at the first that is not finite: [`check`](Self::check) says
/// where it would look, and [`Gathered::read`] gives what it would have seen until then.
pub(crate) struct Readings {
    entries: Vec<Entry>,
    /// The first entry of the part of a batch that is under way, and its share of the batch.
    part: (usize, f64),
    /// Entries that have to be finite for what follows them to mean something, in order.
    checks: Vec<Range<usize>>,
}

struct Entry {
    name: &'static str,
    share: f64,
    value: Number,
}

enum Number {
    Known(f64),
    /// `[1]`, f32 or f64.
    OnDevice(Tensor),
}

/// What [`Gathered::read`] found.
pub(crate) struct Read {
    /// The terms, those of parts added up by their shares; up to the check that failed.
    pub terms: Terms,
    /// The first of them, by name, that is not finite.
    pub broken: Option<&'static str>,
    /// The codes that were read along.
    pub codes: Vec<u32>,
}

impl Default for Readings {
    fn default() -> Self {
        Self { entries: Vec::new(), part: (0, 1.0), checks: Vec::new() }
    }
}

impl Readings {
    /// What is added from now on is of a part of the batch, which is `share` of it.
    pub fn begin_part(&mut self, share: f64) {
        self.part = (self.entries.len(), share);
    }

    /// What is added from now on is of the whole batch, and checks look at all of it.
    pub fn end_parts(&mut self) {
        self.part = (0, 1.0);
    }

    /// Adds a number that the host knows.
    pub fn know(&mut self, name: &'static str, value: f64) {
        self.entries.push(Entry { name, share: self.part.1, value: Number::Known(value) });
    }

    /// Adds the scalar `value`.
    ///
    /// # Errors
    /// If it is no scalar.
    pub fn add(&mut self, name: &'static str, value: &Tensor) -> Result<()> {
        let value = match value.dtype() {
            DType::F32 | DType::F64 => value.detach(),
            _ => value.detach().to_dtype(DType::F64)?,
        };
        let value = Number::OnDevice(value.reshape(1)?);
        self.entries.push(Entry { name, share: self.part.1, value });
        Ok(())
    }

    /// The part of the batch that is under way goes on only if its terms so far are finite.
    pub fn check(&mut self) {
        self.checks.push(self.part.0..self.entries.len());
    }

    /// Has everything brought together, and the `codes` (u32, in any shapes) with it. All of it
    /// has to be finite now.
    ///
    /// # Errors
    /// If the device cannot be asked.
    pub fn gather(mut self, codes: &[&Tensor]) -> Result<Gathered> {
        self.end_parts();
        self.check();
        let mut waiting = Vec::with_capacity(self.entries.len() + codes.len());
        waiting.extend(self.entries.iter().filter_map(|entry| match &entry.value {
            Number::OnDevice(value) => Some(value.clone()),
            Number::Known(_) => None,
        }));
        let terms = waiting.len();
        // f64 holds every u32.
        waiting.extend(codes.iter().map(|&codes| codes.clone()));
        let values = foreach::gather(&waiting)?;
        Ok(Gathered { entries: self.entries, checks: self.checks, values, terms })
    }
}

/// The terms of a step, brought together but not yet read.
pub(crate) struct Gathered {
    entries: Vec<Entry>,
    checks: Vec<Range<usize>>,
    /// Those of the device, and codes.
    values: Numbers,
    /// How many are no codes.
    terms: usize,
}

impl Gathered {
    /// What gradients of norm `norm`, which is one of the terms, are multiplied by so that it is
    /// at most `limit` (0: no limit); NaN, which is for nothing to be updated, where something
    /// is not finite or `before`, another update's, is NaN. On a GPU nobody waits for it.
    ///
    /// # Errors
    /// If there is no such term.
    pub fn scale(&self, norm: &str, limit: f64, before: Option<&Scale>) -> Result<Scale> {
        let known = |entry: &Entry| match entry.value {
            Number::Known(value) => Some(value),
            Number::OnDevice(_) => None,
        };
        let broken = self.entries.iter().filter_map(known).any(|value| !value.is_finite())
            || before.is_some_and(Scale::is_known_broken);
        let on_device = self.entries.iter().filter(|entry| known(entry).is_none());
        let norm = on_device.enumerate().find(|(_, entry)| entry.name == norm);
        let (norm, _) = norm.context("gradients without a norm")?;
        match &self.values {
            _ if broken => Ok(Scale::broken()),
            Numbers::Read(values) => {
                let (terms, codes) = values.split_at(self.terms);
                Ok(match terms.iter().all(|x| x.is_finite()) && !codes.iter().any(no_code) {
                    true => Scale::clipping(terms[norm], limit),
                    false => Scale::broken(),
                })
            }
            #[cfg(feature = "cuda")]
            Numbers::OnDevice(values) => {
                let before = match before {
                    Some(Scale::OnDevice(before)) => Some(before),
                    _ => None,
                };
                let gate = layers::cuda::foreach::gate;
                Ok(Scale::OnDevice(gate(values, self.terms, norm, limit, before)?))
            }
        }
    }

    /// Reads everything: the one place where a step waits for the device.
    ///
    /// # Errors
    /// What the device says, of all that it was told to do until here; or if vectors have no
    /// code although all terms are finite.
    pub fn read(self) -> Result<Read> {
        let mut read = self.values.read()?.into_iter();
        let mut values = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            values.extend(match entry.value {
                Number::Known(value) => Some(value),
                Number::OnDevice(_) => read.next(),
            });
        }
        let finite = |range: &Range<usize>| values[range.clone()].iter().all(|v| v.is_finite());
        let failed = self.checks.iter().find(|range| !finite(range));
        let seen = failed.map_or(values.len(), |range| range.end);
        let mut terms = Terms::new();
        for (entry, value) in self.entries.iter().zip(&values).take(seen) {
            *terms.entry(entry.name).or_insert(0.0) += entry.share * value;
        }
        let broken = failed.and_then(|_| not_finite(&terms));
        let codes = read.collect::<Vec<_>>();
        ensure!(
            broken.is_some() || !codes.iter().any(no_code),
            "the distance of a vector to the codes is not a finite number: a value in the \
             codebook is not, or too large"
        );
        Ok(Read { terms, broken, codes: codes.into_iter().map(|code| code as u32).collect() })
    }
}

/// Whether it stands for what has no code ([`codebook::Quantizer::quantize_without_waiting`]).
fn no_code(code: &f64) -> bool {
    *code == f64::from(u32::MAX)
}

/// The first of `terms`, by name, that is not finite.
pub(crate) fn not_finite(terms: &Terms) -> Option<&'static str> {
    terms.iter().find(|(_, value)| !value.is_finite()).map(|(&name, _)| name)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn scalar(value: f32) -> Result<Tensor> {
        Ok(Tensor::new(value, &Device::Cpu)?)
    }

    /// Two parts of a batch, as a step adds them.
    fn readings(latents: [f32; 2], losses: [f32; 2]) -> Result<Readings> {
        let mut readings = Readings::default();
        readings.know("lr", 0.5);
        for (share, (latent, loss)) in [0.75, 0.25].into_iter().zip(latents.into_iter().zip(losses))
        {
            readings.begin_part(share);
            readings.add("z", &scalar(latent)?)?;
            readings.check();
            readings.add("a", &scalar(loss)?)?;
        }
        readings.end_parts();
        readings.check();
        readings.know("norm", 2.0);
        readings.check();
        Ok(readings)
    }

    #[test]
    fn terms_of_parts_are_added_up_and_codes_come_along() -> Result<()> {
        let codes = Tensor::new(&[[[7u32, u32::MAX - 1], [0, 1]]], &Device::Cpu)?;
        let read = readings([1.0, 3.0], [2.0, 4.0])?.gather(&[&codes, &codes])?.read()?;
        let expected = [("a", 2.5), ("lr", 0.5), ("norm", 2.0), ("z", 1.5)];
        assert_eq!(read.terms, Terms::from(expected));
        assert_eq!(read.broken, None);
        assert_eq!(read.codes, [7, u32::MAX - 1, 0, 1, 7, u32::MAX - 1, 0, 1]);
        Ok(())
    }

    /// Terms whose norm is 4, and codes.
    fn gathered(latent: f32, codes: &[u32], device: &Device) -> Result<Gathered> {
        let mut readings = Readings::default();
        readings.know("lr", 0.5);
        readings.add("z", &Tensor::new(latent, device)?)?;
        readings.add("norm", &Tensor::new(4f64, device)?)?;
        readings.add("a", &Tensor::new(1f32, device)?)?;
        readings.gather(&[&Tensor::new(codes, device)?])
    }

    #[test]
    fn a_scale_is_nan_where_something_is_broken() -> Result<()> {
        let mut devices = vec![Device::Cpu];
        match Device::new_cuda_with_stream(0) {
            Ok(gpu) => devices.push(gpu),
            Err(_) => println!("a_scale_... on a GPU skipped: no CUDA device"),
        }
        for device in devices {
            let number = |scale: &Scale| -> Result<f64> {
                Ok(match scale {
                    Scale::Known(scale) => *scale,
                    Scale::OnDevice(scale) => f64::from(scale.to_vec1::<f32>()?[0]),
                })
            };
            let scale = |latent, codes: &[u32], limit, before: Option<&Scale>| {
                gathered(latent, codes, &device)?.scale("norm", limit, before)
            };
            let whole = scale(1.0, &[0, 7], 1.0, None)?;
            assert!((number(&whole)? - 0.25).abs() < 1e-6);
            assert_eq!(number(&scale(1.0, &[0, 7], 0.0, Some(&whole))?)?, 1.0);
            assert_eq!(number(&scale(1.0, &[], 8.0, None)?)?, 1.0);
            let broken = scale(f32::NAN, &[0, 7], 1.0, None)?;
            assert!(number(&broken)?.is_nan());
            assert!(number(&scale(f32::INFINITY, &[0], 1.0, None)?)?.is_nan());
            assert!(number(&scale(1.0, &[0, u32::MAX], 1.0, None)?)?.is_nan());
            assert!(number(&scale(1.0, &[0, 7], 1.0, Some(&broken))?)?.is_nan());
            assert!(gathered(1.0, &[], &device)?.scale("a norm", 1.0, None).is_err());
            // Vectors that have no code, although everything else is as it should be.
            assert!(gathered(1.0, &[0, u32::MAX], &device)?.read().is_err());
            let read = gathered(f32::NAN, &[u32::MAX], &device)?.read()?;
            assert_eq!(read.broken, Some("z"));
            assert_eq!(gathered(1.0, &[0, 7], &device)?.read()?.codes, [0, 7]);
        }
        Ok(())
    }

    #[test]
    fn what_comes_after_the_first_failed_check_is_not_told() -> Result<()> {
        let nan = f32::NAN;
        // In the second part, whose own loss would be named first.
        let read = readings([1.0, nan], [2.0, nan])?.gather(&[])?.read()?;
        assert_eq!(read.broken, Some("z"));
        assert_eq!(read.terms.keys().copied().collect::<Vec<_>>(), ["a", "lr", "z"]);
        assert_eq!(read.terms["a"], 1.5);
        // A loss is looked at when all parts are there.
        let read = readings([1.0, 3.0], [f32::INFINITY, 4.0])?.gather(&[])?.read()?;
        assert_eq!(read.broken, Some("a"));
        assert_eq!((read.terms["z"], read.terms.contains_key("norm")), (1.5, false));
        // A part's check is of that part.
        let read = readings([1.0, nan], [nan, 4.0])?.gather(&[])?.read()?;
        assert_eq!(read.broken, Some("a"));
        assert!(read.terms["z"].is_nan() && read.terms["a"].is_nan());
        Ok(())
    }
}
