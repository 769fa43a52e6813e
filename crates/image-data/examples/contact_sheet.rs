//! Shows what training sees: one batch of a dataset, cropped and flipped, as a picture.
//!
//! `cargo run --release -p image-data --example contact_sheet -- DATASET OUT.png [SIZE]`

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use image_data::{
    Batches, Catalog, CatalogConfig, Crop, Dataset, PictureDataset, Split, ViewConfig, from_tensor,
    grid, save_png,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, out, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: contact_sheet DATASET OUT.png [SIZE]");
    };
    let size = rest.first().map_or(Ok(64), |size| size.parse()).context("SIZE")?;
    let catalog = Catalog::open(Path::new(folder), &CatalogConfig::default())?;
    println!("{}", catalog.description());
    catalog.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    let view = ViewConfig { crop: Crop::Random, flip: true, ..ViewConfig::new(size) };
    let dataset = PictureDataset::new(&catalog, Split::Train, view)?;
    println!("first of {}: {:?}", dataset.len(), dataset.entries()[0]);

    let mut batches = Batches::new(Arc::new(dataset), 48, 0, 0, 0, 2)?;
    let batch = batches.next().context("no batch")??;
    let tiles = (0..batch.names.len())
        .map(|i| Ok(from_tensor(&batch.images.get(i)?)?))
        .collect::<Result<Vec<_>>>()?;
    for (index, reason) in batches.unreadable() {
        eprintln!("left out, number {index}: {reason}");
    }
    let text = [("parameters".to_string(), batch.names.join("\n"))];
    save_png(Path::new(out), &grid(&tiles, 8, 2), &text, true)?;
    println!("{out}: the first {} of epoch 0", tiles.len());
    Ok(())
}
