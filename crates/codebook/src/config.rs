//! Quantizers as data.

use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::{
    AnyQuantizer, EmaQuantizer, Error, EuclideanQuantizer, GumbelQuantizer, NormalizedQuantizer,
    Result,
};

/// Which quantizer, and its sizes: part of a model's configuration.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum QuantizerConfig {
    /// [`EuclideanQuantizer`]; key `embedding.weight`.
    Euclidean {
        /// The number of codes.
        len: usize,
        /// The length of their vectors.
        dim: usize,
        /// The weight that one of the two losses gets.
        #[serde(default = "default_beta")]
        beta: f64,
        /// Whether `beta` is on the codebook loss, as in the reference and all
        /// published models, instead of the commitment loss.
        #[serde(default = "default_legacy_beta")]
        legacy_beta: bool,
    },
    /// [`NormalizedQuantizer`]; key `embedding.weight`.
    Normalized {
        /// The number of codes.
        len: usize,
        /// The length of their vectors.
        dim: usize,
        /// The weight of the commitment loss.
        #[serde(default = "default_beta")]
        beta: f64,
        /// The weight of the entropy loss; 0 leaves it out.
        #[serde(default)]
        entropy_ratio: f64,
    },
    /// [`GumbelQuantizer`]; keys `embed.weight`, `proj.weight`, `proj.bias`.
    Gumbel {
        /// The number of codes.
        len: usize,
        /// The length of their vectors.
        dim: usize,
        /// The channels of the maps to quantize: the reference's `z_channels`.
        features: usize,
        /// The weight of the divergence from the uniform distribution.
        #[serde(default = "default_kl_weight")]
        kl_weight: f64,
        /// Whether training samples are one code (hard) or a mixture.
        #[serde(default = "default_straight_through")]
        straight_through: bool,
    },
    /// [`EmaQuantizer`]; keys [`EmaQuantizer::KEYS`].
    Ema {
        /// The number of codes.
        len: usize,
        /// The length of their vectors.
        dim: usize,
        /// The weight of the commitment loss.
        #[serde(default = "default_beta")]
        beta: f64,
        /// What a moving average keeps at each update.
        #[serde(default = "default_decay")]
        decay: f64,
        /// The Laplace smoothing of the cluster sizes.
        #[serde(default = "default_eps")]
        eps: f64,
    },
}

fn default_beta() -> f64 {
    0.25
}

fn default_legacy_beta() -> bool {
    true
}

/// The default of `GumbelQuantize`; the published f8 model has 1e-8.
fn default_kl_weight() -> f64 {
    5e-4
}

fn default_straight_through() -> bool {
    true
}

fn default_decay() -> f64 {
    0.99
}

fn default_eps() -> f64 {
    1e-5
}

impl QuantizerConfig {
    /// The number of codes.
    pub fn len(&self) -> usize {
        match *self {
            Self::Euclidean { len, .. }
            | Self::Normalized { len, .. }
            | Self::Gumbel { len, .. }
            | Self::Ema { len, .. } => len,
        }
    }

    /// Whether it has no codes, which [`validate`](Self::validate) refuses.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of the vectors that codes stand for.
    pub fn dim(&self) -> usize {
        match *self {
            Self::Euclidean { dim, .. }
            | Self::Normalized { dim, .. }
            | Self::Gumbel { dim, .. }
            | Self::Ema { dim, .. } => dim,
        }
    }

    /// The channels of the feature maps to quantize.
    pub fn features(&self) -> usize {
        match *self {
            Self::Gumbel { features, .. } => features,
            _ => self.dim(),
        }
    }

    /// Checks that the numbers describe a quantizer.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that does not.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, message: String| {
            if ok { Ok(()) } else { Err(Error::Config(message)) }
        };
        let (len, dim, features) = (self.len(), self.dim(), self.features());
        check(len > 0, "len is 0; give it the number of codes".to_owned())?;
        check(
            u32::try_from(len).is_ok(),
            format!("len is {len}; codes are u32, so at most {}", u32::MAX),
        )?;
        check(dim > 0, "dim is 0; give it the length of a code's vector".to_owned())?;
        check(features > 0, "features is 0; give it the channels of the maps".to_owned())?;
        let weight = |name: &str, value: f64| {
            check(
                value.is_finite() && value >= 0.0,
                format!("{name} is {value}; it must be 0 or more"),
            )
        };
        match *self {
            Self::Euclidean { beta, .. } => weight("beta", beta),
            Self::Normalized { beta, entropy_ratio, .. } => {
                weight("beta", beta)?;
                weight("entropy_ratio", entropy_ratio)
            }
            Self::Gumbel { kl_weight, .. } => weight("kl_weight", kl_weight),
            Self::Ema { beta, decay, eps, .. } => {
                weight("beta", beta)?;
                check(
                    (0.0..1.0).contains(&decay),
                    format!("decay is {decay}; it must be at least 0 and below 1"),
                )?;
                check(eps > 0.0 && eps.is_finite(), format!("eps is {eps}; it must be positive"))
            }
        }
    }

    /// Loads the quantizer from `vb`, at the keys that each kind names.
    ///
    /// # Errors
    /// If the configuration is not valid, or a tensor is missing or mis-shaped.
    pub fn build(&self, vb: VarBuilder) -> Result<AnyQuantizer> {
        self.validate()?;
        Ok(match *self {
            Self::Euclidean { len, dim, beta, legacy_beta } => {
                AnyQuantizer::Euclidean(EuclideanQuantizer::load(len, dim, beta, legacy_beta, vb)?)
            }
            Self::Normalized { len, dim, beta, entropy_ratio } => AnyQuantizer::Normalized(
                NormalizedQuantizer::load(len, dim, beta, entropy_ratio, vb)?,
            ),
            Self::Gumbel { len, dim, features, kl_weight, straight_through } => {
                AnyQuantizer::Gumbel(GumbelQuantizer::load(
                    len,
                    dim,
                    features,
                    kl_weight,
                    straight_through,
                    vb,
                )?)
            }
            Self::Ema { len, dim, beta, decay, eps } => {
                AnyQuantizer::Ema(EmaQuantizer::load(len, dim, beta, decay, eps, vb)?)
            }
        })
    }
}
