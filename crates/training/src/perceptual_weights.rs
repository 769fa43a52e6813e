//! LPIPS out of the files that people have.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use checkpoints::TensorFile;
use perceptual::{Lpips, LpipsConfig};

use crate::config::LossConfig;

/// Where a whole network is in a file: at the top (LPIPS's own), or under the loss of a
/// reference checkpoint.
const PREFIXES: [&str; 3] = ["", "perceptual_loss.", "loss.perceptual_loss."];
/// The slice of each convolution of torchvision's `vgg16().features`.
const SLICES: [(usize, &[usize]); 5] =
    [(1, &[0, 2]), (2, &[5, 7]), (3, &[10, 12, 14]), (4, &[17, 19, 21]), (5, &[24, 26, 28])];
/// How many heads there are.
const HEADS: usize = 5;

/// The LPIPS network of `loss`.
///
/// # Errors
/// When no file is given (the message says what would do), when a file cannot be read,
/// or when the files do not hold a whole network between them.
pub(crate) fn lpips(loss: &LossConfig, device: &Device) -> Result<Lpips> {
    if loss.perceptual_file.as_os_str().is_empty() {
        bail!(
            "loss.perceptual_weight = {} needs the weights of LPIPS, and none are given. Set \
             loss.perceptual_file to a whole LPIPS network or a reference VQGAN checkpoint (which \
             holds one), or to torchvision's vgg16-*.pth together with loss.perceptual_heads (the \
             vgg.pth of LPIPS); or train without them: loss.perceptual = \"substitute\" for a loss \
             that needs no weights (see docs/training.md), loss.perceptual_weight = 0 for none",
            loss.perceptual_weight
        );
    }
    let file = open(&loss.perceptual_file)?;
    let mut tensors = network(&file, device)?
        .with_context(|| format!("{} holds no VGG-16", loss.perceptual_file.display()))?;
    if !loss.perceptual_heads.as_os_str().is_empty() {
        add_heads(&mut tensors, &loss.perceptual_heads, device)?;
    }
    ensure!(
        tensors.contains_key("lin0.model.1.weight"),
        "{} holds a VGG-16 without the heads of LPIPS: set loss.perceptual_heads to the file that \
         has them (vgg.pth of LPIPS, keys lin0.model.1.weight ...)",
        loss.perceptual_file.display()
    );
    let vb = VarBuilder::from_tensors(tensors, DType::F32, device);
    let whole = || {
        let heads = Some(&loss.perceptual_heads).filter(|path| !path.as_os_str().is_empty());
        let heads = heads.map_or(String::new(), |path| format!(" with {}", path.display()));
        format!("LPIPS of {}{heads}", loss.perceptual_file.display())
    };
    Lpips::new(&LpipsConfig::of_weights(&vb).with_context(whole)?, vb).with_context(whole)
}

/// Opens a file that is here, or on the hub as `owner/name[@revision]:FILE`.
fn open(path: &Path) -> Result<TensorFile> {
    let Some(id) = pipeline::hub_id(path) else { return Ok(TensorFile::open(path)?) };
    ensure!(
        id.file().is_some(),
        "{}: no such file; and as a name on the hub it names no file (owner/name:FILE)",
        path.display()
    );
    Ok(TensorFile::open(pipeline::locate(path, &mut |_: &str, _, _| ())?)?)
}

/// The tensors of the network in `file` under LPIPS's own names, with heads where they
/// lie beside it; `None` where there is no network.
fn network(file: &TensorFile, device: &Device) -> Result<Option<HashMap<String, Tensor>>> {
    let names: Vec<String> = file.names().map(str::to_string).collect();
    let has = |name: &str| names.iter().any(|other| other == name);
    let mut tensors = HashMap::new();
    if let Some(prefix) =
        PREFIXES.iter().find(|prefix| has(&format!("{prefix}net.slice1.0.weight")))
    {
        for name in &names {
            if let Some(key) = name.strip_prefix(prefix)
                && ["net.", "lin", "scaling_layer."].iter().any(|part| key.starts_with(part))
            {
                tensors.insert(key.to_string(), file.tensor(name, device)?);
            }
        }
        return Ok(Some(tensors));
    }
    if !has("features.0.weight") {
        return Ok(None);
    }
    for (slice, indices) in SLICES {
        for (index, part) in indices.iter().flat_map(|i| [(i, "weight"), (i, "bias")]) {
            let tensor = file.tensor(&format!("features.{index}.{part}"), device)?;
            tensors.insert(format!("net.slice{slice}.{index}.{part}"), tensor);
        }
    }
    Ok(Some(tensors))
}

/// Adds the heads of the file `path`.
fn add_heads(tensors: &mut HashMap<String, Tensor>, path: &Path, device: &Device) -> Result<()> {
    let file = open(path)?;
    for i in 0..HEADS {
        let key = format!("lin{i}.model.1.weight");
        let tensor = file.tensor(&key, device).context("the heads of LPIPS")?;
        tensors.insert(key, tensor);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoints::save_safetensors;
    use std::path::PathBuf;

    fn config(file: PathBuf, heads: PathBuf) -> LossConfig {
        LossConfig {
            perceptual_weight: 1.0,
            perceptual_file: file,
            perceptual_heads: heads,
            ..LossConfig::default()
        }
    }

    fn error(loss: &LossConfig) -> String {
        lpips(loss, &Device::Cpu).err().map(|e| format!("{e:#}")).unwrap_or_default()
    }

    /// The reference checkpoint's LPIPS, cut up as torchvision and LPIPS hand it out,
    /// measures the same.
    #[test]
    fn a_network_in_two_files_is_the_one_in_the_checkpoint() -> Result<()> {
        let Some(group) = golden::group("vqgan_a")? else { return Ok(()) };
        let whole = group.path("model.safetensors");
        let tensors = group.tensors("model.safetensors")?;
        let dir = tempfile::tempdir()?;
        let (vgg, heads) = (dir.path().join("vgg16.pth"), dir.path().join("vgg.pth"));
        let (mut of_vgg, mut of_heads) = (Vec::new(), Vec::new());
        for (name, tensor) in &tensors {
            let Some(key) = name.strip_prefix("loss.perceptual_loss.") else { continue };
            match key.strip_prefix("net.slice").and_then(|key| key.split_once('.')) {
                Some((_, rest)) => of_vgg.push((format!("features.{rest}"), tensor)),
                None if key.starts_with("lin") => of_heads.push((key.to_string(), tensor)),
                None => {}
            }
        }
        assert_eq!((of_vgg.len(), of_heads.len()), (26, 5));
        save_safetensors(&vgg, of_vgg, [])?;
        save_safetensors(&heads, of_heads, [])?;

        let x = &group.inputs()?["x"];
        let expected = group.expected("outputs.safetensors")?;
        let made = expected.get("rec")?;
        for loss in [config(whole, PathBuf::new()), config(vgg.clone(), heads.clone())] {
            expected.check("val/lpips", &lpips(&loss, &Device::Cpu)?.forward(x, made)?)?;
        }

        assert!(error(&config(vgg, PathBuf::new())).contains("without the heads of LPIPS"));
        assert!(error(&config(heads, PathBuf::new())).contains("holds no VGG-16"));
        Ok(())
    }

    /// LPIPS hands its heads out in a legacy file whose storages are on cuda:0.
    #[test]
    fn the_heads_that_lpips_hands_out() -> Result<()> {
        let Some(group) = golden::group("ckpt_formats")? else { return Ok(()) };
        let heads = group.path("lpips_heads_legacy_cuda.pth");
        let expected = group.tensors("expected_lpips.safetensors")?;
        let mut read = HashMap::new();
        add_heads(&mut read, &heads, &Device::Cpu)?;
        assert_eq!((read.len(), expected.len()), (HEADS, HEADS));
        for (name, tensor) in &expected {
            golden::close(name, &read[name], tensor, 0.0)?;
        }
        // With a VGG-16 of torchvision's names they measure as the same ones in safetensors.
        let dir = tempfile::tempdir()?;
        let (vgg, same) = (dir.path().join("vgg16.pth"), dir.path().join("heads.safetensors"));
        let mut tensors = Vec::new();
        let (widths, mut inputs) = ([64, 128, 256, 512, 512], 3);
        for ((_, indices), width) in SLICES.into_iter().zip(widths) {
            for index in indices {
                let weight = Tensor::new(&[0.5_f32, -1.0, 2.0], &Device::Cpu)?;
                let weight = (weight.reshape((1, 1, 1, 3))? / (9 * inputs) as f64)?;
                let weight = weight.broadcast_as((width, inputs, 3, 3))?.contiguous()?;
                tensors.push((format!("features.{index}.weight"), weight));
                let bias = Tensor::full(0.1_f32, width, &Device::Cpu)?;
                tensors.push((format!("features.{index}.bias"), bias));
                inputs = width;
            }
        }
        save_safetensors(&vgg, tensors.iter().map(|(name, tensor)| (name, tensor)), [])?;
        save_safetensors(&same, &expected, [])?;
        let ramp = Tensor::arange(0_f32, 3.0 * 256.0, &Device::Cpu)?.reshape((1, 3, 16, 16))?;
        let (x, y) = ((&ramp / 400.0)?.sin()?, (ramp / 90.0)?.cos()?);
        let measure = |heads: &Path| -> Result<Vec<f32>> {
            let loss = config(vgg.clone(), heads.to_path_buf());
            Ok(lpips(&loss, &Device::Cpu)?.forward(&x, &y)?.flatten_all()?.to_vec1()?)
        };
        let measured = measure(&heads)?;
        assert!(measured[0].is_finite() && measured[0] != 0.0, "{measured:?}");
        assert_eq!(measured, measure(&same)?);
        Ok(())
    }

    #[test]
    fn what_is_not_here_and_no_file_on_the_hub() {
        let text = error(&config("owner/name".into(), PathBuf::new()));
        assert!(text.contains("owner/name: no such file") && text.contains(":FILE"), "{text}");
    }

    #[test]
    fn without_weights_it_says_what_would_do() {
        let text = error(&config(PathBuf::new(), PathBuf::new()));
        for part in ["perceptual_file", "perceptual_heads", "vgg16-*.pth", "substitute"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
