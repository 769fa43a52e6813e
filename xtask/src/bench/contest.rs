//! Taking turns.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Tool;
use super::case::{Case, Contestants, Results, Work, difference, values};
use super::device::device;
use super::peer::Peer;
use super::turns::Turns;

/// Between two contestants: threads of the one before may still be spinning, in
/// wait of work that does not come.
const PAUSE: Duration = Duration::from_millis(20);
/// A run of ours that takes so long is no warm-up: it is the one that counts.
const LONG: Duration = Duration::from_secs(60);

/// Who competes, and how long.
pub struct Contest<'a> {
    /// Our rivals, in the order of the table.
    pub tools: &'a [Tool],
    /// With whom it takes turns.
    pub turns: &'a Turns,
    /// Samples of each.
    pub samples: usize,
    /// A sample repeats its work for so long.
    pub seconds: Duration,
    /// The Python, if there is one.
    pub peer: &'a mut Option<Peer>,
    /// What came of rivals, by the request.
    pub known: HashMap<String, Vec<Option<Rival>>>,
}

/// The times of a rival, and some numbers of its results.
#[derive(Clone)]
pub struct Rival {
    times: Times,
    values: Vec<Vec<f64>>,
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
    /// are from ours where they should be the same.
    pub rivals: Vec<Option<(Times, Option<f64>)>>,
    /// What the results are.
    pub results: Results,
}

impl Contest<'_> {
    /// Runs a case, the number `index` of those that Python knows.
    ///
    /// # Errors
    /// If somebody fails.
    pub fn hold(&mut self, index: usize, case: Case) -> Result<Outcome> {
        let Case { name, flops, results, make, request } = case;
        let request = request.to_string();
        let together = self.turns.prepare()?;
        let Contestants { mut ours, mut candle } =
            make().with_context(|| format!("preparing {name}"))?;
        let begun = Instant::now();
        let expected = values(&ours().with_context(|| format!("running {name}"))?)?;
        let first = begun.elapsed();
        let known = self.known.get(&request).cloned();
        let measure = known.is_none();
        let mut rivals = match known {
            Some(rivals) => rivals,
            None => self.warm_up(index, &name, &mut candle)?,
        };

        drop(together);
        let _alone = self.turns.measure()?;
        let mut own_times = if first < LONG { Vec::new() } else { vec![first] };
        for _ in 0..self.samples {
            if first < LONG {
                std::thread::sleep(PAUSE);
                own_times.push(sample(&mut ours, self.seconds)?);
            }
            for (&tool, rival) in self.tools.iter().zip(&mut rivals) {
                let Some(rival) = rival.as_mut().filter(|_| measure) else { continue };
                std::thread::sleep(PAUSE);
                rival.times.0.push(match (tool, &mut candle, &mut *self.peer) {
                    (Tool::Candle, Some(work), _) => sample(work, self.seconds)?,
                    (_, _, Some(peer)) => peer.sample(index, tool, self.seconds)?,
                    _ => continue,
                });
            }
        }
        self.known.insert(request, rivals.clone());
        let rivals = self.tools.iter().zip(rivals).map(|(&tool, rival)| {
            let Rival { times, values } = rival?;
            let apart = results.comparable(tool).then(|| difference(&expected, &values, results));
            Some((times, apart))
        });
        Ok(Outcome { name, flops, ours: Times(own_times), rivals: rivals.collect(), results })
    }

    /// Lets every rival that can do it run a case once.
    fn warm_up(
        &mut self,
        index: usize,
        name: &str,
        candle: &mut Option<Work>,
    ) -> Result<Vec<Option<Rival>>> {
        let rival = |&tool: &Tool| {
            let values = match (tool, &mut *candle, &mut *self.peer) {
                (Tool::Candle, Some(work), _) => Some(values(&work()?)?),
                (Tool::Candle, None, _) | (_, _, None) => None,
                (_, _, Some(peer)) => {
                    let result = peer.warm_up(index, tool);
                    result.with_context(|| format!("{} on {name}", tool.name()))?
                }
            };
            Ok(values.map(|values| Rival { times: Times(Vec::new()), values }))
        };
        self.tools.iter().map(rival).collect()
    }
}

/// The time of one run, repeated for `least`.
fn sample(work: &mut Work, least: Duration) -> Result<Duration> {
    let begun = Instant::now();
    for calls in 1.. {
        work()?;
        device().synchronize()?;
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
