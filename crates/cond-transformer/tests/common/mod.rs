//! What the tests read.
#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use golden::Group;

/// The reference's i64 indices as u32.
pub fn u32s(indices: &Tensor) -> Result<Tensor> {
    Ok(indices.to_dtype(DType::U32)?)
}

/// The tensors of a file as a source of weights.
pub fn read(group: &Group, file: &str) -> Result<VarBuilder<'static>> {
    Ok(VarBuilder::from_tensors(group.tensors(file)?, DType::F32, &Device::Cpu))
}

/// The tensors of a file as variables.
pub fn vars(group: &Group, file: &str) -> Result<BTreeMap<String, Var>> {
    group.tensors(file)?.into_iter().map(|(name, t)| Ok((name, Var::from_tensor(&t)?))).collect()
}
