//! Devices and element types by the names that users type.

use candle_core::{DType, Device};

use crate::error::{Error, Result};

/// The device called `name`: `cpu`, `cuda`, `cuda:N` or `metal`.
///
/// # Errors
/// When the name is none of these, this build has no support for it, or the
/// machine has no such device.
pub fn parse_device(name: &str) -> Result<Device> {
    let refuse = |reason: String| Error::Device { device: name.to_owned(), reason };
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            let index = index
                .parse::<usize>()
                .map_err(|_| refuse(format!("{index:?} is not a device number")))?;
            (kind, Some(index))
        }
        None => (name, None),
    };
    match (kind, index) {
        ("cpu", None) => Ok(Device::Cpu),
        ("cuda", index) => {
            if !candle_core::utils::cuda_is_available() {
                return Err(refuse("this build has no CUDA support; use --device cpu".to_owned()));
            }
            // A stream of its own: candle's default is one for each thread, and threads that
            // share tensors would not wait for each other.
            let device = Device::new_cuda_with_stream(index.unwrap_or(0));
            let device = device.map_err(|e| refuse(e.to_string()))?;
            layers::cuda::prepare(&device).map_err(|e| refuse(e.to_string()))?;
            Ok(device)
        }
        ("metal", index) => {
            if !candle_core::utils::metal_is_available() {
                return Err(refuse("this build has no Metal support; use --device cpu".to_owned()));
            }
            Device::new_metal(index.unwrap_or(0)).map_err(|e| refuse(e.to_string()))
        }
        _ => Err(refuse("not one of cpu, cuda, cuda:N, metal".to_owned())),
    }
}

/// The element type called `name`: `f32`, `bf16` or `f16`.
///
/// # Errors
/// When it is none of these.
pub fn parse_dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err(Error::Pictures(format!("dtype {name:?} is not one of f32, bf16, f16"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() -> anyhow::Result<()> {
        assert!(parse_device("cpu")?.is_cpu());
        for name in ["", "gpu", "cpu:0", "cuda:x", "cuda:-1", "CUDA"] {
            let Err(error) = parse_device(name) else { anyhow::bail!("{name} is a device") };
            assert!(error.to_string().contains(name), "{error}");
        }
        assert_eq!(parse_dtype("bf16")?, DType::BF16);
        assert!(parse_dtype("f64").is_err());
        Ok(())
    }
}
