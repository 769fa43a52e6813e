//! A smaller vocabulary: codes renumbered to those that a data set uses.

use std::collections::HashMap;

use candle_core::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{CodeGrid, Error, Result};

/// What a code that is not in use becomes (the reference's `unknown_index`).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// One of the used codes at random, derived from the seed, the position in
    /// the picture and the code.
    Random {
        /// The seed.
        seed: u64,
    },
    /// A code of its own, the last.
    Extra,
    /// This one.
    Index(u32),
}

/// A renumbering of codes (the reference's `remap`): position in the list of
/// used codes, and back.
#[derive(Clone, Debug)]
pub struct Remap {
    used: Vec<u32>,
    position: HashMap<u32, u32>,
    unknown: Unknown,
}

impl Remap {
    /// A renumbering to positions in `used`.
    ///
    /// # Errors
    /// If `used` is empty, or [`Unknown::Index`] is not a position in it.
    pub fn new(used: Vec<u32>, unknown: Unknown) -> Result<Self> {
        let len = used.len();
        if len == 0 || u32::try_from(len + 1).is_err() {
            return Err(Error::Config(format!("remap: {len} used codes; give it 1 to 2^32 - 2")));
        }
        if let Unknown::Index(index) = unknown
            && index as usize >= len
        {
            return Err(Error::Config(format!(
                "remap: unknown codes become {index}, but there are {len} used codes"
            )));
        }
        let mut position = HashMap::with_capacity(len);
        for (i, &code) in used.iter().enumerate() {
            // Of a code listed twice, the first position, as in the reference.
            position.entry(code).or_insert(i as u32);
        }
        Ok(Self { used, position, unknown })
    }

    /// The size of the smaller vocabulary.
    pub fn len(&self) -> usize {
        self.used.len() + usize::from(self.unknown == Unknown::Extra)
    }

    /// Never true: [`new`](Self::new) refuses an empty list.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// Codes of the whole codebook as codes below [`len`](Self::len).
    pub fn to_used(&self, grid: &CodeGrid) -> Result<CodeGrid> {
        let (_, h, w) = grid.dims();
        self.map(grid, |place, code| {
            let unknown = || match self.unknown {
                Unknown::Random { seed } => {
                    let mut rng = ChaCha8Rng::seed_from_u64(seed);
                    rng.set_stream(((place % (h * w)) as u64) << 32 | u64::from(code));
                    rng.random_range(0..self.used.len() as u32)
                }
                Unknown::Extra => self.used.len() as u32,
                Unknown::Index(index) => index,
            };
            Ok(self.position.get(&code).copied().unwrap_or_else(unknown))
        })
    }

    /// Codes below [`len`](Self::len) as codes of the whole codebook. The extra
    /// code becomes the first used one, as in the reference.
    ///
    /// # Errors
    /// If a code is not below `len`.
    pub fn to_all(&self, grid: &CodeGrid) -> Result<CodeGrid> {
        self.map(grid, |position, code| match self.used.get(code as usize) {
            Some(&all) => Ok(all),
            None if (code as usize) < self.len() => Ok(self.used[0]),
            None => Err(Error::CodeOutOfRange { code, position, len: self.len() }),
        })
    }

    fn map(
        &self,
        grid: &CodeGrid,
        mut code: impl FnMut(usize, u32) -> Result<u32>,
    ) -> Result<CodeGrid> {
        let codes = grid.to_vec()?.into_iter().enumerate().map(|(i, old)| code(i, old));
        let device: &Device = grid.codes().device();
        CodeGrid::from_vec(codes.collect::<Result<_>>()?, grid.dims(), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(codes: &[u32], batch: usize) -> Result<CodeGrid> {
        CodeGrid::from_vec(codes.to_vec(), (batch, 1, codes.len() / batch), &Device::Cpu)
    }

    #[test]
    fn used_codes_go_there_and_back() -> anyhow::Result<()> {
        for unknown in [Unknown::Extra, Unknown::Index(1), Unknown::Random { seed: 5 }] {
            let remap = Remap::new(vec![7, 3, 9, 3], unknown)?;
            let small = remap.to_used(&grid(&[3, 9, 7, 7], 1)?)?;
            assert_eq!(small.to_vec()?, [1, 2, 0, 0]);
            assert_eq!(remap.to_all(&small)?.to_vec()?, [3, 9, 7, 7]);
        }
        Ok(())
    }

    #[test]
    fn unknown_codes_become_what_was_asked() -> anyhow::Result<()> {
        let codes = grid(&[4, 3], 1)?;
        let extra = Remap::new(vec![7, 3], Unknown::Extra)?;
        assert_eq!(extra.len(), 3);
        assert_eq!(extra.to_used(&codes)?.to_vec()?, [2, 1]);
        assert_eq!(extra.to_all(&extra.to_used(&codes)?)?.to_vec()?, [7, 3]);
        let index = Remap::new(vec![7, 3], Unknown::Index(1))?;
        assert_eq!((index.len(), index.to_used(&codes)?.to_vec()?), (2, vec![1, 1]));
        assert!(matches!(
            index.to_all(&grid(&[0, 2], 1)?),
            Err(Error::CodeOutOfRange { code: 2, position: 1, len: 2 })
        ));
        Ok(())
    }

    #[test]
    fn random_codes_do_not_depend_on_the_batch() -> anyhow::Result<()> {
        let remap = Remap::new((0..100).map(|i| i * 2).collect(), Unknown::Random { seed: 3 })?;
        let one = remap.to_used(&grid(&[1, 3, 1, 11], 1)?)?.to_vec()?;
        let two = remap.to_used(&grid(&[1, 5, 9, 13, 1, 3, 1, 11], 2)?)?;
        assert_eq!(two.get(1)?.to_vec()?, one);
        assert!(one.iter().all(|&code| code < 100));
        assert_ne!(one[0], one[2]);
        Ok(())
    }

    #[test]
    fn refuses_what_cannot_be_undone() {
        assert!(Remap::new(vec![], Unknown::Extra).is_err());
        assert!(Remap::new(vec![1, 2], Unknown::Index(2)).is_err());
    }
}
