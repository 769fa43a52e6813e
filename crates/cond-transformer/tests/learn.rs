//! Training on tapes against candle's graph: loss and every gradient, in f32 by the
//! kernels and in f64 by the formulas, with and without dropout.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use candle_nn::loss::cross_entropy;
use cond_transformer::{
    Conditions, Dropouts, Gpt, GptConfig, Llama, LlamaConfig, PrefixConfig, Stream,
};
use layers::Factors::F32;
use layers::Gradients;

type Variables = BTreeMap<String, Var>;

/// Makes a model over lively variables: `names` with shapes as the model asks.
fn variables<M>(
    dtype: DType,
    build: impl Fn(VarBuilder) -> cond_transformer::Result<M>,
) -> Result<(M, Variables)> {
    let map = candle_nn::VarMap::new();
    build(VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
    let mut variables = Variables::new();
    let data = map.data().lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    for (number, name) in data.keys().collect::<std::collections::BTreeSet<_>>().iter().enumerate()
    {
        let shape = data[*name].shape();
        let stream = Stream { seed: 5, sample: number as u64 };
        let values = (0..shape.elem_count()).map(|i| stream.uniform(i) * 1.2 - 0.5);
        let tensor = Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu)?;
        variables.insert(name.to_string(), Var::from_tensor(&tensor.to_dtype(dtype)?)?);
    }
    let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
    let vb = VarBuilder::from_tensors(tensors.collect(), dtype, &Device::Cpu);
    Ok((build(vb)?, variables))
}

/// Compares a loss and its gradients with those of a graph.
fn compare(
    name: &str,
    variables: &Variables,
    (loss, gradients): (f64, &Gradients),
    graph: &Tensor,
    tolerance: f64,
) -> Result<()> {
    let expected = graph.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    anyhow::ensure!((loss - expected).abs() < tolerance, "{name}: {loss}, not {expected}");
    let store = graph.backward()?;
    for (parameter, var) in variables {
        let expected = store.get(var.as_tensor()).with_context(|| parameter.clone())?;
        let found = gradients.get(var.as_tensor()).with_context(|| parameter.clone())?;
        golden::close(&format!("{name}: {parameter}"), found, expected, tolerance)?;
    }
    Ok(())
}

const DTYPES: [(DType, f64); 2] = [(DType::F32, 2e-5), (DType::F64, 1e-10)];

fn gpt(dtype: DType, unmasked: usize) -> Result<(Gpt, Variables)> {
    let config = GptConfig {
        vocab_size: 11,
        block_size: 80,
        n_layer: 2,
        n_head: 2,
        n_embd: 12,
        n_unmasked: unmasked,
    };
    variables(dtype, |vb| Gpt::new(&config, vb))
}

fn tokens(batch: usize, len: usize) -> Result<Tensor> {
    let values: Vec<u32> = (0..batch * len).map(|i| ((i * i + 3 * i) % 11) as u32).collect();
    Ok(Tensor::from_vec(values, (batch, len), &Device::Cpu)?)
}

#[test]
fn gpt_learns_what_its_graph_says() -> Result<()> {
    for (dtype, tolerance) in DTYPES {
        // More positions than a block of queries has; a prefix that sees itself.
        for (unmasked, front, length) in [(0, 1, 70), (5, 6, 20)] {
            let (model, variables) = gpt(dtype, unmasked)?;
            let all = tokens(3, front + length)?;
            let read = all.narrow(1, 0, front + length - 1)?.contiguous()?;
            let targets = all.narrow(1, front, length)?.contiguous()?;
            let mut gradients = Gradients::default();
            let off = Dropouts::default();
            let loss =
                model.learn(&read, &targets, &off, F32, Some(&mut gradients))?.to_scalar()?;
            let logits = model.forward(&read, None)?.narrow(1, front - 1, length)?;
            let graph = cross_entropy(&logits.flatten(0, 1)?, &targets.flatten_all()?)?;
            compare("gpt", &variables, (loss, &gradients), &graph, tolerance)?;
            let again: f64 = model.learn(&read, &targets, &off, F32, None)?.to_scalar()?;
            assert_eq!(again, loss);
        }
    }
    Ok(())
}

#[test]
fn llama_learns_what_its_graph_says() -> Result<()> {
    let config = LlamaConfig {
        vocab_size: 11,
        block_size: 81,
        dim: 16,
        n_layer: 2,
        n_head: 4,
        n_kv_head: Some(2),
        multiple_of: 4,
        ffn_dim_multiplier: None,
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix: PrefixConfig::Class { classes: 3 },
    };
    for (dtype, tolerance) in DTYPES {
        let (model, variables) = variables(dtype, |vb| Llama::new(&config, vb))?;
        let targets = tokens(3, 81)?;
        let read = targets.narrow(1, 0, 80)?.contiguous()?;
        let classes = Tensor::new(&[2u32, 0, 3], &Device::Cpu)?;
        let mut gradients = Gradients::default();
        let off = Dropouts::default();
        let loss =
            model.learn(&classes, &read, &targets, &off, F32, Some(&mut gradients))?.to_scalar()?;
        let logits = model.forward(&Conditions::Classes(classes), &read)?;
        let graph = cross_entropy(&logits.flatten(0, 1)?, &targets.flatten_all()?)?;
        compare("llama", &variables, (loss, &gradients), &graph, tolerance)?;
    }
    Ok(())
}

/// With the same masks, kernels and formulas agree; other passes have other masks.
#[test]
fn dropout_is_the_same_in_kernels_and_formulas() -> Result<()> {
    let dropouts = |pass| Dropouts { embedding: 0.1, residual: 0.2, attention: 0.3, seed: 4, pass };
    let all = tokens(2, 71)?;
    let read = all.narrow(1, 0, 70)?.contiguous()?;
    let targets = all.narrow(1, 1, 70)?.contiguous()?;
    let mut found = Vec::new();
    for (dtype, _) in DTYPES {
        let (model, variables) = gpt(dtype, 0)?;
        let mut gradients = Gradients::default();
        let learn = |pass, gradients: Option<&mut Gradients>| -> Result<f64> {
            Ok(model.learn(&read, &targets, &dropouts(pass), F32, gradients)?.to_scalar()?)
        };
        let loss = learn(7, Some(&mut gradients))?;
        anyhow::ensure!(learn(7, None)? == loss);
        anyhow::ensure!(learn(8, None)? != loss);
        let gradients: Vec<_> = variables
            .iter()
            .map(|(name, var)| {
                let gradient = gradients.get(var.as_tensor()).context("no gradient")?;
                Ok((name.clone(), gradient.to_dtype(DType::F64)?))
            })
            .collect::<Result<_>>()?;
        found.push((loss, gradients));
    }
    anyhow::ensure!((found[0].0 - found[1].0).abs() < 2e-5, "{} {}", found[0].0, found[1].0);
    for ((name, fast), (_, exact)) in found[0].1.iter().zip(&found[1].1) {
        golden::close(name, fast, exact, 3e-5)?;
    }
    Ok(())
}
