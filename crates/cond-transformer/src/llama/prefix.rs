//! The class or the caption in front of the codes.

use candle_core::{D, Tensor};
use candle_nn::{Embedding, Init, Module, VarBuilder};

use super::{LlamaConfig, PrefixConfig};
use crate::condition::check_tokens;
use crate::linear::{INIT, Linear, Matrices, linear_no_bias};
use crate::{Conditions, Error, Result, WeightFormat};

/// How a condition becomes positions in front of the codes.
#[derive(Clone, Debug)]
pub(super) enum Prefix {
    /// Keys `embedding_table.weight [classes + 1, C]`.
    Class { table: Embedding, classes: usize },
    /// Keys `cap_proj.{fc1,fc2}.weight`, `uncond_embedding [N, D]`.
    Caption { fc1: Linear, fc2: Linear, absent: Tensor },
}

impl Prefix {
    pub(super) fn new(config: &LlamaConfig, vb: VarBuilder) -> candle_core::Result<Self> {
        let width = config.dim;
        Ok(match config.prefix {
            PrefixConfig::Class { classes } => {
                let shape = (classes + 1, width);
                let table = vb.pp("embedding_table").get_with_hints(shape, "weight", INIT)?;
                Self::Class { table: Embedding::new(table, width), classes }
            }
            PrefixConfig::Caption { dim, positions } => {
                let project = vb.pp("cap_proj");
                // Read once a caption, not once a code.
                let dense = Matrices::Made(WeightFormat::F32);
                let spread = Init::Randn { mean: 0.0, stdev: (dim as f64).powf(-0.5) };
                Self::Caption {
                    fc1: linear_no_bias(dim, width, INIT, dense, project.pp("fc1"))?,
                    fc2: linear_no_bias(width, width, INIT, dense, project.pp("fc2"))?,
                    absent: vb.get_with_hints((positions, dim), "uncond_embedding", spread)?,
                }
            }
        })
    }

    /// `[B, N, C]`, and which positions are padding.
    pub(super) fn embed(&self, conditions: &Conditions) -> Result<(Tensor, Vec<Vec<bool>>)> {
        match (self, conditions) {
            (Self::Class { table, classes }, Conditions::Classes(ids)) => {
                check_tokens("class", ids, classes + 1)?;
                Ok((table.forward(&ids.unsqueeze(1)?)?, Vec::new()))
            }
            (Self::Caption { fc1, fc2, absent }, Conditions::Captions { embeddings, present }) => {
                check_caption(embeddings, present, absent.dims2()?)?;
                let x =
                    fc2.forward(&fc1.forward(&embeddings.to_dtype(absent.dtype())?)?.gelu()?)?;
                let padding =
                    present.iter().map(|row| row.iter().map(|there| !there).collect()).collect();
                Ok((x, padding))
            }
            _ => Err(Error::ConditionKind { takes: self.takes(), given: conditions.kind() }),
        }
    }

    /// The conditions, with those of `dropped` samples replaced by what the model
    /// learned for the absence of one. Gradients reach that replacement.
    pub(super) fn drop(&self, conditions: &Conditions, dropped: &[bool]) -> Result<Conditions> {
        if dropped.len() != conditions.batch()? {
            return Err(Error::Request(format!(
                "{} flags for {} conditions",
                dropped.len(),
                conditions.batch()?
            )));
        }
        match (self, conditions) {
            (Self::Class { classes, .. }, Conditions::Classes(ids)) => {
                let values = ids.to_vec1::<u32>()?;
                let none = *classes as u32;
                let values: Vec<_> = values
                    .iter()
                    .zip(dropped)
                    .map(|(&id, &dropped)| if dropped { none } else { id })
                    .collect();
                Conditions::classes(&values, ids.device())
            }
            (Self::Caption { absent, .. }, Conditions::Captions { embeddings, present }) => {
                check_caption(embeddings, present, absent.dims2()?)?;
                let flags: Vec<u8> = dropped.iter().map(|&dropped| dropped.into()).collect();
                let flags = Tensor::from_vec(flags, (dropped.len(), 1, 1), embeddings.device())?;
                let absent = absent.unsqueeze(0)?.broadcast_as(embeddings.shape())?;
                let kept = embeddings.to_dtype(absent.dtype())?;
                let flags = flags.broadcast_as(embeddings.shape())?;
                Ok(Conditions::Captions {
                    embeddings: flags.where_cond(&absent.contiguous()?, &kept.contiguous()?)?,
                    present: present.clone(),
                })
            }
            _ => Err(Error::ConditionKind { takes: self.takes(), given: conditions.kind() }),
        }
    }

    fn takes(&self) -> &'static str {
        match self {
            Self::Class { .. } => "a class",
            Self::Caption { .. } => "a caption",
        }
    }
}

fn check_caption(
    embeddings: &Tensor,
    present: &[Vec<bool>],
    (positions, dim): (usize, usize),
) -> Result<()> {
    let (batch, len, width) = embeddings.dims3()?;
    let masks = present.is_empty()
        || (present.len() == batch && present.iter().all(|row| row.len() == len));
    if (len, width) != (positions, dim) || !masks {
        return Err(Error::Shape {
            op: "caption",
            what: "embeddings",
            shape: vec![batch, len, embeddings.dim(D::Minus1)?],
            expected: format!(
                "[batch, {positions}, {dim}] and no flags, or {positions} a sample; \
                 pad captions on the left"
            ),
        });
    }
    Ok(())
}
