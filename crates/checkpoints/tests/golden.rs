//! Checkpoints that the reference systems wrote.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device};
use checkpoints::reference_config::ReferenceConfig;
use checkpoints::{FileKind, KeyUse, TensorFile, load_checked, reference_key_use};

/// Written by the reference's `main.py` under torch 1.7: every tensor.
#[test]
fn ckpt_real_main() -> Result<()> {
    let Some(group) = golden::group("ckpt_real_main")? else { return Ok(()) };
    let file = TensorFile::open(group.path("last.ckpt"))?;
    assert_eq!((file.kind(), file.section()), (FileKind::TorchZip, Some("state_dict")));
    let checksums = group.manifest()["extra"]["checksums"].as_object().context("checksums")?;
    assert_eq!(file.len(), checksums.len());
    assert!(file.skipped().is_empty());
    let mut loss = 0;
    for (name, entry) in checksums {
        let shape: Vec<usize> = serde_json::from_value(entry[0].clone())?;
        ensure!(file.shape(name).is_some_and(|found| found.dims() == shape), "{name}");
        ensure!(entry[3] == file.tensor_sha256(name)?.as_str(), "{name}");
        let tensor = file.tensor(name, &Device::Cpu)?.to_dtype(DType::F64)?;
        let sum = tensor.flatten_all()?.sum_all()?.to_scalar::<f64>()?;
        let expected = entry[2].as_f64().context("sum")?;
        ensure!((sum - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{name}: {sum}");
        loss += usize::from(reference_key_use(name) == KeyUse::IgnoreLoss);
    }

    let expected = file
        .names()
        .filter(|name| reference_key_use(name) == KeyUse::Load)
        .filter_map(|name| Some((name.to_string(), file.shape(name)?)))
        .collect();
    let (_, report) = load_checked(&file, &expected, DType::F32, &Device::Cpu, &reference_key_use)?;
    assert_eq!((report.loaded, report.ignored_loss), (checksums.len() - loss, loss));
    assert!(loss > 0 && report.loaded > 0);

    let model = ReferenceConfig::read(group.path("project.yaml"))?.model()?;
    assert_eq!(model.target, "taming.models.vqgan.VQModel");
    assert_eq!(model.params["ddconfig"]["attn_resolutions"][0], 32);
    assert_eq!(model.params["lossconfig"]["params"]["disc_weight"], 0.8);
    Ok(())
}

#[test]
fn ckpt_formats() -> Result<()> {
    let Some(group) = golden::group("ckpt_formats")? else { return Ok(()) };
    for (name, kind, expected) in [
        ("pl_zip.ckpt", FileKind::TorchZip, "expected.safetensors"),
        ("pl_zip_cuda.ckpt", FileKind::TorchZip, "expected.safetensors"),
        ("pl_legacy.ckpt", FileKind::LegacyTorch, "expected.safetensors"),
        ("pl_legacy_cuda.ckpt", FileKind::LegacyTorch, "expected.safetensors"),
        ("lpips_heads_legacy_cuda.pth", FileKind::LegacyTorch, "expected_lpips.safetensors"),
    ] {
        let expected = TensorFile::open(group.path(expected))?;
        let file = TensorFile::open(group.path(name))?;
        assert_eq!(file.kind(), kind);
        assert_eq!(file.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>());
        for name in expected.names() {
            ensure!(file.shape(name) == expected.shape(name), "{name}");
            ensure!(file.stored_dtype(name) == expected.stored_dtype(name), "{name}");
            ensure!(file.tensor_sha256(name)? == expected.tensor_sha256(name)?, "{name}");
            let (a, b) = (file.tensor(name, &Device::Cpu)?, expected.tensor(name, &Device::Cpu)?);
            ensure!(a.dtype() == b.dtype(), "{name}");
            golden::close(name, &a, &b, 0.0)?;
        }
    }
    Ok(())
}

/// Checkpoints with the same weights as the safetensors file beside them.
#[test]
fn checkpoints_equal_their_safetensors() -> Result<()> {
    for (group, checkpoint, section) in [
        ("gumbel", "last.ckpt", Some("state_dict")),
        ("net2net_class", "last.ckpt", Some("state_dict")),
        ("llamagen_gpt", "ddp.pt", Some("model")),
        ("llamagen_gpt", "fsdp_consolidated.pth", None),
    ] {
        let Some(group) = golden::group(group)? else { return Ok(()) };
        let file = TensorFile::open(group.path(checkpoint))?;
        let model = TensorFile::open(group.path("model.safetensors"))?;
        assert_eq!(file.section(), section, "{checkpoint}");
        for name in model.names() {
            ensure!(file.tensor_sha256(name)? == model.tensor_sha256(name)?, "{checkpoint} {name}");
        }
        for name in file.names() {
            let known = model.shape(name).is_some()
                || matches!(reference_key_use(name), KeyUse::IgnoreBuffer | KeyUse::IgnoreLoss);
            ensure!(known, "{checkpoint} has {name}, which model.safetensors has not");
        }
    }
    Ok(())
}

#[test]
fn deepspeed_bf16() -> Result<()> {
    let Some(group) = golden::group("llamagen_gpt")? else { return Ok(()) };
    let file = TensorFile::open(group.path("deepspeed_bf16.pt"))?;
    let model = TensorFile::open(group.path("model.safetensors"))?;
    assert_eq!(file.section(), Some("module"));
    for name in model.names() {
        ensure!(file.dtype(name) == Some(DType::BF16), "{name}");
        let rounded = model.tensor(name, &Device::Cpu)?.to_dtype(DType::BF16)?;
        golden::close(name, &file.tensor(name, &Device::Cpu)?, &rounded, 0.0)?;
    }
    Ok(())
}

#[test]
fn every_golden_configuration_is_read() -> Result<()> {
    let Some(dir) = golden::shared_path("golden") else { return Ok(()) };
    let mut read = 0;
    for group in std::fs::read_dir(dir)? {
        let group = group?.path();
        if !group.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(group)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path)?;
                if text.contains("model:") {
                    let model = ReferenceConfig::read(&path)?.model()?;
                    ensure!(!model.target.is_empty(), "{}", path.display());
                    read += 1;
                }
            }
        }
    }
    ensure!(read >= 4, "{read} configurations");
    Ok(())
}

/// The names of all published models: buffers are told from weights.
#[test]
fn every_published_name_is_understood() -> Result<()> {
    let Some(dir) = golden::shared_path("reference/keys") else { return Ok(()) };
    let mut names = 0;
    for file in std::fs::read_dir(dir)? {
        for line in std::fs::read_to_string(file?.path())?.lines() {
            let [name, _, _, role] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
            // A buffer in the reference, and yet an input of the network.
            let needed = role == "param" || name == "cls_embedding.uncond_embedding";
            let expected = match needed {
                _ if name.starts_with("loss.") => KeyUse::IgnoreLoss,
                true => KeyUse::Load,
                false => KeyUse::IgnoreBuffer,
            };
            ensure!(reference_key_use(name) == expected, "{name}");
            names += 1;
        }
    }
    ensure!(names > 5000, "{names} names");
    Ok(())
}
