//! What every quantizer promises, through its configuration.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use codebook::{AnyQuantizer, CodeGrid, Error, Quantizer, QuantizerConfig, gumbel_noise};

const LEN: usize = 20;
const DIM: usize = 6;

fn configs() -> [QuantizerConfig; 4] {
    [
        QuantizerConfig::Euclidean { len: LEN, dim: DIM, beta: 0.25, legacy_beta: false },
        QuantizerConfig::Normalized { len: LEN, dim: DIM, beta: 0.25, entropy_ratio: 0.1 },
        QuantizerConfig::Gumbel {
            len: LEN,
            dim: DIM,
            features: 5,
            kl_weight: 1e-3,
            straight_through: true,
        },
        QuantizerConfig::Ema { len: LEN, dim: DIM, beta: 0.25, decay: 0.99, eps: 1e-5 },
    ]
}

fn random(shape: &[usize], position: u64) -> Result<Tensor> {
    let noise = gumbel_noise((1, 1, 1, shape.iter().product()), 1, position, &Device::Cpu)?;
    Ok((noise.reshape(shape)? - 0.5)?)
}

fn build(config: &QuantizerConfig, dtype: DType) -> Result<AnyQuantizer> {
    let weights: HashMap<_, _> = [
        ("embedding.weight", random(&[LEN, DIM], 1)?),
        ("embed.weight", random(&[LEN, DIM], 1)?),
        ("proj.weight", random(&[LEN, 5, 1, 1], 2)?),
        ("proj.bias", random(&[LEN], 3)?),
        ("embedding.cluster_size", random(&[LEN], 4)?.sqr()?),
        ("embedding.embed_avg", random(&[LEN, DIM], 5)?),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .collect();
    Ok(config.build(VarBuilder::from_tensors(weights, dtype, &Device::Cpu))?)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
    let difference = (a.to_dtype(DType::F64)? - b.to_dtype(DType::F64)?)?;
    Ok(difference.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

#[test]
fn training_and_inference_agree() -> Result<()> {
    for config in configs() {
        let quantizer = build(&config, DType::F32)?;
        assert_eq!((quantizer.len(), quantizer.dim()), (LEN, DIM));
        assert_eq!(quantizer.codebook().dims(), [LEN, DIM]);
        let z = random(&[2, config.features(), 3, 4], 9)?;
        let quantized = quantizer.quantize(&z)?;
        let codes = quantizer.codes(&z)?;
        assert_eq!(codes.dims(), (2, 3, 4));
        assert_eq!(codes.to_vec()?, quantized.codes.to_vec()?);
        let embeddings = quantizer.embed(&codes)?;
        assert_eq!(embeddings.dims(), [2, DIM, 3, 4]);
        assert_eq!(quantized.embeddings.dims(), [2, DIM, 3, 4]);
        assert!(largest_difference(&embeddings, &quantized.embeddings)? < 1e-5, "{config:?}");
        assert!(embeddings.is_contiguous() && quantized.embeddings.is_contiguous());
        for loss in [&quantized.losses.codebook, &quantized.losses.commitment] {
            assert!(loss.dims().is_empty() && loss.to_scalar::<f32>()? >= 0.0);
        }
    }
    Ok(())
}

#[test]
fn a_batch_is_its_pictures() -> Result<()> {
    for config in configs() {
        let quantizer = build(&config, DType::F32)?;
        let z = random(&[3, config.features(), 4, 5], 9)?;
        let (codes, embeddings) = (quantizer.codes(&z)?, quantizer.quantize(&z)?.embeddings);
        for i in 0..3 {
            let one = z.narrow(0, i, 1)?;
            assert_eq!(quantizer.codes(&one)?.to_vec()?, codes.get(i)?.to_vec()?);
            let one = quantizer.embed(&quantizer.codes(&one)?)?;
            assert_eq!(largest_difference(&one, &quantizer.embed(&codes.get(i)?)?)?, 0.0);
            assert!(largest_difference(&one, &embeddings.narrow(0, i, 1)?)? < 1e-5);
        }
    }
    Ok(())
}

#[test]
fn views_half_precision_and_f64_are_quantized() -> Result<()> {
    for config in configs() {
        let (quantizer, features) = (build(&config, DType::F32)?, config.features());
        let wide = random(&[4, 5, 2, features], 9)?;
        let view = wide.permute((2, 3, 0, 1))?;
        let codes = quantizer.codes(&view)?;
        assert_eq!(codes.to_vec()?, quantizer.codes(&view.contiguous()?)?.to_vec()?);
        for dtype in [DType::BF16, DType::F16, DType::F64] {
            let z = view.to_dtype(dtype)?;
            let rounded = quantizer.codes(&z.to_dtype(DType::F32)?)?;
            assert_eq!(quantizer.codes(&z)?.to_vec()?, rounded.to_vec()?, "{config:?} {dtype:?}");
            let quantized = quantizer.quantize(&z)?;
            assert_eq!(quantized.embeddings.dtype(), dtype);
            assert_eq!(quantized.codes.to_vec()?, rounded.to_vec()?);
            let stored = build(&config, dtype)?;
            assert_eq!(stored.embed(&stored.codes(&z)?)?.dtype(), dtype);
            stored.quantize(&z)?;
        }
    }
    Ok(())
}

#[test]
fn nan_is_an_error_everywhere() -> Result<()> {
    for config in configs() {
        let quantizer = build(&config, DType::F32)?;
        let mut values =
            random(&[1, config.features(), 2, 2], 9)?.flatten_all()?.to_vec1::<f32>()?;
        values[3] = f32::NAN;
        let z = Tensor::from_vec(values, (1, config.features(), 2, 2), &Device::Cpu)?;
        for error in [quantizer.quantize(&z).unwrap_err(), quantizer.codes(&z).unwrap_err()] {
            assert!(matches!(error, Error::NotFinite { row: 3, .. }), "{config:?}: {error}");
        }
    }
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_named() -> Result<()> {
    for config in configs() {
        let (quantizer, features) = (build(&config, DType::F32)?, config.features());
        for shape in [&[1, features + 1, 2, 2][..], &[1, features, 2], &[features]] {
            let z = random(shape, 9)?;
            assert!(matches!(quantizer.codes(&z), Err(Error::Shape { .. })));
            assert!(matches!(quantizer.quantize(&z), Err(Error::Shape { .. })));
        }
        let beyond = CodeGrid::from_vec(vec![0, LEN as u32], (1, 1, 2), &Device::Cpu)?;
        assert!(matches!(quantizer.embed(&beyond), Err(Error::CodeOutOfRange { position: 1, .. })));
    }
    Ok(())
}

#[test]
fn empty_batches_have_codes_but_no_losses() -> Result<()> {
    for config in configs() {
        let quantizer = build(&config, DType::F32)?;
        let none = Tensor::zeros((0, config.features(), 2, 2), DType::F32, &Device::Cpu)?;
        let codes = quantizer.codes(&none)?;
        assert_eq!(codes.dims(), (0, 2, 2));
        assert_eq!(quantizer.embed(&codes)?.dims(), [0, DIM, 2, 2]);
        assert!(matches!(quantizer.quantize(&none), Err(Error::Shape { .. })));
    }
    Ok(())
}

#[test]
fn inference_builds_no_graph() -> Result<()> {
    let codebook = candle_core::Var::from_tensor(&random(&[LEN, DIM], 1)?)?;
    let z = candle_core::Var::from_tensor(&random(&[1, DIM, 2, 2], 2)?)?;
    let quantizer = codebook::NormalizedQuantizer::new(codebook.as_tensor().clone(), 0.25, 0.0)?;
    assert!(!quantizer.codes(z.as_tensor())?.codes().track_op());
    Ok(())
}

#[test]
fn configurations_round_trip_and_have_defaults() -> Result<()> {
    for config in configs() {
        let text = serde_json::to_string(&config)?;
        assert_eq!(serde_json::from_str::<QuantizerConfig>(&text)?, config);
    }
    let short: QuantizerConfig =
        serde_json::from_str(r#"{"kind": "euclidean", "len": 1024, "dim": 256}"#)?;
    let full = QuantizerConfig::Euclidean { len: 1024, dim: 256, beta: 0.25, legacy_beta: true };
    assert_eq!(short, full);
    let wrong = r#"{"kind": "euclidean", "len": 1024, "dim": 256, "legacy": true}"#;
    let error = serde_json::from_str::<QuantizerConfig>(wrong).unwrap_err();
    assert!(error.to_string().contains("legacy"), "{error}");
    Ok(())
}

#[test]
fn configurations_that_describe_nothing_are_refused() -> Result<()> {
    let wrong = [
        (r#"{"kind": "euclidean", "len": 0, "dim": 4}"#, "len"),
        (r#"{"kind": "normalized", "len": 4, "dim": 0}"#, "dim"),
        (r#"{"kind": "normalized", "len": 4, "dim": 4, "entropy_ratio": -1}"#, "entropy_ratio"),
        (r#"{"kind": "gumbel", "len": 4, "dim": 4, "features": 0}"#, "features"),
        (r#"{"kind": "ema", "len": 4, "dim": 4, "decay": 1.0}"#, "decay"),
        (r#"{"kind": "ema", "len": 4, "dim": 4, "eps": 0}"#, "eps"),
    ];
    for (text, field) in wrong {
        let config: QuantizerConfig = serde_json::from_str(text)?;
        let error = build(&config, DType::F32).err().context("accepted")?;
        assert!(error.to_string().contains(field), "{error}");
    }
    Ok(())
}

#[test]
fn weights_of_another_shape_are_refused() -> Result<()> {
    let config =
        QuantizerConfig::Euclidean { len: LEN + 1, dim: DIM, beta: 0.25, legacy_beta: true };
    assert!(build(&config, DType::F32).is_err());
    Ok(())
}

#[test]
fn gumbel_noise_depends_on_seed_and_example_only() -> Result<()> {
    // More than one chunk of work an example.
    let (k, h, w) = (300, 8, 8);
    let batch = gumbel_noise((3, k, h, w), 5, 40, &Device::Cpu)?;
    for i in 0..3 {
        let one = gumbel_noise((1, k, h, w), 5, 40 + i as u64, &Device::Cpu)?;
        assert_eq!(largest_difference(&one, &batch.narrow(0, i, 1)?)?, 0.0);
    }
    let other = gumbel_noise((3, k, h, w), 6, 40, &Device::Cpu)?;
    assert!(largest_difference(&batch, &other)? > 1.0);
    // Mean and variance of the standard Gumbel distribution.
    let mean = f64::from(batch.mean_all()?.to_scalar::<f32>()?);
    let variance = f64::from((&batch - mean)?.sqr()?.mean_all()?.to_scalar::<f32>()?);
    assert!((mean - 0.5772).abs() < 0.02 && (variance - 1.6449).abs() < 0.05, "{mean} {variance}");
    Ok(())
}

#[test]
fn gumbel_samples_follow_the_logits() -> Result<()> {
    let config = configs()[2].clone();
    let AnyQuantizer::Gumbel(quantizer) = build(&config, DType::F32)? else {
        anyhow::bail!("not a Gumbel quantizer");
    };
    let z = random(&[1, 5, 2, 2], 9)?;
    let noise = gumbel_noise((1, LEN, 2, 2), 1, 0, &Device::Cpu)?;
    assert!(quantizer.sample(&z, 0.0, true, &noise).is_err());
    assert!(quantizer.sample(&z, f64::NAN, true, &noise).is_err());
    assert!(matches!(
        quantizer.sample(&z, 1.0, true, &noise.narrow(1, 0, 3)?),
        Err(Error::Shape { what: "noise", .. })
    ));
    // A hard sample is a row; a soft one at a low temperature nearly is.
    let hard = quantizer.sample(&z, 0.5, true, &noise)?;
    assert!(largest_difference(&hard.embeddings, &quantizer.embed(&hard.codes)?)? < 1e-5);
    let soft = quantizer.sample(&z, 1e-3, false, &noise)?;
    assert_eq!(soft.codes.to_vec()?, hard.codes.to_vec()?);
    assert!(largest_difference(&soft.embeddings, &hard.embeddings)? < 1e-2);
    Ok(())
}
