//! Training in bf16, where there is an NVIDIA GPU: near that in f32 on the same device.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use cond_transformer::GptConfig;
use pipeline::Architecture;
use training::{
    CodeModel, Lesson, ParameterStore, Precision, TrainConfig, TransformerTrainConfig,
    TransformerTrainer, VqTrainer, adversary, reconstruction_loss,
};
use vq_autoencoder::VqModel;

/// How far a loss in bf16, which has 8 bits, may be from that in f32, as a share.
const LOSSES: f64 = 0.03;
/// The same after updates, which Adam begins with the signs of gradients, and after which
/// vectors have other codes.
const LATER: f64 = 0.2;

/// The first GPU, if this build and machine have one.
fn gpu(test: &str) -> Option<Device> {
    let device = Device::new_cuda_with_stream(0).ok();
    match &device {
        Some(device) => layers::cuda::prepare(device).ok()?,
        None => println!("{test} skipped: no CUDA device"),
    }
    device
}

fn near(name: &str, step: u64, (half, exact): (f64, f64), share: f64) -> Result<()> {
    let off = (half - exact).abs();
    ensure!(off <= share * exact.abs(), "{name} of step {step}: {half}, not {exact}");
    Ok(())
}

#[test]
fn a_first_stage() -> Result<()> {
    let Some(device) = gpu("a_first_stage") else { return Ok(()) };
    let mut config = TrainConfig::default();
    config.adversarial.weight = 0.1;
    config.adversarial.start = 0;
    config.adversarial.patchgan.ndf = 16;
    config.adversarial.patchgan.n_layers = 2;
    let trainer = |precision: Precision| -> Result<VqTrainer> {
        let parameters = ParameterStore::new(config.seed);
        let vb = parameters.var_builder(precision.dtype(&device)?, &device);
        let model = VqModel::new(&config.model, vb)?;
        let loss = reconstruction_loss(&config, &device)?;
        VqTrainer::new(&config, model, parameters, loss, adversary(&config, &device)?)
    };
    let (mut half, mut exact) = (trainer(Precision::Bf16)?, trainer(Precision::F32)?);
    assert_eq!(half.model.dtype(), DType::BF16);
    let images = (Tensor::arange(0f32, (4 * 3 * 32 * 32) as f32, &device)? * 0.07)?.sin()?;
    let images = images.reshape((4, 3, 32, 32))?;
    let mut first = None;
    for step in 0..30 {
        let (a, b) = (half.step(&images, 1e-3, step)?, exact.step(&images, 1e-3, step)?);
        assert_eq!((a.broken, b.broken), (None, None), "{:?}", a.terms);
        if step < 3 {
            let losses = (a.terms["pixel_loss"], b.terms["pixel_loss"]);
            println!("pixel loss of step {step} in bf16 and f32: {losses:?}");
            near("pixel_loss", step, losses, if step == 0 { LOSSES } else { LATER })?;
        }
        let first = *first.get_or_insert(a.terms["pixel_loss"]);
        ensure!(step < 29 || a.terms["pixel_loss"] < 0.9 * first, "{:?}", a.terms);
        assert!(a.gradients.iter().all(|(_, gradient)| gradient.dtype() == DType::F32));
    }
    Ok(())
}

#[test]
fn a_transformer() -> Result<()> {
    let Some(device) = gpu("a_transformer") else { return Ok(()) };
    let (vocab_size, block_size, n_layer, n_head, n_embd) = (65, 64, 2, 4, 64);
    let config = GptConfig { vocab_size, block_size, n_layer, n_head, n_embd, n_unmasked: 0 };
    let architecture = Architecture::Gpt(config);
    let mut config = TransformerTrainConfig::default();
    config.dropout.residual = 0.1;
    let trainer = |precision: Precision| -> Result<TransformerTrainer> {
        let store = ParameterStore::new(1);
        let vb = store.var_builder(precision.dtype(&device)?, &device);
        TransformerTrainer::new(&config, CodeModel::new(&architecture, vb)?, store, 64, None)
    };
    let codes: Vec<u32> = (0..8 * 64).map(|i| (i * i / 3 + i) % 64).collect();
    let targets = Tensor::from_vec(codes, (8, 64), &Device::Cpu)?;
    let lesson = Lesson {
        conditions: Tensor::full(64u32, (8, 1), &device)?,
        inputs: targets.to_device(&device)?,
        targets,
    };
    let (mut half, mut exact) = (trainer(Precision::Bf16)?, trainer(Precision::F32)?);
    // Two lessons make one update, whose gradients are added up.
    let lessons = [lesson.clone(), lesson];
    for step in 0..30 {
        let (a, b) = (half.update(&lessons, 1e-3, step)?, exact.update(&lessons, 1e-3, step)?);
        assert_eq!((a.broken, b.broken), (None, None), "{:?}", a.terms);
        if step < 10 {
            near("nll", step, (a.terms["nll"], b.terms["nll"]), LOSSES)?;
        }
        ensure!(step < 29 || a.terms["nll"] < 0.9 * 64f64.ln(), "{:?}", a.terms);
    }
    Ok(())
}
