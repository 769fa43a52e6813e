//! The published f16 model with 16384 codes, on one picture of 256x256.

use std::cell::OnceCell;
use std::rc::Rc;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use serde_json::json;
use vq_autoencoder::{ImageCodec, VqConfig, VqModel};

use super::case::{Case, Contestants, Results, Work};
use super::memory::{self, Peak};
use super::{operations, pattern};

const PRESET: &str = "imagenet-f16-16384";
const SIDE: usize = 256;
/// The part whose peak memory is measured.
const ROUND_TRIP: &str = "round trip";

fn config() -> Result<VqConfig> {
    VqConfig::preset(PRESET).with_context(|| format!("there is no preset {PRESET}"))
}

fn model(dtype: DType) -> Result<VqModel> {
    Ok(VqModel::new(&config()?, pattern::codec_builder(dtype))?)
}

fn round_trip(model: &VqModel, x: &Tensor) -> Result<Tensor> {
    Ok(model.decode(&model.encode(x)?)?)
}

/// Encoder, decoder, and both with the quantizer between; ours computes in `dtype`.
pub fn cases(dtype: DType) -> Result<Vec<Case>> {
    let config = config()?;
    let side = SIDE / config.factor();
    let (image, latent) =
        ([1, config.in_channels, SIDE, SIDE], [1, config.quantizer.dim(), side, side]);
    // One model for all, made when the first needs it.
    let shared = Rc::new(OnceCell::new());
    let encoder = operations::encoder(&config, SIDE);
    let decoder = operations::decoder(&config, SIDE);
    let search = 2 * side * side * config.quantizer.len() * config.quantizer.dim();
    type Run = fn(&VqModel, &Tensor) -> Result<Tensor>;
    let parts: [(&'static str, [usize; 4], usize, Run); 3] = [
        ("encoder", image, encoder, |model, x| Ok(model.pre_quant(x)?)),
        ("decoder", latent, decoder, |model, x| Ok(model.decode_embeddings(x)?)),
        (ROUND_TRIP, image, encoder + search + decoder, round_trip),
    ];
    let case = |(part, shape, flops, run): (&'static str, [usize; 4], usize, Run)| {
        let shared = Rc::clone(&shared);
        let make = move || {
            if shared.get().is_none() {
                // Nobody else can have set it: there is one thread here.
                let _ = shared.set(model(dtype)?);
            }
            let x = pattern::pattern("x", &shape[..], 1.0)?;
            let x = x.to_dtype(shared.get().map_or(dtype, VqModel::dtype))?;
            let ours: Work = Box::new(move || {
                let model = shared.get().context("the model is gone")?;
                Ok(vec![run(model, &x)?])
            });
            Ok(Contestants { ours, candle: None })
        };
        Ok(Case {
            name: format!("{PRESET} {part} {SIDE}x{SIDE}"),
            flops: Some(flops as f64),
            request: json!({ "model": &config, "part": part, "x": shape, "dtype": dtype.as_str() }),
            results: if dtype == DType::F32 { Results::Numbers } else { Results::HalfNumbers },
            make: Box::new(make),
        })
    };
    parts.into_iter().map(case).collect()
}

/// The round trip whose memory is measured, for Python.
pub fn memory_request(dtype: DType) -> Result<serde_json::Value> {
    let config = config()?;
    let shape = [1, config.in_channels, SIDE, SIDE];
    Ok(json!({ "model": config, "part": ROUND_TRIP, "x": shape, "dtype": dtype.as_str() }))
}

/// Peak memory of this process, before and after one round trip.
pub fn round_trip_memory(dtype: DType) -> Result<Peak> {
    let bare = memory::peak()?;
    let model = model(dtype)?;
    let x = pattern::pattern("x", (1, model.config().in_channels, SIDE, SIDE), 1.0)?;
    round_trip(&model, &x.to_dtype(model.dtype())?)?;
    Ok(Peak { bare, peak: memory::peak()? })
}
