//! What a run says when it goes wrong.

mod support;

use anyhow::Result;
use candle_core::Device;
use image::{Rgb, RgbImage};
use training::{Limits, RunConfig, TrainConfig, train_vqgan};

use support::Warnings;

#[test]
fn losses_that_stay_broken_end_the_run_and_name_the_pictures() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for i in 0..3u8 {
        let picture = RgbImage::from_fn(16, 16, |x, y| Rgb([16 * x as u8, 16 * y as u8, 80 * i]));
        picture.save(dir.path().join(format!("p{i}.png")))?;
    }
    let mut config = TrainConfig::parse(
        r#"
        steps = 40
        batch = 3
        [pictures]
        side = 16
        largest = 16
        [optimizer]
        patience = 2
        [optimizer.schedule]
        lr = 1e30
        [model]
        ch_mult = [1, 1]
        resolution = 16
        "#,
        &[],
    )?;
    config.data = dir.path().to_path_buf();
    config.run = dir.path().join("run");
    config.validation.fraction = 0.0;
    let mut warnings = Warnings::default();
    let result = train_vqgan(&config, &Device::Cpu, Limits::default(), &mut warnings);
    let error = result.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("as were the 2 before it"), "{error}");
    for part in ["is not finite; the batch was skipped", "p0.png", "p1.png", "p2.png"] {
        assert!(error.contains(part), "{error}");
        assert!(warnings.0[0].contains(part), "{:?}", warnings.0);
    }
    assert_eq!(warnings.0.len(), 3);
    let log = std::fs::read_to_string(config.run.join("metrics.jsonl"))?;
    assert_eq!(log.matches("\"kind\":\"skipped\"").count(), 3, "{log}");
    assert!(log.contains("\"skipped\":3.0"), "{log}");
    Ok(())
}
