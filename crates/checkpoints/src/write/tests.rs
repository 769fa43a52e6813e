use std::fs;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::tensor_file::{FileKind, TensorFile};

#[test]
fn equal_content_gives_equal_bytes_that_others_read() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let device = Device::Cpu;
    let mut tensors = BTreeMap::new();
    for (i, dtype) in [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::U8,
        DType::U32,
        DType::I64,
        DType::I32,
        DType::I16,
    ]
    .into_iter()
    .enumerate()
    {
        let tensor = Tensor::arange(0_f32, 6.0, &device)?.reshape((2, 3))?.to_dtype(dtype)?;
        tensors.insert(format!("t{i}"), tensor);
    }
    tensors.insert("view".to_string(), tensors["t0"].t()?);
    tensors.insert("scalar".to_string(), Tensor::new(7_f32, &device)?);
    tensors.insert("empty".to_string(), Tensor::zeros((0, 3), DType::F32, &device)?);

    let metadata = [("b".to_string(), "2\n\"".to_string()), ("a".to_string(), "1".to_string())];
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    save_safetensors(&one, &tensors, metadata.clone())?;
    save_safetensors(&two, tensors.iter().rev(), metadata.iter().rev().cloned())?;
    assert_eq!(fs::read(&one)?, fs::read(&two)?);

    let theirs = candle_core::safetensors::load(&one, &device)?;
    let ours = TensorFile::open(&one)?;
    assert_eq!(ours.kind(), FileKind::Safetensors);
    assert_eq!(ours.metadata(), &metadata.into_iter().collect());
    assert_eq!(ours.len(), tensors.len());
    for (name, tensor) in &tensors {
        golden::close(name, &theirs[name], tensor, 0.0)?;
        let read = ours.tensor(name, &device)?;
        assert_eq!((read.dtype(), read.dims()), (tensor.dtype(), tensor.dims()));
        golden::close(name, &read, tensor, 0.0)?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_written_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let one = Tensor::new(1_f32, &Device::Cpu)?;
    assert!(save_safetensors(&path, [("a", &one), ("a", &one)], []).is_err());
    assert!(!path.exists());
    Ok(())
}

proptest! {
    #[test]
    fn round_trip(
        shape in prop::collection::vec(0_usize..4, 0..4),
        name in "\\PC{1,12}",
        note in "\\PC{0,12}",
    ) {
        let n: usize = shape.iter().product();
        let tensor = Tensor::from_vec((0..n as u32).collect::<Vec<_>>(), shape.clone(), &Device::Cpu);
        let round = || -> anyhow::Result<()> {
            let tensor = tensor?;
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("a");
            save_safetensors(&path, [(&name, &tensor)], [("note".to_string(), note.clone())])?;
            let file = TensorFile::open(&path)?;
            anyhow::ensure!(file.metadata()["note"] == note);
            let read = file.tensor(&name, &Device::Cpu)?;
            anyhow::ensure!(read.dims() == shape);
            golden::close(&name, &read, &tensor, 0.0)
        };
        if let Err(error) = round() {
            prop_assert!(false, "{name:?}: {error:?}");
        }
    }
}
