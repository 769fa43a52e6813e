//! The nearest row, with rows as moving averages of the vectors they stand for.

mod state;

pub use state::EmaState;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::assign::{self, Assignment, codebook_dims};
use crate::feature_map::{self, FeatureMap};
use crate::nearest::Watch;
use crate::{CodeGrid, Error, Losses, Quantized, Quantizer, Result};

const OP: &str = "ema quantizer";

/// The nearest row in Euclidean distance, where no gradient trains the rows
/// (taming `EMAVectorQuantizer`; van den Oord et al. 2017, appendix A.1).
///
/// The loss is `beta * commitment`. After each training pass,
/// [`update`](Self::update) returns the new [`EmaState`], which the caller
/// writes into the variables that the quantizer was loaded from.
#[derive(Clone, Debug)]
pub struct EmaQuantizer {
    state: EmaState,
    len: usize,
    dim: usize,
    beta: f64,
    decay: f64,
    eps: f64,
}

impl EmaQuantizer {
    /// The keys of what [`update`](Self::update) changes, in the order of
    /// [`EmaState::tensors`]: buffers, not parameters of an optimiser.
    pub const KEYS: [&'static str; 3] =
        ["embedding.weight", "embedding.cluster_size", "embedding.embed_avg"];

    /// A quantizer over the rows of `state`; `decay` (0.99) is what a moving
    /// average keeps at each update, `eps` (1e-5) smooths the cluster sizes.
    pub fn new(state: EmaState, beta: f64, decay: f64, eps: f64) -> Result<Self> {
        let (len, dim) = codebook_dims(OP, &state.codebook)?;
        let check = |what, tensor: &Tensor, expected: &[usize]| {
            if tensor.dims() == expected {
                return Ok(());
            }
            let shape = tensor.dims().to_vec();
            Err(Error::Shape { op: OP, what, shape, expected: format!("{expected:?}") })
        };
        check("cluster_size", &state.cluster_size, &[len])?;
        check("embed_avg", &state.embed_avg, &[len, dim])?;
        Ok(Self { state, len, dim, beta, decay, eps })
    }

    /// A quantizer of `len` codes of length `dim` at [`KEYS`](Self::KEYS).
    ///
    /// Independent initial values cannot agree with each other: a new model
    /// starts from [`initial_state`](Self::initial_state).
    pub fn load(
        len: usize,
        dim: usize,
        beta: f64,
        decay: f64,
        eps: f64,
        vb: VarBuilder,
    ) -> Result<Self> {
        let normal = Init::Randn { mean: 0.0, stdev: 1.0 };
        let [codebook, cluster_size, embed_avg] = Self::KEYS;
        let state = EmaState {
            codebook: vb.get_with_hints((len, dim), codebook, normal)?,
            cluster_size: vb.get_with_hints(len, cluster_size, Init::Const(1.0))?,
            embed_avg: vb.get_with_hints((len, dim), embed_avg, normal)?,
        };
        Self::new(state, beta, decay, eps)
    }

    /// The codebook and the averages behind it.
    pub fn state(&self) -> &EmaState {
        &self.state
    }

    /// The state in which each row of the codebook is the average of one vector,
    /// itself: where training starts.
    pub fn initial_state(&self) -> Result<EmaState> {
        EmaState::from_codebook(&self.state.codebook, self.eps)
    }

    /// The state after a training pass that gave the vectors of `z`
    /// `[B, D, H, W]` the `codes` `[B, H, W]` (eq. 6 to 8 of appendix A.1).
    ///
    /// Write it back before the next pass. No gradient flows.
    pub fn update(&self, z: &Tensor, codes: &CodeGrid) -> Result<EmaState> {
        let map = FeatureMap::new(OP, &z.detach(), self.dim)?;
        if codes.dims() != map.size {
            let (b, h, w) = map.size;
            return Err(Error::Shape {
                op: OP,
                what: "codes",
                shape: codes.codes().dims().to_vec(),
                expected: format!("[{b}, {h}, {w}]"),
            });
        }
        codes.check_below(self.len)?;
        let codes = codes.codes().flatten_all()?;
        self.state.updated(&map.vectors, &codes, self.decay, self.eps)
    }

    /// `eps`, which [`EmaState::revived`] needs.
    pub fn eps(&self) -> f64 {
        self.eps
    }
}

impl EmaQuantizer {
    fn quantize_with(&self, z: &Tensor, watch: Watch) -> Result<Quantized> {
        let map = FeatureMap::new(OP, z, self.dim)?;
        let assigned = Assignment::new(OP, map, &self.state.codebook.detach(), watch)?;
        let losses = Losses::new(assigned.vectors(), assigned.rows(), 0.0, self.beta)?;
        assigned.quantized(losses)
    }
}

impl Quantizer for EmaQuantizer {
    fn quantize(&self, z: &Tensor) -> Result<Quantized> {
        self.quantize_with(z, Watch::Wait)
    }

    fn quantize_without_waiting(&self, z: &Tensor) -> Result<Quantized> {
        self.quantize_with(z, Watch::Trust)
    }

    fn codes(&self, z: &Tensor) -> Result<CodeGrid> {
        assign::codes(&FeatureMap::new(OP, &z.detach(), self.dim)?, &self.state.codebook)
    }

    fn embed(&self, codes: &CodeGrid) -> Result<Tensor> {
        feature_map::embed(&self.state.codebook.detach(), codes)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn dim(&self) -> usize {
        self.dim
    }
}
