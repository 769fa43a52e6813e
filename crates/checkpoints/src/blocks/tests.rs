use std::path::Path;

use candle_core::Tensor;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::copies::{Copies, copy_safetensors};
use crate::tensor_file::Derived;
use crate::torch_write::copy_torch;
use crate::write::save_safetensors;

/// A file with a matrix of numbers `w`, and one with it in blocks.
fn made(dir: &Path, numbers: &Tensor, blocks: GgmlDType) -> anyhow::Result<TensorFile> {
    let (from, to) = (dir.join("numbers"), dir.join("blocks"));
    let bias = Tensor::new(&[1.5_f32], &Device::Cpu)?;
    save_safetensors(&from, [("w", numbers), ("b", &bias)], [])?;
    let file = TensorFile::open(&from)?;
    let blocks = [("w".to_owned(), blocks)].into();
    copy_safetensors(&to, &[Copies { blocks, ..Copies::of_all(&file, Some(DType::F16)) }], [])?;
    Ok(TensorFile::open(to)?)
}

fn wave(rows: usize, columns: usize, seed: u32) -> candle_core::Result<Tensor> {
    let n = (rows * columns) as u32;
    let values = (0..n).map(|i| (i.wrapping_mul(seed | 1) as f32 * 1e-4).sin());
    Tensor::from_vec(values.collect::<Vec<_>>(), (rows, columns), &Device::Cpu)
}

#[test]
fn what_is_written_is_what_quantizing_makes_and_a_copy_is_the_same_bytes() -> anyhow::Result<()> {
    for blocks in [GgmlDType::Q8_0, GgmlDType::Q4_0] {
        let dir = tempfile::tempdir()?;
        // In f16 too: its numbers are what counts.
        let numbers = wave(3, 64, 12345)?.to_dtype(DType::F16)?;
        let file = made(dir.path(), &numbers, blocks)?;
        let matrix = file.blocks()?["w"];
        assert_eq!((matrix.shape(), matrix.elements()), ((3, 64), 192));
        assert_eq!(file.dims("w"), Some(&[3, 2 * blocks.type_size()][..]));
        assert_eq!(file.stored_dtype("b"), Some(Dtype::F16));
        let read = file.block_matrix("w", &matrix)?;
        assert_eq!((read.dtype(), read.shape().dims()), (blocks, &[3, 64][..]));
        let expected = QTensor::quantize(&numbers.to_dtype(DType::F32)?, blocks)?;
        assert_eq!(read.data()?, expected.data()?);

        let again = dir.path().join("again");
        copy_safetensors(&again, &[Copies::of_all(&file, None)], [])?;
        assert_eq!(std::fs::read(&again)?, std::fs::read(file.path())?);
        let other = match blocks {
            GgmlDType::Q8_0 => GgmlDType::Q4_0,
            _ => GgmlDType::Q8_0,
        };
        let other = [("w".to_owned(), other)].into();
        let copies = Copies { blocks: other, ..Copies::of_all(&file, None) };
        let refused = copy_safetensors(&again, &[copies], []).err();
        assert!(refused.is_some_and(|e| e.to_string().contains("already")));
        let torch = copy_torch(&again, "model", &[Copies::of_all(&file, None)]).err();
        assert!(torch.is_some_and(|e| e.to_string().contains("in blocks")));
    }
    Ok(())
}

#[test]
fn what_is_no_matrix_of_blocks_is_not_made_one() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (from, to) = (dir.path().join("a"), dir.path().join("b"));
    let tensors = [
        ("narrow", wave(2, 33, 1)?),
        ("vector", wave(1, 32, 1)?.squeeze(0)?),
        ("codes", Tensor::zeros((2, 32), DType::U32, &Device::Cpu)?),
        ("w", wave(2, 32, 1)?),
    ];
    save_safetensors(&from, tensors.iter().map(|(name, tensor)| (*name, tensor)), [])?;
    let file = TensorFile::open(&from)?;
    for (name, blocks, part) in [
        ("narrow", GgmlDType::Q8_0, "rows of 33 numbers"),
        ("vector", GgmlDType::Q8_0, "not that of a matrix"),
        ("codes", GgmlDType::Q4_0, "it has U32"),
        ("w", GgmlDType::Q5_0, "not stored"),
    ] {
        let blocks = [(name.to_owned(), blocks)].into();
        let copies = Copies { blocks, ..Copies::of_all(&file, None) };
        let error = copy_safetensors(&to, &[copies], []).err().map(|e| e.to_string());
        assert!(error.as_ref().is_some_and(|e| e.contains(part)), "{name}: {error:?}");
    }
    let tensors = vec![Derived { shape: Some(vec![64]), ..Derived::renamed("w", "w") }];
    let blocks = [("w".to_owned(), GgmlDType::Q8_0)].into();
    let copies = Copies { tensors, blocks, ..Copies::of_all(&file, None) };
    assert!(copy_safetensors(&to, &[copies], []).is_err());
    assert!(!to.exists());
    Ok(())
}

/// What a file of bytes `w: [2, 68]` and numbers `x: [2, 64]` says of its blocks.
fn said(entry: &str) -> anyhow::Result<Result<BTreeMap<String, BlockMatrix>>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let bytes = Tensor::zeros((2, 68), DType::U8, &Device::Cpu)?;
    let numbers = Tensor::zeros((2, 64), DType::F32, &Device::Cpu)?;
    let metadata = [(BLOCKS_KEY.to_owned(), entry.to_owned())];
    save_safetensors(&path, [("w", &bytes), ("x", &numbers)], metadata)?;
    Ok(TensorFile::open(path)?.blocks())
}

fn entry(name: &str, kind: &str, shape: Value) -> String {
    json!({ "version": 1, "tensors": { name: { "type": kind, "shape": shape } } }).to_string()
}

#[test]
fn hostile_metadata_is_refused_by_name() -> anyhow::Result<()> {
    assert_eq!(said(&entry("w", "q8_0", json!([2, 64])))??.len(), 1);
    assert!(said(r#"{"version": 1, "tensors": {}}"#)??.is_empty());
    let huge = u64::MAX / 2 + 1;
    for (text, part) in [
        (entry("w", "q8_0", json!([2, 32])), "bytes of shape [2, 34]"),
        (entry("w", "q4_0", json!([2, 64])), "bytes of shape [2, 36]"),
        (entry("w", "q8_0", json!([1, 128])), "bytes of shape [1, 136]"),
        (entry("w", "q8_0", json!([2, 63])), "blocks of 32"),
        (entry("w", "q8_0", json!([128])), "not that of a matrix"),
        (entry("w", "q8_0", json!([1, 2, 64])), "not that of a matrix"),
        (entry("w", "q8_0", json!([])), "not that of a matrix"),
        (entry("w", "q8_0", json!([huge, 64])), "overflows"),
        (entry("w", "q8_0", json!([huge, huge])), "overflows"),
        (entry("w", "q4_0", json!([3, huge])), "overflows"),
        (entry("w", "q8_0", json!([-2, 64])), "invalid"),
        (entry("w", "q8_0", json!([2.0, 64])), "invalid"),
        (entry("w", "q4_k", json!([2, 64])), "not known; there are q8_0, q4_0"),
        (entry("x", "q8_0", json!([2, 64])), "are F32, not bytes"),
        (entry("y", "q8_0", json!([2, 64])), "no such tensor"),
        (r#"{"version": 2, "matrices": []}"#.to_owned(), "newer"),
        (r#"{"version": 1, "tensors": {}, "more": 1}"#.to_owned(), "more"),
        (r#"{"tensors": {}}"#.to_owned(), "version"),
        ("".to_owned(), "invalid"),
        ("[".repeat(10_000), "invalid"),
        (" ".repeat(MAX_BLOCKS_BYTES as usize + 1), "limit"),
    ] {
        let Err(error) = said(&text)? else { anyhow::bail!("{text:.80} was read") };
        assert!(error.to_string().contains(part), "{text:.80}: {error:.300}");
    }
    Ok(())
}

#[test]
fn a_file_cut_short_or_of_other_bytes_is_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = made(dir.path(), &wave(2, 64, 77)?, GgmlDType::Q4_0)?;
    let matrix = file.blocks()?["w"];
    let bytes = std::fs::read(file.path())?;
    for len in [bytes.len() - 1, bytes.len() - 70, 60] {
        let cut = dir.path().join("cut");
        std::fs::write(&cut, &bytes[..len])?;
        assert!(TensorFile::open(&cut).is_err(), "{len} of {} bytes", bytes.len());
    }
    let other = BlockMatrix::new(GgmlDType::Q8_0, &[2, 64]).map_err(anyhow::Error::msg)?;
    assert!(file.block_matrix("w", &other).is_err());
    assert!(file.block_matrix("b", &matrix).is_err());
    assert!(file.block_matrix("none", &matrix).is_err());
    Ok(())
}

proptest! {
    #[test]
    fn round_trip(
        rows in 0_usize..5,
        blocks in 0_usize..4,
        four in any::<bool>(),
        values in prop::collection::vec(-1e4_f32..1e4, 640),
    ) {
        let kind = if four { GgmlDType::Q4_0 } else { GgmlDType::Q8_0 };
        let round = || -> anyhow::Result<()> {
            let shape = (rows, 32 * blocks);
            let numbers = values[..shape.0 * shape.1].to_vec();
            let numbers = Tensor::from_vec(numbers, shape, &Device::Cpu)?;
            let dir = tempfile::tempdir()?;
            let file = made(dir.path(), &numbers, kind)?;
            let all = file.blocks()?;
            anyhow::ensure!(all.keys().collect::<Vec<_>>() == ["w"] && all["w"].shape() == shape);
            let read = file.block_matrix("w", &all["w"])?;
            anyhow::ensure!(read.data()? == QTensor::quantize(&numbers, kind)?.data()?);
            Ok(())
        };
        if let Err(error) = round() {
            prop_assert!(false, "{error:?}");
        }
    }

    /// Whatever the metadata says, it is refused or fits the bytes that are there.
    #[test]
    fn any_metadata_is_refused_or_fits(
        version in 0_u64..3,
        name in "[wxy]",
        kind in "q[48]_0|q8|[a-z]{0,3}",
        shape in prop::collection::vec(prop_oneof![0_u64..130, any::<u64>()], 0..4),
    ) {
        let tensors = json!({ name.as_str(): { "type": kind, "shape": shape } });
        let text = json!({ "version": version, "tensors": tensors }).to_string();
        let read = said(&text);
        let Ok(read) = read else { return Err(TestCaseError::fail("the file is not written")) };
        if let Ok(all) = read {
            let fits = all.values().all(|matrix| matrix.dims() == [2, 68]);
            prop_assert!(fits && version == 1 && name == "w", "{text}");
        }
    }
}
