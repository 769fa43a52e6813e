//! Which rows of a transformer's tables become which of one that goes on from it.
//!
//! Codes stay what they are. Tokens and positions of the condition are carried over where
//! both models mean the same by them: a class by its name, a code of a map by the codec's
//! identity, a word by the tokenizer, which comes along. All other rows are new.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use pipeline::{Architecture, ConditionConfig, GridCondition, TransformerConfig};

/// Where each row of a table comes from; none: it is new.
type Rows = Vec<Option<u32>>;

/// The rows of a transformer, by where they come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carry {
    /// Of the tables of tokens.
    tokens: Rows,
    /// Of the learned positions.
    positions: Rows,
    /// Of the table of classes (LlamaGen).
    classes: Rows,
}

/// What a model is that goes on from another.
pub(super) struct Heir<'a> {
    pub architecture: &'a Architecture,
    pub condition: &'a ConditionConfig,
    /// Positions of the condition.
    pub positions: usize,
    /// Kinds of codes.
    pub codes: usize,
}

impl Carry {
    /// What `heir` takes from `from`; both have the same codes in the same order and, with
    /// learned positions, on grids of the same size.
    pub(super) fn new(from: &TransformerConfig, heir: &Heir<'_>) -> Self {
        let condition = same_tokens(&from.condition, heir.condition);
        let codes = (0..heir.codes as u32).map(|code| (code, code));
        match heir.architecture {
            Architecture::Gpt(config) => Self {
                tokens: rows(config.vocab_size, codes.chain(condition)),
                positions: positions(from, heir, config.block_size),
                classes: Rows::new(),
            },
            Architecture::Llama(config) => Self {
                tokens: rows(config.vocab_size, codes),
                positions: Rows::new(),
                classes: rows(heir.classes(), condition),
            },
        }
    }

    /// How many rows of the condition are new.
    pub(super) fn new_rows(&self) -> usize {
        self.tokens.iter().chain(&self.classes).filter(|row| row.is_none()).count()
    }

    /// The value of every tensor of `fresh`, from `old` where it is carried over.
    ///
    /// # Errors
    /// Naming a tensor that `old` does not have, or has in another size.
    pub(super) fn values<'a>(
        &self,
        fresh: impl IntoIterator<Item = (&'a String, &'a Tensor)>,
        old: &BTreeMap<String, Tensor>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let value = |(name, fresh): (&String, &Tensor)| -> Result<_> {
            let value = match (old.get(name), self.rows_of(name)) {
                (Some(old), Some((rows, dim))) => merged(old, fresh, rows, dim)?,
                (Some(old), None) => old.clone(),
                // A model of captions has no table of classes.
                (None, _) if name.starts_with(CLASSES) => fresh.clone(),
                (None, _) => return Err(anyhow::anyhow!("it has no {name}")),
            };
            let (is, should) = (value.dims(), fresh.dims());
            ensure!(is == should, "its {name} is {is:?}, and {should:?} here");
            Ok((name.clone(), value))
        };
        fresh.into_iter().map(value).collect()
    }

    /// The rows of the table `name`, and the dimension that they are along.
    fn rows_of(&self, name: &str) -> Option<(&Rows, usize)> {
        match name {
            "tok_emb.weight" | "head.weight" | "tok_embeddings.weight" | "output.weight" => {
                Some((&self.tokens, 0))
            }
            "pos_emb" => Some((&self.positions, 1)),
            _ if name.starts_with(CLASSES) => Some((&self.classes, 0)),
            _ => None,
        }
    }
}

/// What the names of LlamaGen's condition begin with.
const CLASSES: &str = "cls_embedding.";

impl Heir<'_> {
    /// Rows of a table of classes of its own: one for each and one for none.
    fn classes(&self) -> usize {
        match self.condition {
            ConditionConfig::Class(condition) => condition.names.len() + 1,
            _ => 2,
        }
    }
}

fn rows(count: usize, pairs: impl IntoIterator<Item = (u32, u32)>) -> Rows {
    let mut rows = vec![None; count];
    for (to, from) in pairs {
        if let Some(row) = rows.get_mut(to as usize) {
            *row = Some(from);
        }
    }
    rows
}

/// `old`'s rows where `rows` has one, `fresh`'s elsewhere.
fn merged(old: &Tensor, fresh: &Tensor, rows: &Rows, dim: usize) -> Result<Tensor> {
    let (known, count) = (old.dim(dim)? as u32, fresh.dim(dim)?);
    ensure!(rows.len() == count, "{} rows are planned for a table of {count}", rows.len());
    let pick = rows.iter().zip(known..).map(|(row, new)| match row {
        Some(row) if *row < known => *row,
        _ => new,
    });
    let pick = Tensor::from_iter(pick, old.device())?;
    let fresh = fresh.to_device(old.device())?.to_dtype(old.dtype())?;
    let both = Tensor::cat(&[old, &fresh], dim).context("tables of another width")?;
    Ok(both.index_select(&pick, dim)?)
}

/// Pairs of tokens (to, from) that mean the same as conditions.
fn same_tokens(from: &ConditionConfig, to: &ConditionConfig) -> Vec<(u32, u32)> {
    let mut nulls = (None, None);
    let mut pairs = Vec::new();
    match (from, to) {
        (ConditionConfig::Start(from), ConditionConfig::Start(to)) => {
            pairs.push((to.token, from.token));
        }
        (ConditionConfig::Class(from), ConditionConfig::Class(to)) => {
            nulls = (to.null, from.null);
            for (number, name) in to.names.iter().enumerate() {
                if let Some(known) = from.names.iter().position(|known| known == name) {
                    pairs.push((to.token(number), from.token(known)));
                }
            }
        }
        (ConditionConfig::Grid(from), ConditionConfig::Grid(to)) => {
            nulls = (to.null, from.null);
            if may_be_one_codec(from, to) {
                // Ours end with the token of no condition.
                let kinds = to.null.unwrap_or(to.offset).saturating_sub(to.offset);
                pairs.extend((0..kinds).map(|code| (to.offset + code, from.offset + code)));
            }
        }
        (ConditionConfig::Text(from), ConditionConfig::Text(to)) => {
            nulls = (to.null, from.null);
            let words = to.pad.saturating_sub(to.offset).min(from.pad.saturating_sub(from.offset));
            pairs.extend((0..words).map(|word| (to.offset + word, from.offset + word)));
            pairs.push((to.pad, from.pad));
        }
        _ => {}
    }
    if let (Some(to), Some(from)) = nulls {
        pairs.push((to, from));
    }
    pairs
}

fn may_be_one_codec(from: &GridCondition, to: &GridCondition) -> bool {
    match (&from.codec, &to.codec) {
        (Some(from), Some(to)) => from.may_be(&to.codec_sha256),
        (None, None) => true,
        _ => false,
    }
}

/// The positions of the condition, if it is of the same kind, and those of the codes.
fn positions(from: &TransformerConfig, heir: &Heir<'_>, count: usize) -> Rows {
    let known = from.condition_positions();
    let alike = from.condition.kind() == heir.condition.kind();
    let kept = if alike { known.min(heir.positions) } else { 0 };
    let mut positions: Rows = (0..heir.positions as u32)
        .map(|position| ((position as usize) < kept).then_some(position))
        .collect();
    positions.extend((known as u32..).take(count.saturating_sub(heir.positions)).map(Some));
    positions
}
