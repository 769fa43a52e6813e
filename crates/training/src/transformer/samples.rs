//! Pictures drawn with a finished model folder.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_data::{grid, save_png};
use pipeline::{
    ConditionConfig, DrawRequest, Front, Generator, GeneratorSpec, GuidanceOptions, LoadOptions,
    Stream, Wavefront,
};

/// Pixels between pictures.
const GAP: u32 = 2;

/// Draws `count` pictures with the model in `folder` as it recommends, and writes them as
/// one grid: of its classes in turn, or of `prompts` in turn.
///
/// # Errors
/// If the folder holds no transformer, or it needs prompts and there are none.
pub fn write_samples(
    folder: &Path,
    prompts: &[String],
    count: usize,
    seed: u64,
    path: &Path,
) -> Result<()> {
    let generator = Generator::load(&GeneratorSpec::new(folder), &LoadOptions::default())?;
    let config = generator.config();
    let rows_columns = (config.grid[0], config.grid[1]);
    let fronts: Vec<Front> = match &config.condition {
        ConditionConfig::Class(classes) => (0..count)
            .map(|i| Ok(generator.front_of_class(&classes.names[i % classes.names.len()])?))
            .collect::<Result<_>>()?,
        ConditionConfig::Text(_) => {
            ensure!(!prompts.is_empty(), "a model of text needs prompts to draw samples");
            let prompts = prompts.iter().cycle().take(count);
            prompts.map(|prompt| Ok(generator.front_of_text(prompt)?)).collect::<Result<_>>()?
        }
        _ => vec![generator.front_of_nothing(rows_columns)?; count],
    };
    let request = DrawRequest {
        fronts,
        streams: Stream::range(seed, 0, count),
        grid: rows_columns,
        sampling: config.sampling.sampling(),
        guidance: Some(GuidanceOptions { scale: config.sampling.cfg_scale, interval: None }),
        forced: Vec::new(),
        wavefront: Wavefront::default(),
    };
    let codes = generator.draw(&request, &mut |_| ())?;
    let pictures = generator.decode(&codes, generator.training_size())?;
    let columns = (count as f64).sqrt().ceil() as usize;
    let text = [("Description".to_owned(), format!("samples of {}", folder.display()))];
    save_png(path, &grid(&pictures, columns, GAP), &text, true).context("samples")?;
    Ok(())
}
