//! The kernels of inference against candle's ops, which are their plain twin.

mod common;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use common::{read, u32s, weights};
use cond_transformer::{
    Conditions, Gpt, GptConfig, Llama, LlamaConfig, NextCode, PrefixConfig, WeightFormat,
};

/// Sizes that fit no vector: heads of 10, a width of 70, a vocabulary of 45.
fn odd_gpt(unmasked: usize) -> GptConfig {
    GptConfig {
        vocab_size: 45,
        block_size: 61,
        n_layer: 2,
        n_head: 7,
        n_embd: 70,
        n_unmasked: unmasked,
    }
}

/// Heads of 12 in groups, blocks of 8 and 4 bits where rows allow it.
fn llama(dim: usize, prefix: PrefixConfig) -> LlamaConfig {
    LlamaConfig {
        vocab_size: 43,
        block_size: 49,
        dim,
        n_layer: 2,
        n_head: 8,
        n_kv_head: Some(2),
        multiple_of: 32,
        ffn_dim_multiplier: None,
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix,
    }
}

fn tokens(batch: usize, len: usize) -> Result<Tensor> {
    let codes: Vec<u32> = (0..batch * len).map(|i| (i * i + 3 * i) as u32 % 43).collect();
    Ok(Tensor::from_vec(codes, (batch, len), &Device::Cpu)?)
}

#[test]
fn a_whole_forward_pass_is_that_of_candle() -> Result<()> {
    for unmasked in [0, 9] {
        let model = Gpt::new(&odd_gpt(unmasked), weights(DType::F32))?;
        // 61 x 2 rows: more than a block of them.
        for (batch, len) in [(1, 1), (1, 2), (3, 5), (2, 61)] {
            let tokens = tokens(batch, len)?;
            let fast = model.forward(&tokens, None)?;
            let plain = model.forward_with(&tokens, None, |_| ())?;
            golden::close(&format!("{batch}x{len}, {unmasked}"), &fast, &plain, 2e-5)?;
        }
    }
    Ok(())
}

#[test]
fn blocks_give_what_their_numbers_give_in_f32() -> Result<()> {
    let config = GptConfig { n_embd: 96, n_head: 4, ..odd_gpt(0) };
    let full = Gpt::new(&config, weights(DType::F32))?;
    let tokens = tokens(2, 7)?;
    let expected = full.forward(&tokens, None)?;
    let mut last = 0.0;
    for (format, most) in [(WeightFormat::Q8, 0.3), (WeightFormat::Q4, 4.0)] {
        let model = Gpt::with_format(&config, format, weights(DType::F32))?;
        let fast = model.forward(&tokens, None)?;
        // The plain twin dequantizes.
        golden::close(format.name(), &fast, &model.forward_with(&tokens, None, |_| ())?, 2e-5)?;
        let error = (&fast - &expected)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(error > last && error < most, "{format}: {error}");
        last = error;
    }
    Ok(())
}

/// Logits after reading a prefix at once, then some codes one by one, of one sample.
fn step_by_step(
    model: &dyn NextCode,
    conditions: &Conditions,
    codes: &Tensor,
    prefix: usize,
) -> Result<Vec<Vec<f32>>> {
    let (batch, len) = codes.dims2()?;
    let mut cache = model.cache(batch, model.context())?;
    let front = codes.narrow(1, 0, prefix)?;
    let mut logits = model.prefill(conditions, Some(&front), &mut cache)?;
    for at in prefix..len {
        logits = model.step(&codes.narrow(1, at, 1)?, &mut cache)?;
    }
    Ok(logits.to_vec2()?)
}

#[test]
fn no_format_depends_on_the_batch_or_the_threads_in_any_bit() -> Result<()> {
    // Wide enough that several threads have work.
    let config = llama(256, PrefixConfig::Class { classes: 5 });
    let pools = [1, 2, 5].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build());
    for format in WeightFormat::ALL {
        let model = Llama::with_format(&config, format, weights(DType::F32))?;
        let ids = [3, 1, 4, 1, 0, 2, 4, 3, 5];
        let codes = tokens(ids.len(), 20)?;
        let run = |rows: std::ops::Range<usize>| -> Result<Vec<Vec<f32>>> {
            let conditions = Conditions::classes(&ids[rows.clone()], &Device::Cpu)?;
            step_by_step(&model, &conditions, &codes.narrow(0, rows.start, rows.len())?, 14)
        };
        let all = run(0..ids.len())?;
        assert!(all.iter().flatten().all(|logit| logit.is_finite()));
        for pool in &pools {
            let pool = pool.as_ref().expect("a pool");
            assert_eq!(pool.install(|| run(0..ids.len()))?, all, "{format}");
            for row in [0, 4, 8] {
                assert_eq!(pool.install(|| run(row..row + 1))?[0], all[row], "{format}, {row}");
            }
        }
    }
    Ok(())
}

#[test]
fn half_precision_is_close_to_single() -> Result<()> {
    let config = llama(96, PrefixConfig::Class { classes: 5 });
    let conditions = Conditions::classes(&[1, 4], &Device::Cpu)?;
    let codes = tokens(2, 12)?;
    let full = Llama::new(&config, weights(DType::F32))?;
    let expected = step_by_step(&full, &conditions, &codes, 5)?;
    for (format, most) in [(WeightFormat::Bf16, 0.15), (WeightFormat::F16, 0.02)] {
        let model = Llama::with_format(&config, format, weights(DType::F32))?;
        let found = step_by_step(&model, &conditions, &codes, 5)?;
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < most, "{format}: {found} for {expected}");
        }
        let cache = model.cache(2, 20)?;
        assert_eq!(cache.bytes(), 2 * 2 * 2 * 2 * 20 * 12 * 2, "layers x (K, V) x batch x ...");
    }
    Ok(())
}

#[test]
fn padding_of_captions_is_not_seen() -> Result<()> {
    let config = llama(96, PrefixConfig::Caption { dim: 20, positions: 6 });
    let model = Llama::new(&config, weights(DType::F32))?;
    let embeddings = |fill: f32| -> Result<Tensor> {
        let mut values: Vec<f32> = (0..2 * 6 * 20).map(|i| (i % 17) as f32 / 17.0).collect();
        // What stands in the padding of the first caption.
        values[..3 * 20].fill(fill);
        Ok(Tensor::from_vec(values, (2, 6, 20), &Device::Cpu)?)
    };
    let present = vec![vec![false, false, false, true, true, true], vec![true; 6]];
    let codes = tokens(2, 9)?;
    let run = |fill: f32| -> Result<Vec<Vec<f32>>> {
        let conditions =
            Conditions::Captions { embeddings: embeddings(fill)?, present: present.clone() };
        step_by_step(&model, &conditions, &codes, 4)
    };
    assert_eq!(run(0.0)?, run(7.0)?);
    Ok(())
}

/// What a format costs in likelihood, on the reference's model and codes.
#[test]
fn the_loss_in_likelihood_is_small() -> Result<()> {
    let Some(group) = golden::group("mingpt")? else { return Ok(()) };
    let config: GptConfig = serde_json::from_value(group.manifest()["config"].clone())?;
    let inputs = group.inputs()?;
    let (tokens, targets) = (u32s(&inputs["idx"])?, u32s(&inputs["tgt"])?.flatten_all()?);
    let expected = group.manifest()["scalars"]["loss"]["value"].as_f64().context("loss")?;
    for (format, most) in WeightFormat::ALL.into_iter().zip([1e-5, 0.01, 1e-3, 0.01, 0.1]) {
        let model = Gpt::with_format(&config, format, read(&group, "model.safetensors")?)?;
        let logits = model.forward(&tokens, None)?.flatten(0, 1)?.to_dtype(DType::F32)?;
        let loss = f64::from(cross_entropy(&logits, &targets)?.to_scalar::<f32>()?);
        println!("{format}: {loss:.6} nats a code, {:+.6}", loss - expected);
        assert!((loss - expected).abs() < most, "{format}: {loss}, f32 {expected}");
    }
    Ok(())
}

#[test]
fn formats_have_names() -> Result<()> {
    for format in WeightFormat::ALL {
        assert_eq!(format.name().parse::<WeightFormat>()?, format);
    }
    let error = "int8".parse::<WeightFormat>().unwrap_err().to_string();
    assert!(error.contains("q8") && error.contains("int8"), "{error}");
    Ok(())
}
