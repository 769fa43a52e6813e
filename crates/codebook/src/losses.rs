//! Codebook and commitment losses, and the straight-through estimator
//! (van den Oord et al. 2017, eq. 3).

use candle_core::{Result, Tensor};

/// The losses of one pass through a quantizer: scalars.
#[derive(Clone, Debug)]
pub struct Losses {
    /// `mean((z_q - sg[z])^2)`, unweighted: pulls codes to vectors. Zero for Gumbel.
    pub codebook: Tensor,
    /// `mean((sg[z_q] - z)^2)`, unweighted: pulls vectors to codes. Zero for Gumbel.
    pub commitment: Tensor,
    /// What to add to the loss of the model: everything here with its weight.
    pub total: Tensor,
    /// A further term, as it is in `total` (weighted): the entropy loss of the
    /// normalised quantizer, the divergence of the Gumbel quantizer.
    pub extra: Option<Tensor>,
}

impl Losses {
    /// The two mean squares between `vectors` and the `rows` of their codes
    /// (`[N, D]`), with `total = codebook_weight * codebook + commitment_weight * commitment`.
    pub(crate) fn new(
        vectors: &Tensor,
        rows: &Tensor,
        codebook_weight: f64,
        commitment_weight: f64,
    ) -> Result<Self> {
        let codebook = mean_square(rows, &vectors.detach())?;
        let commitment = mean_square(&rows.detach(), vectors)?;
        let total = ((&codebook * codebook_weight)? + (&commitment * commitment_weight)?)?;
        Ok(Self { codebook, commitment, total, extra: None })
    }
}

fn mean_square(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a - b)?.sqr()?.mean_all()
}

/// `z + sg[z_q - z]`: the value of `z_q` up to rounding, the gradient of `z`.
pub(crate) fn straight_through(z: &Tensor, z_q: &Tensor) -> Result<Tensor> {
    z + (z_q.detach() - z.detach())?
}
