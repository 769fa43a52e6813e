//! Lists the tensors of a checkpoint without reading them, then, if a prefix is
//! given, loads those and says how long that took.
//!
//! ```text
//! cargo run --release -p checkpoints --example list_tensors -- last.ckpt [PREFIX]
//! ```

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Device;
use checkpoints::{TensorFile, reference_key_use};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().context("usage: list_tensors FILE [PREFIX]")?;
    let prefix = args.next().map(|prefix| prefix.to_string_lossy().into_owned());

    let start = Instant::now();
    let file = TensorFile::open(&path)?;
    eprintln!("{:?}, section {:?}, opened in {:?}", file.kind(), file.section(), start.elapsed());
    let Some(prefix) = prefix else {
        for name in file.names() {
            let (shape, dtype) = (file.shape(name), file.stored_dtype(name));
            let (shape, dtype) = shape.zip(dtype).context("a name without a tensor")?;
            println!("{name}\t{:?}\t{dtype}\t{:?}", shape.dims(), reference_key_use(name));
        }
        return Ok(());
    };
    let start = Instant::now();
    let mut tensors = Vec::new();
    for name in file.names().filter(|name| name.starts_with(&prefix)) {
        tensors.push(file.tensor(name, &Device::Cpu)?);
    }
    let bytes: usize = tensors.iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum();
    println!("{} tensors, {bytes} bytes in {:?}", tensors.len(), start.elapsed());
    Ok(())
}
