//! Statistics of a group norm's input, apart from normalising by them.

use candle_core::Result;

/// Mean and (biased) variance of every group of a group norm's input.
///
/// A large picture that passes through a network in tiles has one mean and one
/// variance per group all the same: [`merge`](Self::merge) makes them from
/// those of the tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Elements per group.
    count: f64,
    /// Mean and variance of each group.
    groups: Vec<(f64, f64)>,
}

impl Moments {
    pub(super) fn new(count: usize, groups: Vec<(f64, f64)>) -> Self {
        Self { count: count as f64, groups }
    }

    /// Mean and variance of each group.
    pub fn groups(&self) -> &[(f64, f64)] {
        &self.groups
    }

    /// Makes these the moments of both inputs together, each element counting
    /// once (Chan, Golub, LeVeque 1979, eq. 2.1).
    ///
    /// # Errors
    /// When the numbers of groups differ.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.groups.len() != other.groups.len() {
            candle_core::bail!(
                "group_norm: moments of {} and of {} groups cannot be merged",
                self.groups.len(),
                other.groups.len()
            )
        }
        let count = self.count + other.count;
        if count > 0.0 {
            let (own, others) = (self.count / count, other.count / count);
            for ((mean, variance), (mean2, variance2)) in self.groups.iter_mut().zip(&other.groups)
            {
                let apart = mean2 - *mean;
                *mean += others * apart;
                *variance = own * *variance + others * variance2 + own * others * apart * apart;
            }
        }
        self.count = count;
        Ok(())
    }
}
