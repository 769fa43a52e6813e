//! How many pictures a second the loader delivers, to see whether data hold training up.
//!
//! `cargo run --release -p image-data --example throughput -- DATASET [SIZE] [BATCHES]`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use image_data::{
    BatchPlan, Batches, Catalog, CatalogConfig, Crop, PictureDataset, ResizeRule, Split, ViewConfig,
};

const BATCH: usize = 16;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dataset, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: throughput DATASET [SIZE] [BATCHES]");
    };
    let number = |i: usize, default: usize| match rest.get(i) {
        Some(text) => text.parse().with_context(|| text.clone()),
        None => Ok(default),
    };
    let (size, count) = (number(0, 128)? as u32, number(1, 100)?);
    let begun = Instant::now();
    let catalog = Catalog::open(Path::new(dataset), &CatalogConfig::default())?;
    println!("{}; opened in {:.0} ms", catalog.description(), begun.elapsed().as_secs_f64() * 1e3);

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let scales = ResizeRule::Scales { smallest: 0, largest: size + size / 4, whole: 0.0 };
    for (name, resize) in
        [("taming", ResizeRule::Taming), ("adm", ResizeRule::Adm), ("scales", scales)]
    {
        for workers in [1, cores] {
            let view = ViewConfig {
                crop: Crop::Random,
                flip: true,
                resize,
                cache_bytes: 0,
                ..ViewConfig::new(size)
            };
            let pictures = Arc::new(PictureDataset::new(&catalog, Split::Train, view)?);
            let plan = BatchPlan { workers, ..BatchPlan::new(BATCH, 0) };
            let begun = Instant::now();
            let batches = Batches::with_plan(pictures, plan)?.take(count);
            let mut seen = 0;
            for batch in batches {
                seen += batch?.names.len();
            }
            let rate = seen as f64 / begun.elapsed().as_secs_f64();
            println!("{name}, {size} px, {workers} workers: {rate:.0} pictures/s");
        }
    }
    Ok(())
}
