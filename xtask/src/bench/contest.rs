//! Taking turns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Tool;
use super::case::{Case, Contestants, Results, Work, difference, values};
use super::peer::Peer;

/// Between two contestants: threads of the one before may still be spinning, in
/// wait of work that does not come.
const PAUSE: Duration = Duration::from_millis(20);

/// Who competes, and how long.
pub struct Contest<'a> {
    /// Our rivals, in the order of the table.
    pub tools: &'static [Tool],
    /// Samples of each.
    pub samples: usize,
    /// A sample repeats its work for so long.
    pub seconds: Duration,
    /// The Python, if there is one.
    pub peer: &'a mut Option<Peer>,
}

/// The times of one contestant.
#[derive(Clone, Debug)]
pub struct Times(Vec<Duration>);

/// What came of a case.
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Its operations.
    pub flops: Option<f64>,
    /// Our times.
    pub ours: Times,
    /// Those of the others, in the contest's order, and how far their results
    /// are from ours.
    pub rivals: Vec<Option<(Times, f64)>>,
    /// What the results are.
    pub results: Results,
}

impl Contest<'_> {
    /// Runs a case, the number `index` of those that Python knows.
    ///
    /// # Errors
    /// If somebody fails.
    pub fn hold(&mut self, index: usize, case: Case) -> Result<Outcome> {
        let Case { name, flops, results, make, .. } = case;
        let Contestants { mut ours, mut candle } =
            make().with_context(|| format!("preparing {name}"))?;
        let expected = values(&ours().with_context(|| format!("running {name}"))?)?;
        let mut apart = Vec::new();
        for &tool in self.tools {
            let result = match (tool, &mut candle, &mut *self.peer) {
                (Tool::Candle, Some(work), _) => Some(values(&work()?)?),
                (Tool::Candle, None, _) | (_, _, None) => None,
                (_, _, Some(peer)) => {
                    let result = peer.warm_up(index, tool);
                    result.with_context(|| format!("{} on {name}", tool.name()))?
                }
            };
            apart.push(result.map(|result| difference(&expected, &result, results)));
        }

        let mut own_times = Vec::new();
        let mut times = vec![Vec::new(); self.tools.len()];
        for _ in 0..self.samples {
            std::thread::sleep(PAUSE);
            own_times.push(sample(&mut ours, self.seconds)?);
            for (i, &tool) in self.tools.iter().enumerate() {
                if apart[i].is_none() {
                    continue;
                }
                std::thread::sleep(PAUSE);
                times[i].push(match (tool, &mut candle, &mut *self.peer) {
                    (Tool::Candle, Some(work), _) => sample(work, self.seconds)?,
                    (_, _, Some(peer)) => peer.sample(index, tool, self.seconds)?,
                    _ => continue,
                });
            }
        }
        let rivals = times
            .into_iter()
            .zip(apart)
            .map(|(times, apart)| apart.map(|apart| (Times(times), apart)))
            .collect();
        Ok(Outcome { name, flops, ours: Times(own_times), rivals, results })
    }
}

/// The time of one run, repeated for `least`.
fn sample(work: &mut Work, least: Duration) -> Result<Duration> {
    let begun = Instant::now();
    for calls in 1.. {
        work()?;
        let passed = begun.elapsed();
        if passed >= least {
            return Ok(passed / calls);
        }
    }
    Ok(begun.elapsed())
}

impl Times {
    /// The middle one; the lower of two.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get((sorted.len().max(1) - 1) / 2).map_or(f64::NAN, Duration::as_secs_f64)
    }

    /// Seconds, in the order measured.
    pub fn seconds(&self) -> Vec<f64> {
        self.0.iter().map(Duration::as_secs_f64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_times() {
        let times = |ms: &[u64]| Times(ms.iter().map(|&ms| Duration::from_millis(ms)).collect());
        assert_eq!(times(&[9, 1, 2]).median(), 0.002);
        assert_eq!(times(&[9, 1, 2, 4]).median(), 0.002);
        assert!(times(&[]).median().is_nan());
    }
}
