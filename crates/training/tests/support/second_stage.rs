//! A small second stage: pictures, a first stage, settings.

use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device};
use codebook::QuantizerConfig;
use image::{Rgb, RgbImage};
use pipeline::CodecInput;
use training::{
    Limits, ParameterStore, RunConfig, Summary, TrainConfig, TransformerTrainConfig,
    train_transformer, write_model,
};
use vq_autoencoder::VqModel;

use crate::support::Warnings;

/// Pictures of gradients and squares in two folders, with captions.
fn pictures(folder: &Path) -> Result<()> {
    let mut captions = String::new();
    for i in 0..14u32 {
        let class = ["dark", "light"][(i % 2) as usize];
        std::fs::create_dir_all(folder.join(class))?;
        let picture = RgbImage::from_fn(20 + i, 18, |x, y| {
            let shade = if i % 2 == 0 { 20 } else { 200 };
            Rgb([(6 * x) as u8, (6 * y) as u8, shade + i as u8])
        });
        let file = format!("{class}/{i:02}.png");
        picture.save(folder.join(&file))?;
        captions += &format!("{{\"file\": {file:?}, \"caption\": \"a {class} picture\"}}\n");
    }
    std::fs::write(folder.join("captions.jsonl"), captions)?;
    Ok(())
}

/// A first stage that nobody trained: its codes are as good as any.
pub fn first_stage(folder: &Path, codes: usize, seed: u64) -> Result<()> {
    let mut config = TrainConfig::default();
    config.model.ch_mult = vec![1, 1, 1];
    config.model.z_channels = 8;
    config.model.quantizer =
        QuantizerConfig::Normalized { len: codes, dim: 4, beta: 0.25, entropy_ratio: 0.0 };
    let store = ParameterStore::new(seed);
    VqModel::new(&config.model, store.var_builder(DType::F32, &Device::Cpu))?;
    write_model(folder, &config, &CodecInput::Pictures, 0, &store.tensors(), None)
}

pub fn config(dir: &Path, run: &str, condition: &str) -> Result<TransformerTrainConfig> {
    let text = r#"
        steps = 6
        batch = 3
        accumulate = 2
        crops = 2
        pkeep = 0.9
        [pictures]
        side = 16
        largest = 18
        [dropout]
        embedding = 0.1
        residual = 0.1
        attention = 0.1
        [optimizer]
        ema = 0.9
        clip = 1.0
        [optimizer.schedule]
        lr = 1e-3
        warmup = 2
        decay = "cosine"
        floor = 0.1
        [validation]
        every = 2
        fraction = 0.3
        [log]
        every = 1
        preview_every = 3
        preview_pictures = 2
        [model]
        kind = "gpt"
        n_layer = 2
        n_head = 2
        n_embd = 16
    "#;
    let mut overrides: Vec<_> = condition.split_whitespace().map(str::to_owned).collect();
    overrides.push(format!("data={}", dir.join("pictures").display()));
    overrides.push(format!("first-stage={}", dir.join("vqgan").display()));
    overrides.push(format!("run={}", dir.join(run).display()));
    TransformerTrainConfig::parse(text, &overrides)
}

pub fn train(config: &TransformerTrainConfig, stop_at: Option<u64>) -> Result<Summary> {
    let mut warnings = Warnings::default();
    let limits = Limits { stop_at, ..Limits::default() };
    let summary = train_transformer(config, &Device::Cpu, limits, &mut warnings)?;
    assert_eq!(warnings.0, Vec::<String>::new());
    Ok(summary)
}

pub fn setting() -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("pictures"))?;
    pictures(&dir.path().join("pictures"))?;
    first_stage(&dir.path().join("vqgan"), 24, 3)?;
    Ok(dir)
}
