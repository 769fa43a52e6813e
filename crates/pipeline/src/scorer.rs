//! Choosing among pictures that were drawn under one condition.

use codebook::CodeGrid;
use image::RgbImage;

use crate::error::Result;
use crate::generator::{Front, Generator};

/// A picture that may be chosen, and what a scorer may know of it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Its condition, as the model saw it.
    pub front: &'a Front,
    /// Its condition in words: a class, a text, the name of a file.
    pub words: &'a str,
    /// Its codes `[1, H, W]`.
    pub codes: &'a CodeGrid,
    /// Its pixels; none for a scorer that does not look at them.
    pub picture: Option<RgbImage>,
}

/// Says how good pictures are, so that the best of several is kept: rejection sampling.
///
/// The seam is here because what is good is not the generator's to know: the transformer's
/// own likelihood ([`Likelihood`]) is one answer, a classifier or CLIP in another program is
/// another.
pub trait Scorer {
    /// A finite number for each of `candidates`, higher is better.
    ///
    /// # Errors
    /// When one cannot be scored.
    fn score(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>>;

    /// Whether it looks at pixels. Decoding is left out for one that does not.
    fn sees_pictures(&self) -> bool {
        true
    }
}

/// The likelihood of the codes under the transformer that drew them: minus the bits a code
/// of [`Generator::score`].
pub struct Likelihood<'a>(pub &'a Generator);

impl Scorer for Likelihood<'_> {
    fn score(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>> {
        let bits = |candidate: &Candidate<'_>| {
            Ok(-self.0.score(candidate.front, candidate.codes, &mut |_| ())?.mean())
        };
        candidates.iter().map(bits).collect()
    }

    fn sees_pictures(&self) -> bool {
        false
    }
}
