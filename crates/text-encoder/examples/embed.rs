//! A caption's embeddings: `cargo run --release --example embed -p text-encoder -- FOLDER
//! CAPTION [WIDTH]`, with the width of the encoder (2048: flan-T5-XL).

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Device;
use text_encoder::{TextEncoder, Wanted, clean_caption};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = args.first().context("the folder of a T5 encoder is missing")?;
    let caption = args.get(1).context("the caption is missing")?;
    let dim = args.get(2).map_or(Ok(2048), |width| width.parse())?;

    let started = Instant::now();
    let wanted = Wanted { positions: 120, dim };
    let encoder = TextEncoder::load(Path::new(folder), wanted, &Device::Cpu)?;
    println!("loaded in {:.1} s", started.elapsed().as_secs_f64());

    let started = Instant::now();
    let embedded = encoder.embed(caption)?;
    let tokens = embedded.present.iter().filter(|&&present| present).count();
    println!(
        "{:?}: {tokens} tokens, {} left out, in {:.2} s",
        clean_caption(caption),
        embedded.left_out,
        started.elapsed().as_secs_f64()
    );
    for (row, there) in embedded.embeddings.chunks(dim).zip(&embedded.present) {
        if *there {
            println!("{:?} ...", &row[..dim.min(6)]);
        }
    }
    Ok(())
}
