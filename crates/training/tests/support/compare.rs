//! What two runs must have in common to be one.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use serde_json::{Map, Value};
use training::{Checkpoints, MEASURED, RunConfig};

/// All of the newest checkpoint, as bits: those of f64, which holds every other number.
pub fn bits(config: &impl RunConfig) -> Result<BTreeMap<String, Vec<u64>>> {
    let checkpoints = Checkpoints::new(config.frame().run.join("checkpoints"), 2);
    let loaded = checkpoints.newest(&Device::Cpu)?.0.context("no checkpoint")?;
    assert_eq!(loaded.progress.step, config.frame().steps);
    let to_bits = |tensor: &Tensor| -> Result<Vec<u64>> {
        let flat = tensor.flatten_all()?.to_dtype(candle_core::DType::F64)?;
        Ok(flat.to_vec1::<f64>()?.into_iter().map(f64::to_bits).collect())
    };
    loaded.tensors.iter().map(|(name, tensor)| Ok((name.clone(), to_bits(tensor)?))).collect()
}

/// The log without what measures the process and not the run.
pub fn lines(config: &impl RunConfig) -> Result<Vec<Map<String, Value>>> {
    let text = std::fs::read_to_string(config.frame().run.join("metrics.jsonl"))?;
    let line = |line| -> Result<Map<String, Value>> {
        let mut line: Map<String, Value> = serde_json::from_str(line)?;
        line.retain(|name, _| !MEASURED.contains(&name.as_str()));
        Ok(line)
    };
    text.lines().map(line).collect()
}
