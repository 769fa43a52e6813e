//! Other names and shapes for the same bytes.

use std::collections::BTreeMap;

use super::TensorFile;
use crate::error::{Error, Result};

/// A tensor in terms of a file's: renamed, reshaped, or several joined along
/// their first dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// Its name.
    pub name: String,
    /// Its shape; `None` for that of its only source.
    pub shape: Option<Vec<usize>>,
    /// The names in the file. Joined ones lie one after the other.
    pub sources: Vec<String>,
}

impl Derived {
    /// The tensor `source` under another name.
    pub fn renamed(source: &str, name: impl Into<String>) -> Self {
        Self { name: name.into(), shape: None, sources: vec![source.to_string()] }
    }
}

impl TensorFile {
    /// The file as if it had these tensors in the place of their sources. All
    /// others stay. Nothing is read or copied.
    ///
    /// # Errors
    /// When a source is missing or used twice, when joined tensors are of
    /// several element types, when a shape has other than their elements, or
    /// when two tensors get one name.
    pub fn derive(mut self, tensors: impl IntoIterator<Item = Derived>) -> Result<Self> {
        let mut made = BTreeMap::new();
        for Derived { name, shape, sources } in tensors {
            let refuse = |reason: &str| {
                Error::format(&self.path, format!("{name:.160} cannot be made: {reason}"))
            };
            let mut parts = Vec::with_capacity(sources.len());
            for source in &sources {
                parts.push(self.entries.remove(source).ok_or_else(|| Error::NoTensor {
                    path: self.path.clone(),
                    name: source.clone(),
                })?);
            }
            let mut parts = parts.into_iter();
            let mut whole = parts.next().ok_or_else(|| refuse("it has no source"))?;
            let alone = parts.len() == 0;
            let mut elements = whole.elements();
            for part in parts {
                if part.dtype != whole.dtype {
                    return Err(refuse("its parts have different element types"));
                }
                // Both are at most the bytes of a file.
                elements += part.elements();
                whole.pieces.extend(part.pieces);
            }
            match shape {
                Some(shape) => {
                    let product = shape.iter().try_fold(1_usize, |n, &side| n.checked_mul(side));
                    if product != Some(elements) {
                        return Err(refuse("its shape does not have the elements of its parts"));
                    }
                    whole.shape = shape;
                }
                None if !alone => return Err(refuse("joined tensors need a shape")),
                None => {}
            }
            if made.insert(name.clone(), whole).is_some() || self.entries.contains_key(&name) {
                return Err(refuse("its name is taken"));
            }
        }
        self.entries.append(&mut made);
        Ok(self)
    }
}
