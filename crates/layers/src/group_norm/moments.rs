//! Statistics of a group norm's input, apart from normalising by them.

/// Mean and (biased) variance of every group of a group norm's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    groups: Vec<(f64, f64)>,
}

impl Moments {
    pub(super) fn new(groups: Vec<(f64, f64)>) -> Self {
        Self { groups }
    }

    /// Mean and variance of each group.
    pub fn groups(&self) -> &[(f64, f64)] {
        &self.groups
    }
}
