//! How much of a codebook is in use.

use std::collections::VecDeque;

use crate::{CodeGrid, Error, Result};

/// How often each code was seen since the last reset.
#[derive(Clone, Debug)]
pub struct CodeUsage {
    counts: Vec<u64>,
}

impl CodeUsage {
    /// Nothing seen yet of `len` codes.
    pub fn new(len: usize) -> Self {
        Self { counts: vec![0; len] }
    }

    /// As if each code had been seen so often: counting goes on from there.
    pub fn from_counts(counts: Vec<u64>) -> Self {
        Self { counts }
    }

    /// Counts the codes of `grid`.
    ///
    /// # Errors
    /// If a code is out of range; nothing is counted then.
    pub fn add(&mut self, grid: &CodeGrid) -> Result<()> {
        let codes = checked(grid, self.counts.len())?;
        for code in codes {
            self.counts[code as usize] += 1;
        }
        Ok(())
    }

    /// How often each code was seen.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The fraction of codes that were seen, 0 to 1.
    pub fn used_fraction(&self) -> f64 {
        let used = self.counts.iter().filter(|&&count| count > 0).count();
        used as f64 / self.counts.len().max(1) as f64
    }

    /// `exp(-sum_k p_k log(p_k + 1e-10))`: the number of codes that, evenly
    /// used, would carry as much; 1 to `len`. The formula of taming
    /// `VectorQuantizer`; 1 before anything was seen.
    pub fn perplexity(&self) -> f64 {
        perplexity(&self.counts)
    }

    /// The codes never seen, in order.
    pub fn dead_codes(&self) -> Vec<u32> {
        let dead = |(code, &count): (usize, &u64)| (count == 0).then_some(code as u32);
        self.counts.iter().enumerate().filter_map(dead).collect()
    }

    /// Forgets what was seen.
    pub fn reset(&mut self) {
        self.counts.fill(0);
    }
}

/// Usage over the last so many codes, which says more than one batch can: the
/// idea of LlamaGen's `codebook_used`, a ring of 65536, though here nothing counts as
/// seen before it was (LlamaGen's ring starts as so many zeros).
#[derive(Clone, Debug)]
pub struct RecentUsage {
    recent: VecDeque<u32>,
    window: usize,
    counts: Vec<u64>,
    used: usize,
}

impl RecentUsage {
    /// The window of the reference.
    pub const WINDOW: usize = 65536;

    /// An empty window for `window` codes (at least one) of a codebook of `len`.
    pub fn new(len: usize, window: usize) -> Self {
        Self { recent: VecDeque::new(), window: window.max(1), counts: vec![0; len], used: 0 }
    }

    /// Moves the window on over the codes of `grid`.
    ///
    /// # Errors
    /// If a code is out of range; the window stays then.
    pub fn add(&mut self, grid: &CodeGrid) -> Result<()> {
        for code in checked(grid, self.counts.len())? {
            self.recent.push_back(code);
            let count = &mut self.counts[code as usize];
            self.used += usize::from(*count == 0);
            *count += 1;
            if self.recent.len() > self.window
                && let Some(old) = self.recent.pop_front()
            {
                let count = &mut self.counts[old as usize];
                *count -= 1;
                self.used -= usize::from(*count == 0);
            }
        }
        Ok(())
    }

    /// The codes in the window, oldest first: [`add`](Self::add) of them to an empty
    /// window makes this one.
    pub fn codes(&self) -> Vec<u32> {
        self.recent.iter().copied().collect()
    }

    /// Whether the window holds as many codes as it can.
    pub fn is_full(&self) -> bool {
        self.recent.len() == self.window
    }

    /// The fraction of codes in the window, 0 to 1.
    pub fn used_fraction(&self) -> f64 {
        self.used as f64 / self.counts.len().max(1) as f64
    }

    /// The perplexity of the codes in the window, as [`CodeUsage::perplexity`].
    pub fn perplexity(&self) -> f64 {
        perplexity(&self.counts)
    }
}

/// `exp(-sum_k p_k log(p_k + 1e-10))`; 1 where nothing was counted.
fn perplexity(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let term = |&count: &u64| {
        let p = count as f64 / total;
        p * (p + 1e-10).ln()
    };
    (-counts.iter().map(term).sum::<f64>()).exp()
}

fn checked(grid: &CodeGrid, len: usize) -> Result<Vec<u32>> {
    let codes = grid.to_vec()?;
    match codes.iter().position(|&code| code as usize >= len) {
        Some(position) => Err(Error::CodeOutOfRange { code: codes[position], position, len }),
        None => Ok(codes),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn grid(codes: &[u32]) -> Result<CodeGrid> {
        CodeGrid::from_vec(codes.to_vec(), (1, 1, codes.len()), &Device::Cpu)
    }

    #[test]
    fn even_use_of_k_codes_has_perplexity_k() -> anyhow::Result<()> {
        let mut usage = CodeUsage::new(10);
        assert_eq!((usage.perplexity(), usage.used_fraction()), (1.0, 0.0));
        usage.add(&grid(&[1, 2, 3, 7, 7, 3, 2, 1])?)?;
        assert!((usage.perplexity() - 4.0).abs() < 1e-8);
        assert_eq!(usage.used_fraction(), 0.4);
        assert_eq!(usage.dead_codes(), [0, 4, 5, 6, 8, 9]);
        assert!(matches!(
            usage.add(&grid(&[1, 10])?),
            Err(Error::CodeOutOfRange { code: 10, position: 1, len: 10 })
        ));
        assert_eq!(usage.counts()[1], 2);
        usage.reset();
        assert_eq!(usage.dead_codes().len(), 10);
        Ok(())
    }

    #[test]
    fn a_window_forgets() -> anyhow::Result<()> {
        let mut usage = RecentUsage::new(4, 3);
        assert_eq!((usage.used_fraction(), usage.perplexity()), (0.0, 1.0));
        usage.add(&grid(&[1, 2])?)?;
        assert!(usage.used_fraction() == 0.5 && !usage.is_full());
        assert!((usage.perplexity() - 2.0).abs() < 1e-8);
        usage.add(&grid(&[2, 0])?)?;
        assert!(usage.used_fraction() == 0.5 && usage.is_full());
        assert_eq!(usage.codes(), [2, 2, 0]);
        usage.add(&grid(&[3, 3, 3, 3, 3])?)?;
        assert_eq!(usage.used_fraction(), 0.25);
        assert!(usage.add(&grid(&[4])?).is_err());
        Ok(())
    }
}
