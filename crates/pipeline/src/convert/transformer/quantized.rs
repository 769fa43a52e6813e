//! Folders whose matrices are stored in blocks.

use candle_core::DType;
use candle_core::quantized::{GgmlDType, QTensor};
use cond_transformer::{LlamaConfig, PrefixConfig, WeightFormat};

use super::*;
use crate::transformer_config::CaptionCondition;

/// Models of all kinds of matrices: GPT's, LlamaGen's with a hidden width of no whole
/// blocks, and with the projections of captions, which stay numbers.
fn models() -> Vec<(Architecture, ConditionConfig)> {
    let llama = |prefix| {
        Architecture::Llama(LlamaConfig {
            vocab_size: CODES,
            block_size: 16,
            dim: 32,
            n_layer: 2,
            n_head: 2,
            n_kv_head: Some(1),
            multiple_of: 4,
            ffn_dim_multiplier: None,
            rope_base: 10000.0,
            norm_eps: 1e-5,
            prefix,
        })
    };
    let gpt = Architecture::Gpt(GptConfig {
        vocab_size: CODES + 1,
        block_size: 16,
        n_layer: 2,
        n_head: 2,
        n_embd: 32,
        n_unmasked: 0,
    });
    let names = vec!["a".to_owned(), "b".to_owned()];
    vec![
        (gpt, ConditionConfig::Start(StartCondition { token: CODES as u32 })),
        (
            llama(PrefixConfig::Class { classes: 2 }),
            ConditionConfig::Class(ClassCondition { names, offset: 0, null: Some(2) }),
        ),
        (
            llama(PrefixConfig::Caption { dim: 32, positions: 3 }),
            ConditionConfig::Caption(CaptionCondition { encoder: "t5".to_owned() }),
        ),
    ]
}

fn front(generator: &Generator) -> Result<Front> {
    Ok(match &generator.config().condition {
        ConditionConfig::Class(_) => generator.front_of_class("1")?,
        ConditionConfig::Caption(_) => Front::Caption {
            dim: 32,
            embeddings: (0..96).map(|i| (i as f32 * 0.7).sin()).collect(),
            present: vec![false, true, true],
        },
        _ => generator.front_of_nothing((4, 4))?,
    })
}

fn load_as(place: &GeneratorSpec, weights: Option<WeightFormat>) -> Result<Generator> {
    Ok(Generator::load(place, &LoadOptions { weights, ..LoadOptions::default() })?)
}

#[test]
fn stored_blocks_are_those_that_loading_makes_in_every_bit() -> Result<()> {
    for (architecture, condition) in models() {
        for format in [WeightFormat::Q8, WeightFormat::Q4] {
            let dir = tempfile::tempdir()?;
            let from =
                ours(dir.path(), architecture.clone(), Order::Identity, condition.clone(), false)?;
            let from = GeneratorSpec::new(from);
            let out = dir.path().join("out");
            let options = ConvertOptions { weights: Some(format), ..Default::default() };
            let converted = convert_transformer(&from, &out, &options)?;
            let to = GeneratorSpec::new(&out);

            let before = TensorFile::open(from.find()?.weights)?;
            let after = TensorFile::open(to.find()?.weights)?;
            let (blocks, mut numbers) = (after.blocks()?, 0);
            for (name, shape) in network::expected(&architecture)? {
                let Some(matrix) = blocks.get(&name) else {
                    assert_eq!(after.tensor_sha256(&name)?, before.tensor_sha256(&name)?, "{name}");
                    numbers += 1;
                    continue;
                };
                let tensor = before.tensor(&name, &Device::Cpu)?.to_dtype(DType::F32)?;
                let head = name.starts_with("head") || name.starts_with("output");
                let kind = match format {
                    WeightFormat::Q4 if !head => GgmlDType::Q4_0,
                    _ => GgmlDType::Q8_0,
                };
                let stored = after.block_matrix(&name, matrix)?;
                ensure!((stored.dtype(), stored.shape()) == (kind, &shape), "{name}");
                ensure!(stored.data()? == QTensor::quantize(&tensor, kind)?.data()?, "{name}");
            }
            ensure!(numbers > 0 && numbers + blocks.len() == after.len(), "{blocks:?}");
            let projected = |name: &&String| name.contains("cap_proj") || name.contains("emb");
            ensure!(!blocks.keys().any(|name| projected(&name)), "{blocks:?}");

            let (rounded, stored) = (load_as(&from, Some(format))?, load_as(&to, None)?);
            assert_eq!(stored.describe().kept_as, Some(format));
            assert_eq!(stored.describe().parameters, rounded.describe().parameters);
            assert_eq!(converted.parameters, stored.describe().parameters);
            ensure!(stored.sha256() != rounded.sha256(), "other numbers, the same identity");
            assert_eq!(load_as(&to, Some(format))?.sha256(), stored.sha256());
            assert_eq!(draw(&rounded, front(&rounded)?)?, draw(&stored, front(&stored)?)?);
            let codes =
                codebook::CodeGrid::from_vec((0..CODES as u32).collect(), (1, 4, 4), &Device::Cpu)?;
            let bits = |model: &Generator| -> Result<_> {
                Ok(model.score(&front(model)?, &codes, &mut |_| ())?.bits)
            };
            assert_eq!(bits(&rounded)?, bits(&stored)?);
            ensure!(bits(&stored)? != bits(&load(&from)?)?, "nothing was rounded");
        }
    }
    Ok(())
}

#[test]
fn a_file_of_others_becomes_a_folder_in_blocks_whose_codec_stays() -> Result<()> {
    let Some(group) = golden::group("net2net_class")? else { return Ok(()) };
    let from = GeneratorSpec {
        config: Some(group.path("config.yaml")),
        ..GeneratorSpec::new(group.path("model.safetensors"))
    };
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    let options = ConvertOptions { weights: Some(WeightFormat::Q8), ..Default::default() };
    convert_transformer(&from, &out, &options)?;
    let to = GeneratorSpec::new(out);
    let (rounded, stored) = (load_as(&from, Some(WeightFormat::Q8))?, load(&to)?);
    assert_eq!(rounded.codec().sha256(), stored.codec().sha256());
    assert_eq!(stored.config().provenance["weights"], "q8");
    assert_eq!(bits_of_zeros(&rounded)?, bits_of_zeros(&stored)?);
    Ok(())
}

fn bits_of_zeros(generator: &Generator) -> Result<Vec<f32>> {
    let [height, width] = generator.config().grid;
    let zeros = vec![0; height * width];
    let codes = codebook::CodeGrid::from_vec(zeros, (1, height, width), &Device::Cpu)?;
    let scores = generator.score(&generator.front_of_class("0")?, &codes, &mut |_| ())?;
    Ok(scores.bits)
}
