//! What comes in front of the codes.

use candle_core::{DType, Device, Tensor};
use codebook::CodeGrid;

use crate::{Error, Result};

/// The conditions of a batch of sequences, all of one kind and length.
///
/// Where the reference has them: in front of the codes, read by every later
/// position. A class is one position; a code grid of a condition model
/// (segmentation, depth, edges, low resolution, coordinates) is one position a
/// code, row by row; a caption is one position a text embedding.
#[derive(Clone, Debug)]
pub enum Conditions {
    /// Tokens `[B, N]`, u32, of the vocabulary that codes are in: a start token,
    /// a grid, layout tokens.
    Tokens(Tensor),
    /// Classes `[B]`, u32. minGPT-style models look them up among the codes.
    Classes(Tensor),
    /// Text embeddings of a caption.
    Captions {
        /// `[B, N, D]`.
        embeddings: Tensor,
        /// Which of the N are there, per sample; the others are padding that no
        /// position but itself sees. Empty: all are there.
        present: Vec<Vec<bool>>,
    },
}

impl Conditions {
    /// The start token of an unconditional model, in front of `batch` sequences.
    pub fn start(token: u32, batch: usize, device: &Device) -> Result<Self> {
        Ok(Self::Tokens(Tensor::full(token, (batch, 1), device)?))
    }

    /// One class a sequence.
    pub fn classes(classes: &[u32], device: &Device) -> Result<Self> {
        Ok(Self::Classes(Tensor::new(classes, device)?))
    }

    /// One grid a sequence, row by row.
    pub fn grid(grid: &CodeGrid) -> Result<Self> {
        Ok(Self::Tokens(grid.codes().flatten_from(1)?))
    }

    /// One list of tokens a sequence, all of one length.
    pub fn tokens(tokens: &[Vec<u32>], device: &Device) -> Result<Self> {
        let len = tokens.first().map_or(0, Vec::len);
        if let Some(other) = tokens.iter().find(|tokens| tokens.len() != len) {
            return Err(Error::Request(format!(
                "conditions of {len} and {} tokens in one batch; generate them apart",
                other.len()
            )));
        }
        Ok(Self::Tokens(Tensor::from_vec(tokens.concat(), (tokens.len(), len), device)?))
    }

    /// The number of sequences.
    pub fn batch(&self) -> Result<usize> {
        Ok(match self {
            Self::Tokens(tokens) => tokens.dims2()?.0,
            Self::Classes(classes) => classes.dims1()?,
            Self::Captions { embeddings, .. } => embeddings.dims3()?.0,
        })
    }

    /// The positions they take in front of the codes.
    pub fn positions(&self) -> Result<usize> {
        Ok(match self {
            Self::Tokens(tokens) => tokens.dims2()?.1,
            Self::Classes(_) => 1,
            Self::Captions { embeddings, .. } => embeddings.dims3()?.1,
        })
    }

    /// What they are, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tokens(_) => "tokens",
            Self::Classes(_) => "a class",
            Self::Captions { .. } => "a caption",
        }
    }

    /// These, then `others`, as one batch.
    pub fn cat(&self, others: &Self) -> Result<Self> {
        match (self, others) {
            (Self::Tokens(a), Self::Tokens(b)) => Ok(Self::Tokens(Tensor::cat(&[a, b], 0)?)),
            (Self::Classes(a), Self::Classes(b)) => Ok(Self::Classes(Tensor::cat(&[a, b], 0)?)),
            (
                Self::Captions { embeddings: a, present: p },
                Self::Captions { embeddings: b, present: q },
            ) => Ok(Self::Captions {
                embeddings: Tensor::cat(&[a, b], 0)?,
                present: both_present((a, p), (b, q))?,
            }),
            (takes, given) => {
                Err(Error::ConditionKind { takes: takes.kind(), given: given.kind() })
            }
        }
    }

    /// The samples `rows` of them, in that order; one may come more than once.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let pick = |x: &Tensor| -> Result<Tensor> {
            Ok(x.index_select(&Tensor::new(rows, x.device())?, 0)?)
        };
        Ok(match self {
            Self::Tokens(tokens) => Self::Tokens(pick(tokens)?),
            Self::Classes(classes) => Self::Classes(pick(classes)?),
            Self::Captions { embeddings, present } => Self::Captions {
                embeddings: pick(embeddings)?,
                present: if present.is_empty() {
                    Vec::new()
                } else {
                    rows.iter().map(|&row| present[row as usize].clone()).collect()
                },
            },
        })
    }
}

/// Whose embeddings are there in the batch of `a` and `b`.
fn both_present(
    (a, p): (&Tensor, &[Vec<bool>]),
    (b, q): (&Tensor, &[Vec<bool>]),
) -> Result<Vec<Vec<bool>>> {
    if p.is_empty() && q.is_empty() {
        return Ok(Vec::new());
    }
    let mut present = Vec::new();
    for (embeddings, given) in [(a, p), (b, q)] {
        let (batch, len, _) = embeddings.dims3()?;
        if given.is_empty() {
            present.extend(vec![vec![true; len]; batch]);
        } else {
            present.extend_from_slice(given);
        }
    }
    Ok(present)
}

/// Checks that tokens are u32 and have rows in a table of `len`.
pub(crate) fn check_tokens(what: &'static str, tokens: &Tensor, len: usize) -> Result<()> {
    if tokens.dtype() != DType::U32 {
        return Err(Error::Request(format!("{what}s are {:?}; give them as u32", tokens.dtype())));
    }
    let values = tokens.flatten_all()?.to_vec1::<u32>()?;
    match values.iter().enumerate().find(|&(_, &token)| token as usize >= len) {
        Some((position, &token)) => Err(Error::TokenOutOfRange { what, token, position, len }),
        None => Ok(()),
    }
}
