//! Tensors of a file on their way into another, one at a time.

use std::io::{self, Write};
use std::path::Path;

use candle_core::{DType, Device};
use safetensors::Dtype;

use crate::element;
use crate::error::{Error, Result};
use crate::tensor_file::TensorFile;
use crate::write::{Part, write_parts};

/// Tensors of a file under new names. Each is read when its turn comes to be
/// written, so that a model takes no more memory than its largest tensor.
pub struct Copies<'a> {
    /// Where they are from.
    pub file: &'a TensorFile,
    /// The name in the file, and the new one.
    pub names: Vec<(String, String)>,
    /// What numbers become: f32, bf16 or f16. `None` keeps each as it is, bit for
    /// bit; integers are always kept.
    pub dtype: Option<DType>,
}

impl<'a> Copies<'a> {
    /// What will be written.
    ///
    /// # Errors
    /// When a tensor is missing, or its elements have no place in the target.
    pub(crate) fn parts(&self) -> Result<Vec<Part<'a>>> {
        self.names.iter().map(|(source, name)| self.part(source, name)).collect()
    }

    fn part(&self, source: &str, name: &str) -> Result<Part<'a>> {
        let file = self.file;
        let missing = || Error::NoTensor { path: file.path().into(), name: source.to_string() };
        let stored = file.stored_dtype(source).ok_or_else(missing)?;
        let shape = file.dims(source).ok_or_else(missing)?.to_vec();
        let held = element::candle_dtype(stored);
        let unsupported = || Error::UnsupportedDType {
            path: file.path().into(),
            name: source.to_string(),
            dtype: stored.to_string(),
        };
        let target = self.dtype.filter(|&dtype| held.is_some_and(|held| held.is_float() && held != dtype));
        let owned = source.to_string();
        let (dtype, write): (Dtype, Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>) = match target {
            Some(target) => {
                let dtype = element::stored_dtype(target).ok_or_else(unsupported)?;
                let convert = move |writer: &mut dyn Write| {
                    let tensor = file.tensor(&owned, &Device::Cpu).map_err(io::Error::other)?;
                    let tensor = tensor.to_dtype(target).map_err(io::Error::other)?;
                    element::write_tensor(&tensor, writer)
                };
                (dtype, Box::new(convert))
            }
            None => {
                let copy = move |writer: &mut dyn Write| {
                    file.copy_elements(&owned, writer).map_err(io::Error::other)
                };
                (stored, Box::new(copy))
            }
        };
        Ok(Part { name: name.to_string(), dtype, shape, write })
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
    use candle_core::Tensor;

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
        let names = || vec![("x".to_string(), "y".to_string()), ("n".to_string(), "n".to_string())];
        for dtype in [None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)] {
            copy_safetensors(&to, &[Copies { file: &file, names: names(), dtype }], [])?;
            let copied = TensorFile::open(&to)?;
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
        let missing = Copies { file: &file, names: vec![("z".into(), "z".into())], dtype: None };
        assert!(copy_safetensors(&to, &[missing], []).is_err());
        Ok(())
    }
}
