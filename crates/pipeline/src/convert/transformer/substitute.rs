//! Another codec in the place of a transformer's own.

use anyhow::Context;
use checkpoints::model_folder::ModelFolder;

use super::*;

/// Copies of the codec in the folder `own` in which one weight is another.
struct Changed {
    dir: PathBuf,
    config: serde_json::Value,
    tensors: std::collections::HashMap<String, Tensor>,
}

impl Changed {
    fn of(own: &Path, dir: &Path) -> Result<Self> {
        let own = ModelFolder::open(own)?;
        let tensors = candle_core::safetensors::load(&own.weights, &Device::Cpu)?;
        Ok(Self { dir: dir.to_path_buf(), config: own.config, tensors })
    }

    fn weight(&self, name: &str) -> Result<ModelSpec> {
        let mut tensors = self.tensors.clone();
        let value = tensors.get_mut(name).with_context(|| format!("no {name}"))?;
        *value = (&*value + 0.5)?;
        let folder = self.dir.join(name);
        ModelFolder::replace(&folder, &self.config, &tensors, "")?;
        Ok(ModelSpec::new(folder))
    }
}

/// Weights that decide codes, and one that does not.
const DECIDING: [&str; 3] =
    ["quantize.embedding.weight", "encoder.conv_in.bias", "quant_conv.bias"];
const DECODING: &str = "decoder.conv_out.bias";

/// Converts `from` with a codec in the place of its own to both formats: none of other codes
/// is taken, and what is written of one of the same codes is that one.
fn check(from: &GeneratorSpec, changed: &Changed, dir: &Path, target: Target) -> Result<PathBuf> {
    let out = dir.join(format!("{target:?}"));
    let options = ConvertOptions { target, ..Default::default() };
    let convert = |first_stage: ModelSpec| {
        let from = GeneratorSpec { first_stage: Some(first_stage), ..from.clone() };
        convert_transformer(&from, &out, &options)
    };
    for name in DECIDING {
        let error = convert(changed.weight(name)?).err().map(|e| e.to_string()).unwrap_or_default();
        ensure!(error.contains("codes mean something else"), "{target:?}, {name}: {error}");
        ensure!(error.contains(name), "{error} does not say which codec it is");
        ensure!(!out.exists(), "{target:?}, {name}: something is left behind");
    }
    convert(changed.weight(DECODING)?)?;
    Ok(out)
}

/// The identities of the transformer and of its first stage.
fn identities(place: &GeneratorSpec) -> Result<(String, String)> {
    let generator = load(place)?;
    Ok((generator.sha256().to_owned(), generator.codec().sha256().to_owned()))
}

fn codec_sha256(spec: ModelSpec) -> Result<String> {
    Ok(crate::Codec::load(&spec, &LoadOptions::default())?.sha256().to_owned())
}

#[test]
fn a_codec_of_other_codes_is_refused_whatever_is_written() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let start = ConditionConfig::Start(StartCondition { token: CODES as u32 });
    let folder = ours(dir.path(), gpt(CODES + 1, 1), Order::Identity, start, false)?;
    let changed = Changed::of(&folder.join("first_stage"), dir.path())?;
    let from = GeneratorSpec::new(&folder);
    let (transformer, _) = identities(&from)?;
    let brighter = codec_sha256(changed.weight(DECODING)?)?;
    for target in [Target::Ours, Target::Reference] {
        let out = GeneratorSpec::new(check(&from, &changed, dir.path(), target)?);
        assert_eq!(identities(&out)?, (transformer.clone(), brighter.clone()), "{target:?}");
    }

    // A checkpoint of the reference holds its codec: that is the one to be like.
    let reference = dir.path().join("checkpoint");
    taming(&from, &reference)?;
    let from = GeneratorSpec::new(reference);
    let again = dir.path().join("again");
    std::fs::create_dir(&again)?;
    for target in [Target::Ours, Target::Reference] {
        let out = GeneratorSpec::new(check(&from, &changed, &again, target)?);
        assert_eq!(identities(&out)?, (transformer.clone(), brighter.clone()), "{target:?}");
    }
    // Drawing with it does not take another's place in silence.
    let first_stage = Some(changed.weight(DECODING)?);
    let error = load(&GeneratorSpec { first_stage, ..from }).err().map(|e| e.to_string());
    let error = error.unwrap_or_default();
    assert!(error.contains("leave --first-stage out"), "{error}");
    Ok(())
}

#[test]
fn a_file_without_a_codec_takes_the_one_that_its_configuration_names_or_one_like_it() -> Result<()>
{
    let dir = tempfile::tempdir()?;
    let start = ConditionConfig::Start(StartCondition { token: CODES as u32 });
    let folder = ours(dir.path(), gpt(CODES + 1, 1), Order::Identity, start, false)?;
    let changed = Changed::of(&folder.join("first_stage"), dir.path())?;
    let alone = dir.path().join("alone");
    std::fs::create_dir(&alone)?;
    let from = GeneratorSpec {
        model: alone.join("weights.safetensors"),
        config: Some(folder.join("config.json")),
        ..GeneratorSpec::default()
    };
    std::fs::copy(folder.join("model.safetensors"), &from.model)?;
    for target in [Target::Ours, Target::Reference] {
        check(&from, &changed, &alone, target)?;
    }
    // What it names is gone, or another: only that very one is known to be right.
    let stage = folder.join("first_stage");
    let kept = ModelSpec::new(dir.path().join("kept"));
    std::fs::rename(&stage, &kept.model)?;
    let with = |first_stage: ModelSpec, out: &str| {
        let from = GeneratorSpec { first_stage: Some(first_stage), ..from.clone() };
        taming(&from, &dir.path().join(out))
    };
    with(kept, "same")?;
    let refused = |name: &str, why: &str| -> Result<()> {
        let error = with(changed.weight(name)?, "no").err().map(|e| e.to_string());
        let error = error.unwrap_or_default();
        for part in [name, "cannot be told", "first_stage", why] {
            ensure!(error.contains(part), "{part:?} is not in {error}");
        }
        ensure!(!dir.path().join("no").exists());
        Ok(())
    };
    refused(DECODING, "no such model")?;
    std::fs::rename(changed.weight(DECIDING[0])?.model, &stage)?;
    refused(DECIDING[0], "is another, too")?;
    Ok(())
}

#[test]
fn a_codec_of_too_few_codes_is_refused_where_nothing_else_is_known() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let start = ConditionConfig::Start(StartCondition { token: CODES as u32 });
    let folder = ours(dir.path(), gpt(CODES + 1, 1), Order::Identity, start, false)?;
    let (few, _) = codec(
        &dir.path().join("few"),
        &VqConfig {
            quantizer: QuantizerConfig::Euclidean {
                len: CODES - 1,
                dim: 4,
                beta: 0.25,
                legacy_beta: true,
            },
            ..small()
        },
    )?;
    // As a preset says it: which codec it was is not known.
    let mut config = TransformerFolder::open(&folder)?.config;
    config.first_stage.codec_sha256 = UNKNOWN.to_owned();
    let file = dir.path().join("config.json");
    std::fs::write(&file, config.to_value()?.to_string())?;
    let convert = |first_stage: PathBuf| {
        let from = GeneratorSpec {
            model: dir.path().join("weights.safetensors"),
            config: Some(file.clone()),
            first_stage: Some(ModelSpec::new(first_stage)),
            ..GeneratorSpec::default()
        };
        taming(&from, &dir.path().join("out"))
    };
    std::fs::copy(folder.join("model.safetensors"), dir.path().join("weights.safetensors"))?;
    let error = convert(few).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("draws 16 codes, but its codec has only 15"), "{error}");
    assert!(!dir.path().join("out").exists());
    convert(folder.join("first_stage"))?;
    Ok(())
}
