//! The training step of a segmentation model against the reference's own.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use codebook::QuantizerConfig;
use training::{
    InputKind, ParameterStore, PixelLoss, RunConfig, TrainConfig, VqTrainer, reconstruction_loss,
};
use vq_autoencoder::{Layout, VqConfig, VqModel};

/// `VQSegmentationModel` with `BCELossWithQuant`.
#[test]
fn bce_with_quant() -> Result<()> {
    let Some(group) = golden::group("net2net_seg")? else { return Ok(()) };
    let device = Device::Cpu;
    let mut config = TrainConfig {
        input: InputKind::Labels,
        model: VqConfig {
            layout: Layout::Taming,
            in_channels: 7,
            out_channels: 7,
            ch: 32,
            ch_mult: vec![1, 1],
            num_res_blocks: 1,
            attn_resolutions: Vec::new(),
            resolution: 32,
            z_channels: 8,
            quantizer: QuantizerConfig::Euclidean {
                len: 24,
                dim: 8,
                beta: 0.25,
                legacy_beta: true,
            },
            dropout: 0.0,
        },
        ..TrainConfig::default()
    };
    config.loss.pixel = PixelLoss::Bce;
    config.validate()?;

    let weights = group.tensors("model.safetensors")?;
    let parameters = ParameterStore::new(0);
    let model = VqModel::new(&config.model, parameters.var_builder(DType::F32, &device))?;
    let own: HashMap<_, _> = parameters
        .variables()
        .into_iter()
        .map(|(name, _)| {
            let theirs = format!("cond_stage_model.{name}");
            Ok((name, weights.get(&theirs).context(theirs)?.clone()))
        })
        .collect::<Result<_>>()?;
    parameters.load(&own)?;
    let loss = reconstruction_loss(&config, &device)?;
    let mut trainer = VqTrainer::new(&config, model, parameters, loss, None)?;

    let labels = group.inputs()?["labels"].to_dtype(DType::U8)?;
    let outcome = trainer.step(&image_data::one_hot(&labels, 7)?, 1e-4, 0)?;
    for term in ["bce_loss", "quant_loss", "total_loss"] {
        group.check_scalar(&format!("segmode/{term}"), outcome.terms[term])?;
    }
    let expected = group.expected("outputs.safetensors")?;
    let mut checked = 0;
    for name in expected.names() {
        let Some(key) = name.strip_prefix("segmode/grad/") else { continue };
        let gradient =
            outcome.gradients.iter().find(|(own, _)| own == key).context(key.to_owned())?;
        expected.check(name, &gradient.1)?;
        checked += 1;
    }
    assert_eq!(checked, 4);
    Ok(())
}
