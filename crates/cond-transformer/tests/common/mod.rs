//! What the tests read.
#![allow(dead_code)] // Each test binary uses its part.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use cond_transformer::Stream;
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

/// Weights that depend on name and shape only, large enough for lively logits.
struct Seeded;

impl candle_nn::var_builder::SimpleBackend for Seeded {
    fn get(
        &self,
        shape: candle_core::Shape,
        name: &str,
        init: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if let candle_nn::Init::Const(value) = init
            && value != 0.0
        {
            return Tensor::full(value as f32, shape, device)?.to_dtype(dtype);
        }
        let seed = name.bytes().fold(7_u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        let stream = Stream { seed, sample: 0 };
        let values = (0..shape.elem_count()).map(|i| (stream.uniform(i) as f32 - 0.5) * 0.8);
        Tensor::from_vec(values.collect::<Vec<f32>>(), shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, _: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("weights have shapes")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Weights by [`Seeded`].
pub fn weights(dtype: DType) -> VarBuilder<'static> {
    weights_on(dtype, &Device::Cpu)
}

/// [`weights`] on a device.
pub fn weights_on(dtype: DType, device: &Device) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Seeded), dtype, device.clone())
}
