//! Dead codes replaced by vectors that the encoder makes.
//!
//! A code that no vector is nearest to gets no gradient and stays dead. Placing
//! it on a vector of the current batch brings it back to where the data is
//! (Dhariwal et al. 2020, "Jukebox", appendix B.3, "random restarts").

use candle_core::{DType, Tensor, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

const OP: &str = "code revival";

/// What remembers the past of a codebook's rows: an optimiser's moments.
///
/// They belong to the dead code and would move the revived one.
pub trait ReviveState {
    /// Sets the state of the codebook's `rows` to what it is before any step.
    fn reset_rows(&mut self, rows: &[u32]) -> candle_core::Result<()>;
}

/// Which rows of a codebook to replace, and by what.
#[derive(Clone, Debug)]
pub struct Revival {
    rows: Vec<u32>,
    values: Tensor,
}

impl Revival {
    /// Gives each of the `dead` codes one of `vectors` `[N, D]`, drawn without
    /// replacement from (`seed`, `position`), for example the training step.
    ///
    /// With fewer vectors than dead codes, the first ones are revived: of two
    /// equal rows the higher would be dead again. `vectors` come from
    /// [`AnyQuantizer::revival_vectors`](crate::AnyQuantizer::revival_vectors).
    ///
    /// # Errors
    /// If a drawn vector is not finite.
    pub fn draw(dead: &[u32], vectors: &Tensor, seed: u64, position: u64) -> Result<Self> {
        let (count, _) = vectors.dims2()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(position);
        let rows = dead[..dead.len().min(count)].to_vec();
        let drawn = rand::seq::index::sample(&mut rng, count, rows.len());
        let drawn: Vec<u32> = drawn.into_iter().map(|index| index as u32).collect();
        let drawn = Tensor::from_vec(drawn, rows.len(), vectors.device())?;
        let values = vectors.detach().contiguous()?.index_select(&drawn, 0)?;
        let revival = Self { rows, values };
        revival.check_finite()?;
        Ok(revival)
    }

    /// The rows to replace, none twice.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Their new values, `[rows, D]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Whether there is nothing to replace.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the rows into `codebook` `[K, D]` and resets them in `states`.
    ///
    /// The moving averages of an EMA codebook are revived by
    /// [`EmaState::revived`](crate::EmaState::revived) instead.
    pub fn apply(&self, codebook: &Var, states: &mut [&mut dyn ReviveState]) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let values = self.values.to_dtype(codebook.dtype())?;
        codebook.set(&self.replace_in(codebook.as_tensor(), &values)?)?;
        for state in states {
            state.reset_rows(&self.rows)?;
        }
        Ok(())
    }

    /// `table` `[K, ...]` with the revived rows replaced by `values` `[rows, ...]`.
    pub(crate) fn replace_in(&self, table: &Tensor, values: &Tensor) -> Result<Tensor> {
        let table = table.detach();
        if self.is_empty() {
            return Ok(table);
        }
        let values = values.contiguous()?;
        let mut per_row = vec![1; values.rank()];
        per_row[0] = self.rows.len();
        let index = self.index(&table)?.reshape(per_row)?.broadcast_as(values.shape())?;
        Ok(table.scatter(&index.contiguous()?, &values, 0)?)
    }

    /// The revived rows of `table` `[K, ...]`.
    pub(crate) fn select(&self, table: &Tensor) -> Result<Tensor> {
        Ok(table.index_select(&self.index(table)?, 0)?)
    }

    fn index(&self, table: &Tensor) -> Result<Tensor> {
        let len = table.dim(0)?;
        if let Some(position) = self.rows.iter().position(|&row| row as usize >= len) {
            return Err(Error::CodeOutOfRange { code: self.rows[position], position, len });
        }
        Ok(Tensor::new(self.rows.as_slice(), table.device())?)
    }

    fn check_finite(&self) -> Result<()> {
        let values = self.values.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        for (row, values) in values.iter().enumerate() {
            if let Some(column) = values.iter().position(|value| !value.is_finite()) {
                let value = values[column];
                return Err(Error::NotFinite { op: OP, what: "drawn vectors", row, column, value });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::EmaState;

    struct Moments(Vec<f32>);

    impl ReviveState for Moments {
        fn reset_rows(&mut self, rows: &[u32]) -> candle_core::Result<()> {
            rows.iter().for_each(|&row| self.0[row as usize] = 0.0);
            Ok(())
        }
    }

    fn vectors() -> Result<Tensor> {
        Ok(Tensor::arange(100f32, 160., &Device::Cpu)?.reshape((20, 3))?)
    }

    #[test]
    fn replaces_dead_rows_and_forgets_their_past() -> anyhow::Result<()> {
        let mut table = [[0.5f32, -1.0, 2.0]; 6];
        table[4] = [f32::NAN, f32::INFINITY, 0.0];
        let codebook = Var::new(&table, &Device::Cpu)?;
        let revival = Revival::draw(&[1, 4], &vectors()?, 7, 0)?;
        let (mut first, mut second) = (Moments(vec![1.0; 6]), Moments(vec![2.0; 6]));
        revival.apply(&codebook, &mut [&mut first, &mut second])?;
        assert_eq!(first.0, [1., 0., 1., 1., 0., 1.]);
        assert_eq!(second.0, [2., 0., 2., 2., 0., 2.]);
        let (rows, values) = (codebook.to_vec2::<f32>()?, revival.values().to_vec2::<f32>()?);
        let all = vectors()?.to_vec2::<f32>()?;
        for (i, row) in rows.iter().enumerate() {
            match revival.rows().iter().position(|&revived| revived as usize == i) {
                Some(drawn) => assert!(*row == values[drawn] && all.contains(row)),
                None => assert_eq!(*row, [0.5, -1.0, 2.0]),
            }
        }
        assert_ne!(rows[1], rows[4]);
        Ok(())
    }

    #[test]
    fn depends_on_seed_and_position_only() -> anyhow::Result<()> {
        let dead: Vec<u32> = (0..10).collect();
        let draw = |seed, position| -> Result<_> {
            Ok(Revival::draw(&dead, &vectors()?, seed, position)?.values().to_vec2::<f32>()?)
        };
        assert_eq!(draw(1, 2)?, draw(1, 2)?);
        assert_ne!(draw(1, 2)?, draw(1, 3)?);
        assert_ne!(draw(1, 2)?, draw(2, 2)?);
        Ok(())
    }

    #[test]
    fn revives_no_more_codes_than_there_are_vectors() -> anyhow::Result<()> {
        let dead: Vec<u32> = (0..30).collect();
        let revival = Revival::draw(&dead, &vectors()?, 1, 0)?;
        assert_eq!(revival.rows(), &dead[..20]);
        let mut drawn = revival.values().to_vec2::<f32>()?;
        drawn.sort_by(|a, b| a[0].total_cmp(&b[0]));
        assert_eq!(drawn, vectors()?.to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn nothing_dead_or_nothing_to_draw_changes_nothing() -> anyhow::Result<()> {
        let codebook = Var::ones((4, 3), DType::F32, &Device::Cpu)?;
        let none = Tensor::zeros((0, 3), DType::F32, &Device::Cpu)?;
        for revival in [Revival::draw(&[], &vectors()?, 1, 0)?, Revival::draw(&[1], &none, 1, 0)?] {
            assert!(revival.is_empty());
            revival.apply(&codebook, &mut [])?;
        }
        assert_eq!(codebook.to_vec2::<f32>()?, [[1.0; 3]; 4]);
        Ok(())
    }

    #[test]
    fn refuses_what_would_break_the_codebook() -> anyhow::Result<()> {
        let nan = Tensor::full(f32::NAN, (2, 3), &Device::Cpu)?;
        assert!(matches!(Revival::draw(&[0], &nan, 1, 0), Err(Error::NotFinite { .. })));
        let codebook = Var::ones((4, 3), DType::F32, &Device::Cpu)?;
        let beyond = Revival::draw(&[4], &vectors()?, 1, 0)?;
        assert!(matches!(beyond.apply(&codebook, &mut []), Err(Error::CodeOutOfRange { .. })));
        Ok(())
    }

    #[test]
    fn averages_agree_with_revived_rows() -> anyhow::Result<()> {
        let eps = 1e-5;
        let state = EmaState {
            codebook: Tensor::new(&[[1f64, 2., 3.], [9e9, 9e9, 9e9], [4., 5., 6.]], &Device::Cpu)?,
            cluster_size: Tensor::new(&[3f64, 0., 2.], &Device::Cpu)?,
            embed_avg: Tensor::new(&[[3f64, 6., 9.], [1., 1., 1.], [8., 10., 12.]], &Device::Cpu)?,
        };
        let vectors = vectors()?.to_dtype(DType::F64)?;
        let revived = state.revived(&Revival::draw(&[1], &vectors, 1, 0)?, eps)?;
        assert_eq!(revived.cluster_size.to_vec1::<f64>()?, [3., 1., 2.]);
        let total = 6.0;
        let smoothed = (1.0 + eps) / (total + 3.0 * eps) * total;
        let (row, average) = (revived.codebook.get(1)?, (revived.embed_avg.get(1)? / smoothed)?);
        let difference = (row - average)?.abs()?.max(0)?.to_scalar::<f64>()?;
        assert!(difference < 1e-9, "{difference}");
        assert_eq!(revived.embed_avg.get(0)?.to_vec1::<f64>()?, [3., 6., 9.]);
        Ok(())
    }
}
