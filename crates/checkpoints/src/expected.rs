//! Which tensors a network needs, found out by building it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::error::Result;

/// Runs a network's constructor and notes the name and shape of every tensor
/// that it asks for. The constructor gets zeros that take no memory whatever
/// their shape, so that networks of any size can be asked.
///
/// A constructor that asks whether a tensor exists is told that it does.
///
/// # Errors
/// Those of the constructor; asking for a tensor without its shape; asking for
/// the same tensor in two shapes.
pub fn expected_tensors<T>(
    build: impl FnOnce(VarBuilder) -> candle_core::Result<T>,
) -> Result<BTreeMap<String, Shape>> {
    let names = Arc::new(Mutex::new(BTreeMap::new()));
    let backend: Box<dyn SimpleBackend> = Box::new(Recorder { names: Arc::clone(&names) });
    build(VarBuilder::new_with_args(backend, DType::F32, &Device::Cpu))?;
    let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *names))
}

struct Recorder {
    names: Arc<Mutex<BTreeMap<String, Shape>>>,
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = names.insert(name.to_string(), shape.clone())
            && before != shape
        {
            candle_core::bail!(
                "expected_tensors: {name} is asked for as {before:?} and as {shape:?}"
            );
        }
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("expected_tensors: {name} is asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_names_and_shapes_of_a_network_too_large_to_build() -> anyhow::Result<()> {
        let side = 1 << 24;
        let names = expected_tensors(|vb| candle_nn::linear(side, side, vb.pp("a").pp(0)))?;
        let names: Vec<_> = names.into_iter().collect();
        let expected =
            [("a.0.bias".to_string(), (side).into()), ("a.0.weight".into(), (side, side).into())];
        assert_eq!(names, expected);
        Ok(())
    }

    #[test]
    fn a_constructor_may_ask_what_there_is() -> anyhow::Result<()> {
        let names = expected_tensors(|vb| {
            let name = if vb.contains_tensor("gamma") { "gamma" } else { "weight" };
            vb.get(3, name)
        })?;
        assert_eq!(names.len(), 1);
        assert!(expected_tensors(|vb| vb.get_unchecked("weight")).is_err());
        assert!(expected_tensors(|vb| vb.get(3, "a").and_then(|_| vb.get(4, "a"))).is_err());
        Ok(())
    }
}
