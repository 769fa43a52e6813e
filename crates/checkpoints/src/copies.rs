//! Tensors of a file on their way into another, one at a time.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use crate::blocks::BlockMatrix;
use crate::element;
use crate::error::{Error, Result};
use crate::tensor_file::{Derived, TensorFile};
use crate::write::{Part, write_parts};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

/// Tensors in terms of a file's. Each is read when its turn comes to be written,
/// so that a model takes no more memory than its largest tensor.
pub struct Copies<'a> {
    /// Where they are from.
    pub file: &'a TensorFile,
    /// What they are called and made of.
    pub tensors: Vec<Derived>,
    /// What numbers become: f32, bf16 or f16. `None` keeps each as it is, bit for
    /// bit; integers are always kept.
    pub dtype: Option<DType>,
    /// Matrices that are written in blocks, and in which, by their new names; made of the
    /// numbers of the file, not of rounded ones. What is in blocks there stays so.
    pub blocks: BTreeMap<String, GgmlDType>,
    /// Tensors that are in no file, written as they are.
    pub others: Vec<(String, Tensor)>,
}

impl<'a> Copies<'a> {
    /// All tensors of `file` under their names.
    pub fn of_all(file: &'a TensorFile, dtype: Option<DType>) -> Self {
        let tensors = file.names().map(|name| Derived::renamed(name, name)).collect();
        Self { file, tensors, dtype, blocks: BTreeMap::new(), others: Vec::new() }
    }

    /// What will be written.
    ///
    /// # Errors
    /// When a source is missing, the sources of one tensor do not fit together, or
    /// elements have no place in the target.
    pub(crate) fn parts(&self) -> Result<Vec<Part<'a>>> {
        let own = self.others.iter().map(|(name, tensor)| {
            let dtype = element::stored_dtype(tensor.dtype()).ok_or_else(|| {
                let dtype = format!("{:?}", tensor.dtype());
                Error::UnsupportedDType { path: self.file.path().into(), name: name.clone(), dtype }
            })?;
            let (shape, tensor) = (tensor.dims().to_vec(), tensor.clone());
            let write = move |writer: &mut dyn Write| element::write_tensor(&tensor, writer);
            Ok(Part { name: name.clone(), dtype, shape, blocks: None, write: Box::new(write) })
        });
        let stored = self.file.blocks()?;
        let part = |tensor| match self.blocks_part(tensor, &stored)? {
            Some(part) => Ok(part),
            None => self.part(tensor),
        };
        self.tensors.iter().map(part).chain(own).collect()
    }

    fn part(&self, Derived { name, shape, sources }: &Derived) -> Result<Part<'a>> {
        let file = self.file;
        let refuse = |reason: &str| {
            Error::format(file.path(), format!("{name:.160} cannot be made: {reason}"))
        };
        let first = sources.first().ok_or_else(|| refuse("it has no source"))?;
        let (mut elements, mut stored) = (0_usize, None);
        for source in sources {
            let (Some(dims), Some(dtype)) = (file.dims(source), file.stored_dtype(source)) else {
                let (path, name) = (file.path().into(), source.clone());
                return Err(Error::NoTensor { path, name });
            };
            if stored.is_some_and(|stored| stored != dtype) {
                return Err(refuse("its parts have different element types"));
            }
            stored = Some(dtype);
            elements += dims.iter().product::<usize>();
        }
        let stored = stored.ok_or_else(|| refuse("it has no source"))?;
        let shape = match shape {
            Some(shape) => shape.clone(),
            None => file.dims(first).unwrap_or_default().to_vec(),
        };
        if shape.iter().try_fold(1_usize, |n, &side| n.checked_mul(side)) != Some(elements) {
            return Err(refuse("its shape does not have the elements of its parts"));
        }
        let float = element::candle_dtype(stored).filter(DType::is_float);
        let target = self.dtype.filter(|&dtype| float.is_some_and(|held| held != dtype));
        let dtype = match target.map(element::stored_dtype) {
            None => stored,
            Some(Some(dtype)) => dtype,
            Some(None) => return Err(refuse("its new element type cannot be written")),
        };
        let sources = sources.clone();
        let write = move |writer: &mut dyn Write| {
            for source in &sources {
                let Some(target) = target else {
                    file.copy_elements(source, writer).map_err(io::Error::other)?;
                    continue;
                };
                let tensor = file.tensor(source, &Device::Cpu).map_err(io::Error::other)?;
                let tensor = tensor.to_dtype(target).map_err(io::Error::other)?;
                element::write_tensor(&tensor, writer)?;
            }
            Ok(())
        };
        Ok(Part { name: name.clone(), dtype, shape, blocks: None, write: Box::new(write) })
    }

    /// A matrix that is or becomes one in blocks; none if it is and stays something else.
    fn blocks_part(
        &self,
        Derived { name, shape, sources }: &Derived,
        stored: &BTreeMap<String, BlockMatrix>,
    ) -> Result<Option<Part<'a>>> {
        let file = self.file;
        let wanted = self.blocks.get(name).copied();
        let held = sources.iter().find_map(|source| stored.get(source)).copied();
        if wanted.is_none() && held.is_none() {
            return Ok(None);
        }
        let refuse = |reason: String| {
            Error::format(file.path(), format!("{name:.160} cannot be made: {reason}"))
        };
        let ([source], None) = (&sources[..], shape) else {
            return Err(refuse("blocks are not put together, nor given another shape".to_owned()));
        };
        let matrix = match (held, wanted) {
            (Some(held), Some(wanted)) if held.blocks() != wanted => {
                return Err(refuse(format!(
                    "it is in blocks of {:?} already, and {wanted:?} is not made of them",
                    held.blocks()
                )));
            }
            (Some(held), _) => held,
            (None, wanted) => {
                let wanted = wanted.ok_or_else(|| refuse("it is in no blocks".to_owned()))?;
                file.blocks_of(source, wanted).map_err(refuse)?
            }
        };
        let source = source.clone();
        let write = move |writer: &mut dyn Write| match held {
            Some(_) => file.copy_elements(&source, writer).map_err(io::Error::other),
            None => file.write_blocks(&source, matrix.blocks(), writer),
        };
        let shape = matrix.dims().to_vec();
        let (dtype, blocks) = (Dtype::U8, Some(matrix));
        Ok(Some(Part { name: name.clone(), dtype, shape, blocks, write: Box::new(write) }))
    }

    /// Whether a matrix is written in blocks.
    pub(crate) fn has_blocks(&self) -> Result<bool> {
        Ok(!self.blocks.is_empty() || !self.file.blocks()?.is_empty())
    }
}

/// Writes `copies` to a safetensors file, as
/// [`save_safetensors`](crate::save_safetensors) writes tensors.
///
/// # Errors
/// As [`save_safetensors`](crate::save_safetensors); when reading fails.
pub fn copy_safetensors(
    path: impl AsRef<Path>,
    copies: &[Copies<'_>],
    metadata: impl IntoIterator<Item = (String, String)>,
) -> Result<()> {
    let parts = copies.iter().map(Copies::parts).collect::<Result<Vec<_>>>()?;
    write_parts(path.as_ref(), parts.into_iter().flatten().collect(), metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::save_safetensors;

    #[test]
    fn bits_stay_or_become_what_candle_makes_of_them() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        // A NaN with a payload would not survive arithmetic.
        let values = [1.5_f32, -0.0, f32::from_bits(0x7fc0_1234), 1e-40, 3.0e38];
        let tensors = [
            ("x", Tensor::new(&values, &Device::Cpu)?),
            ("n", Tensor::new(&[7_i64, -1], &Device::Cpu)?),
        ];
        save_safetensors(&from, tensors.iter().map(|(name, tensor)| (*name, tensor)), [])?;
        let file = TensorFile::open(&from)?;
        let tensors_of = || vec![Derived::renamed("x", "y"), Derived::renamed("n", "n")];
        for dtype in [None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)] {
            let others = vec![("own".to_owned(), tensors[0].1.clone())];
            let copies = Copies { tensors: tensors_of(), others, ..Copies::of_all(&file, dtype) };
            copy_safetensors(&to, &[copies], [])?;
            let copied = TensorFile::open(&to)?;
            assert_eq!(copied.tensor_sha256("own")?, file.tensor_sha256("x")?);
            assert_eq!(copied.tensor_sha256("n")?, file.tensor_sha256("n")?);
            match dtype {
                None | Some(DType::F32) => {
                    assert_eq!(copied.tensor_sha256("y")?, file.tensor_sha256("x")?);
                }
                Some(dtype) => {
                    let expected = tensors[0].1.to_dtype(dtype)?;
                    let read = copied.tensor("y", &Device::Cpu)?;
                    assert_eq!(read.dtype(), dtype);
                    let bits = |t: &Tensor| -> anyhow::Result<Vec<u32>> {
                        let t = t.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                        Ok(t.into_iter().map(f32::to_bits).collect())
                    };
                    assert_eq!(bits(&read)?, bits(&expected)?);
                }
            }
        }
        copy_safetensors(&to, &[Copies::of_all(&file, None)], [])?;
        assert_eq!(std::fs::read(&to)?, std::fs::read(&from)?);
        let tensors = vec![Derived::renamed("z", "z")];
        let missing = Copies { tensors, ..Copies::of_all(&file, None) };
        assert!(copy_safetensors(&to, &[missing], []).is_err());
        Ok(())
    }
}
