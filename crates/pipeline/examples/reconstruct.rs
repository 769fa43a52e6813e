//! A picture through a codec: `cargo run --release -p pipeline --example
//! reconstruct -- MODEL IN.png OUT.png`.

use std::path::Path;

use anyhow::{Context, Result};
use image_data::{Limits, load_rgb, save_png};
use pipeline::{Codec, LoadOptions, ModelSpec};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: reconstruct MODEL IN.png OUT.png");
    let (model, input, output) = (next()?, next()?, next()?);

    let codec = Codec::load(&ModelSpec::new(model), &LoadOptions::default())?;
    let picture = load_rgb(Path::new(&input), &Limits::default())?;
    let codes = codec.encode_images(std::slice::from_ref(&picture))?;
    let (_, h, w) = codes.dims();
    println!("{w}x{h} codes of {}, codec {}", codec.describe().codes, codec.sha256());

    let decoded = codec.decode(&codes, picture.dimensions())?;
    save_png(Path::new(&output), &decoded[0], &[], false)?;
    Ok(())
}
