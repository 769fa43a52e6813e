use super::*;
use crate::key_use::reference_key_use;
use crate::write::save_safetensors;

fn file(dir: &std::path::Path, tensors: &[(&str, Tensor)]) -> anyhow::Result<TensorFile> {
    let path = dir.join("weights.safetensors");
    save_safetensors(&path, tensors.iter().map(|(name, tensor)| (name, tensor)), [])?;
    Ok(TensorFile::open(&path)?)
}

fn zeros(shape: impl Into<Shape>, dtype: DType) -> anyhow::Result<Tensor> {
    Ok(Tensor::zeros(shape, dtype, &Device::Cpu)?)
}

#[test]
fn loads_what_is_expected_and_reports_the_rest() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = file(
        dir.path(),
        &[
            ("a.weight", zeros((2, 3), DType::F16)?),
            ("loss.logvar", zeros((), DType::F32)?),
            ("colorize", zeros(3, DType::F32)?),
        ],
    )?;
    let expected = BTreeMap::from([("a.weight".to_string(), Shape::from((2, 3)))]);
    let (tensors, report) =
        load_checked(&file, &expected, DType::F32, &Device::Cpu, &reference_key_use)?;
    assert_eq!(tensors["a.weight"].dtype(), DType::F32);
    let wanted = LoadReport {
        loaded: 1,
        elements: 6,
        ignored_loss: 1,
        ignored_buffers: 1,
        ignored_parts: 0,
    };
    assert_eq!(report, wanted);
    Ok(())
}

#[test]
fn one_message_says_everything_within_bounds() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut tensors =
        vec![("a.weight", zeros((2, 3), DType::F32)?), ("a.bias", zeros(3, DType::I64)?)];
    let strange: Vec<String> = (0..20).map(|i| format!("strange.{i:02}")).collect();
    for name in &strange {
        tensors.push((name, zeros((), DType::F32)?));
    }
    let file = file(dir.path(), &tensors)?;
    let expected = BTreeMap::from([
        ("a.weight".to_string(), Shape::from((3, 2))),
        ("a.bias".to_string(), Shape::from(3)),
        ("b.weight".to_string(), Shape::from(3)),
    ]);
    let error = load_checked(&file, &expected, DType::F32, &Device::Cpu, &reference_key_use)
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default();
    for part in [
        "weights.safetensors",
        "1 missing: b.weight",
        "20 unexpected: strange.00, strange.01",
        "strange.07, and 12 more",
        "1 of another shape: a.weight: file [2, 3], model [3, 2]",
        "1 not floating-point: a.bias: I64",
        "--config",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(!error.contains("strange.08"));
    Ok(())
}
