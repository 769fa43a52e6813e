//! Every preset has exactly the names and shapes of its published checkpoint.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use vq_autoencoder::{VqConfig, VqModel};

/// Key list, prefix in it, preset.
const LISTS: &[(&str, &str, &str)] = &[
    ("vqmodel_f16_1024_dummyloss", "", "imagenet-f16-1024"),
    ("vqmodel_f16_1024_with_loss", "", "imagenet-f16-1024"),
    ("vqmodel_f16_16384_with_loss_disc2", "", "imagenet-f16-16384"),
    ("vqmodel_f8_n16384_z4", "", "ldm-f8-16384"),
    ("gumbelvq_f8_8192", "", "openimages-f8-gumbel"),
    ("vqsegmentation_coco_183", "", "coco-segmentation-183"),
    ("llamagen_VQ-16", "", "llamagen-vq16"),
    ("llamagen_VQ-8", "", "llamagen-vq8"),
    ("net2net_cin_1.4B", "first_stage_model.", "imagenet-f16-16384"),
    ("net2net_coco_scene", "first_stage_model.", "coco-scene-f16-8192"),
    ("net2net_openimages_scene", "first_stage_model.", "openimages-scene-f16-8192"),
    ("net2net_drin", "first_stage_model.", "drin-f16-1024"),
    ("net2net_drin", "cond_stage_model.", "imagenet-depth"),
    ("net2net_faceshq", "first_stage_model.", "faceshq-f16-1024"),
    ("net2net_ffhq_uncond", "first_stage_model.", "ffhq-f16-1024"),
    ("net2net_sflckr_307M", "first_stage_model.", "sflckr-f16-1024"),
    ("net2net_sflckr_307M", "cond_stage_model.", "sflckr-segmentation-182"),
];

/// What checkpoints hold besides the autoencoder: the loss networks, the label
/// colours of segmentation models, LlamaGen's usage ring.
fn is_extra(key: &str) -> bool {
    key.starts_with("loss.") || key == "colorize" || key == "quantize.codebook_used"
}

#[test]
fn presets_have_the_published_keys() -> Result<()> {
    for &(list, prefix, preset) in LISTS {
        let Some(path) = golden::shared_path(&format!("reference/keys/{list}.txt")) else {
            return Ok(());
        };
        let mut published = BTreeMap::new();
        for line in std::fs::read_to_string(path)?.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split('\t');
            let (name, shape) = (columns.next().context("name")?, columns.next().context("shape")?);
            if let Some(name) = name.strip_prefix(prefix).filter(|name| !is_extra(name)) {
                published.insert(name.to_owned(), serde_json::from_str::<Vec<usize>>(shape)?);
            }
        }
        let config = VqConfig::preset(preset).with_context(|| format!("no preset {preset}"))?;
        let ours: BTreeMap<_, _> =
            checkpoints::expected_tensors(|vb| Ok(VqModel::new(&config, vb)?))?
                .into_iter()
                .map(|(name, shape)| (name, shape.into_dims()))
                .collect();
        for (name, shape) in &published {
            ensure!(ours.get(name) == Some(shape), "{preset}: {name} {shape:?} of {list}");
        }
        for name in ours.keys() {
            ensure!(published.contains_key(name), "{preset}: {name} is not in {list}");
        }
        let total: usize = ours.values().map(|shape| shape.iter().product::<usize>()).sum();
        ensure!(config.parameter_count()? == total as u64, "{preset}: {total} parameters");
    }
    Ok(())
}

#[test]
fn no_published_list_is_forgotten() -> Result<()> {
    let Some(folder) = golden::shared_path("reference/keys") else { return Ok(()) };
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let list = path.file_stem().and_then(|stem| stem.to_str()).context("name")?;
        for line in text.lines() {
            let key = line.split('\t').next().unwrap_or_default();
            if let Some(prefix) = key.strip_suffix("encoder.conv_in.weight") {
                let known = LISTS.iter().any(|(l, p, _)| (*l, *p) == (list, prefix));
                ensure!(known, "{list} has an autoencoder below {prefix:?}");
            }
        }
    }
    Ok(())
}
