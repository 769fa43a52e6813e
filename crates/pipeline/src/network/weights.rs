//! A transformer's weights on their way from a file, and their identity.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Shape, Tensor};
use checkpoints::{BlockMatrix, KeyUse, LoadReport, TensorFile, check_names};
use sha2::{Digest, Sha256};

use super::{block_names, expected};
use crate::error::{Error, Result};
use crate::transformer_config::TransformerConfig;

/// The weights by the network's names, on the CPU.
pub(crate) struct NetworkWeights {
    /// In f32.
    pub(super) numbers: BTreeMap<String, Tensor>,
    /// Matrices that are stored in blocks.
    pub(super) blocks: BTreeMap<String, Arc<QTensor>>,
}

impl NetworkWeights {
    /// All of them in f32: those in blocks are what the blocks stand for.
    ///
    /// # Errors
    /// If memory cannot be had.
    pub(crate) fn into_numbers(self) -> Result<BTreeMap<String, Tensor>> {
        let mut numbers = self.numbers;
        for (name, blocks) in self.blocks {
            numbers.insert(name, blocks.dequantize(&Device::Cpu)?);
        }
        Ok(numbers)
    }
}

/// What a file holds for a transformer: all that it needs, each of its shape.
pub(crate) struct Checked {
    /// The network's names of what is stored as numbers.
    pub(crate) numbers: Vec<String>,
    /// Of what is stored in blocks.
    pub(crate) blocks: BTreeMap<String, BlockMatrix>,
    /// Blocks counted as the numbers they stand for.
    pub(crate) report: LoadReport,
}

impl Checked {
    /// The network's names of everything.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.numbers.iter().chain(self.blocks.keys())
    }
}

/// Checks the names and shapes of a file in which the weights stand behind `prefix`, and
/// that those are in blocks which `config` says are.
///
/// # Errors
/// One message with what does not fit.
pub(crate) fn check(
    file: &TensorFile,
    prefix: &str,
    config: &TransformerConfig,
) -> Result<Checked> {
    let mut expected = expected(&config.architecture)?;
    let blocks = check_blocks(file, config, &expected)?;
    expected.retain(|name, _| !blocks.contains_key(name));
    let numbers = expected.keys().cloned().collect();
    let expected =
        expected.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect();
    let key_use = |name: &str| match name.strip_prefix(prefix) {
        // Bytes, which are checked, are no numbers of the network.
        Some(name) if blocks.contains_key(name) => KeyUse::IgnorePart,
        Some(name) => checkpoints::reference_key_use(name),
        // The stages beside a reference transformer, and its permuter.
        None => KeyUse::IgnorePart,
    };
    let mut report = check_names(file, &expected, &key_use)?;
    report.ignored_parts -= blocks.len();
    report.loaded += blocks.len();
    report.elements += blocks.values().map(BlockMatrix::elements).sum::<usize>();
    Ok(Checked { numbers, blocks, report })
}

/// The matrices that the file has in blocks, all that it should have.
fn check_blocks(
    file: &TensorFile,
    config: &TransformerConfig,
    expected: &BTreeMap<String, Shape>,
) -> Result<BTreeMap<String, BlockMatrix>> {
    let stored = file.blocks()?;
    let refuse = |reason: String| Err(Error::model(file.path(), reason));
    let Some(format) = config.weights else {
        return match stored.is_empty() {
            true => Ok(stored),
            false => refuse(
                "its matrices are stored in blocks, and its configuration says nothing of that: \
                 use the config.json that was written with it"
                    .to_owned(),
            ),
        };
    };
    let wanted = block_names(&config.architecture, format)?;
    for (name, &blocks) in &wanted {
        let Some(matrix) = stored.get(name) else {
            return refuse(format!(
                "{name} is not stored in blocks ({blocks:?}), as its configuration says ({format}): \
                 use the config.json that was written with it"
            ));
        };
        let shape = expected.get(name).map(Shape::dims).unwrap_or_default();
        let (rows, columns) = matrix.shape();
        if matrix.blocks() != blocks || shape != [rows, columns] {
            return refuse(format!(
                "{name} is a matrix {:?} in blocks of {:?}, the model has {shape:?} in blocks of \
                 {blocks:?}: use the config.json that was written with it",
                [rows, columns],
                matrix.blocks()
            ));
        }
    }
    match stored.keys().find(|name| !wanted.contains_key(*name)) {
        Some(name) => refuse(format!("{name:.160} is in blocks, which the model does not have")),
        None => Ok(stored),
    }
}

/// Reads the weights out of a file in which they stand behind `prefix`.
///
/// # Errors
/// As [`check`], before anything is read; when reading fails.
pub(crate) fn load(
    file: &TensorFile,
    prefix: &str,
    config: &TransformerConfig,
) -> Result<(NetworkWeights, LoadReport)> {
    let Checked { numbers, blocks, report } = check(file, prefix, config)?;
    let number = |name: String| -> Result<_> {
        let tensor = file.tensor(&format!("{prefix}{name}"), &Device::Cpu)?;
        Ok((name, tensor.to_dtype(DType::F32)?))
    };
    let block = |(name, matrix): (String, BlockMatrix)| -> Result<_> {
        let tensor = Arc::new(file.block_matrix(&name, &matrix)?);
        Ok((name, tensor))
    };
    let weights = NetworkWeights {
        numbers: numbers.into_iter().map(number).collect::<Result<_>>()?,
        blocks: blocks.into_iter().map(block).collect::<Result<_>>()?,
    };
    Ok((weights, report))
}

/// The SHA-256, in lowercase hexadecimal, of what decides which codes a
/// transformer draws: its wiring, the order of its codes, and its weights, over
/// the values and not over the file (as a codec's).
///
/// Hashed are the line `synth-transformer 1 ARCHITECTURE CODES GRID ORDER`
/// (JSON), then for every tensor, sorted by name, the line `NAME [SHAPE]` and its
/// elements as little-endian f32. Those of blocks are what they stand for.
pub(crate) fn transformer_sha256(
    config: &TransformerConfig,
    order: &[u32],
    weights: &NetworkWeights,
) -> Result<String> {
    let wiring = serde_json::to_string(&(&config.architecture, config.codes, config.grid, order))
        .map_err(|e| Error::model("config.json", e.to_string()))?;
    let mut hash = Sha256::new();
    hash.update(format!("synth-transformer 1 {wiring}\n").as_bytes());
    let mut names: Vec<_> = weights.numbers.keys().chain(weights.blocks.keys()).collect();
    names.sort_unstable();
    for name in names {
        let tensor = match (weights.numbers.get(name), weights.blocks.get(name)) {
            (Some(tensor), _) => tensor.clone(),
            (None, Some(blocks)) => blocks.dequantize(&Device::Cpu)?,
            (None, None) => continue,
        };
        hash.update(format!("{name} {:?}\n", tensor.dims()).as_bytes());
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
