//! Loading what a network needs, or one message for all that does not fit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;

use candle_core::{DType, Device, Shape, Tensor};

use crate::element::candle_dtype;
use crate::error::{Error, Result};
use crate::key_use::KeyUse;
use crate::tensor_file::TensorFile;

/// How many names of each kind a message shows.
const SHOWN: usize = 8;
/// How much of a name a message shows.
const SHOWN_CHARS: usize = 160;

/// What [`load_checked`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors loaded.
    pub loaded: usize,
    /// Elements loaded.
    pub elements: usize,
    /// Tensors of the training loss, not loaded.
    pub ignored_loss: usize,
    /// Buffers that the network computes itself, not loaded.
    pub ignored_buffers: usize,
    /// Tensors of other networks in the same file, not loaded.
    pub ignored_parts: usize,
}

/// Everything in a file that does not fit a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// The file.
    pub path: PathBuf,
    /// How many tensors the network needs.
    pub expected: usize,
    /// Names that the network needs and the file lacks.
    pub missing: Vec<String>,
    /// Names that the file has and the network does not know.
    pub unexpected: Vec<String>,
    /// `NAME: file SHAPE, model SHAPE`.
    pub misshaped: Vec<String>,
    /// `NAME: TYPE`, for weights that are no floating-point numbers.
    pub mistyped: Vec<String>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.lists().iter().all(|(_, names)| names.is_empty())
    }

    fn lists(&self) -> [(&'static str, &[String]); 4] {
        [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("of another shape", &self.misshaped),
            ("not floating-point", &self.mistyped),
        ]
    }

    fn advice(&self) -> &'static str {
        if self.missing.len() == self.expected {
            "none of the model's tensors is there: is this the file of another kind of model, \
             or a part of one?"
        } else if self.missing.is_empty() && self.unexpected.is_empty() && self.mistyped.is_empty()
        {
            "the names agree but the sizes do not: \
             use the configuration that this checkpoint was trained with"
        } else {
            "use the configuration that belongs to this checkpoint (--config), \
             or get the checkpoint again"
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the weights do not fit the model", self.path.display())?;
        for (what, names) in self.lists() {
            if names.is_empty() {
                continue;
            }
            write!(f, "\n  {} {what}: ", names.len())?;
            for (i, name) in names.iter().take(SHOWN).enumerate() {
                let comma = if i > 0 { ", " } else { "" };
                write!(f, "{comma}{name:.SHOWN_CHARS$}")?;
            }
            if names.len() > SHOWN {
                write!(f, ", and {} more", names.len() - SHOWN)?;
            }
        }
        write!(f, "\n  {}", self.advice())
    }
}

impl std::error::Error for Mismatch {}

/// Loads the `expected` tensors (see [`expected_tensors`](crate::expected_tensors))
/// from `file`, as `dtype` on `device`. What else the file has goes through
/// `key_use` ([`reference_key_use`](crate::reference_key_use) for the reference's
/// files): ignored names are counted in the report. Nothing is read before all
/// names, shapes and types have been checked.
///
/// # Errors
/// [`Error::Mismatch`] with everything that does not fit; errors of reading.
pub fn load_checked(
    file: &TensorFile,
    expected: &BTreeMap<String, Shape>,
    dtype: DType,
    device: &Device,
    key_use: &dyn Fn(&str) -> KeyUse,
) -> Result<(HashMap<String, Tensor>, LoadReport)> {
    let report = check_names(file, expected, key_use)?;
    let mut tensors = HashMap::with_capacity(expected.len());
    for name in expected.keys() {
        tensors.insert(name.clone(), file.tensor(name, device)?.to_dtype(dtype)?);
    }
    Ok((tensors, report))
}

/// Checks what [`load_checked`] checks, and loads nothing.
///
/// # Errors
/// [`Error::Mismatch`] with everything that does not fit.
pub fn check_names(
    file: &TensorFile,
    expected: &BTreeMap<String, Shape>,
    key_use: &dyn Fn(&str) -> KeyUse,
) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    let mut mismatch = Mismatch {
        path: file.path().to_path_buf(),
        expected: expected.len(),
        ..Mismatch::default()
    };
    for (name, shape) in expected {
        let (Some(found), Some(stored)) = (file.shape(name), file.stored_dtype(name)) else {
            mismatch.missing.push(name.clone());
            continue;
        };
        if found != *shape {
            let (found, shape) = (found.dims(), shape.dims());
            mismatch.misshaped.push(format!("{name}: file {found:?}, model {shape:?}"));
        } else if !candle_dtype(stored).is_some_and(|dtype| dtype.is_float()) {
            mismatch.mistyped.push(format!("{name}: {stored}"));
        }
        report.loaded += 1;
        report.elements += shape.elem_count();
    }
    for name in file.names().filter(|name| !expected.contains_key(*name)) {
        match key_use(name) {
            KeyUse::IgnoreLoss => report.ignored_loss += 1,
            KeyUse::IgnoreBuffer => report.ignored_buffers += 1,
            KeyUse::IgnorePart => report.ignored_parts += 1,
            KeyUse::Load | KeyUse::Unexpected => mismatch.unexpected.push(name.to_string()),
        }
    }
    if mismatch.is_empty() { Ok(report) } else { Err(Error::Mismatch(Box::new(mismatch))) }
}

#[cfg(test)]
mod tests;
