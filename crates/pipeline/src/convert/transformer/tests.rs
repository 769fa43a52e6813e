use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{Device, Shape, Tensor};
use codebook::QuantizerConfig;
use cond_transformer::{Sampling, Stream, Wavefront};
use vq_autoencoder::VqConfig;

use super::*;
use crate::model_spec::ModelSpec;
use crate::model_spec::tests::small;
use crate::transformer_config::{
    ClassCondition, GridCondition, GridInput, SamplingDefaults, StartCondition, TextCondition,
    TransformerConfig,
};
use crate::transformer_folder::TransformerParts;
use crate::{DrawRequest, Front, Generator, LoadOptions, PictureCondition, convert, weights};

/// Codes of the first stage, and of the codec of label maps.
const CODES: usize = 16;
const LABEL_CODES: usize = 6;

/// The folder of a codec of ours, and its identity.
fn codec(dir: &Path, config: &VqConfig) -> Result<(PathBuf, String)> {
    std::fs::create_dir_all(dir)?;
    let file = dir.join("codec.safetensors");
    checkpoints::save_safetensors(&file, &numbers(weights::expected(config)?)?, [])?;
    let folder = dir.join("codec");
    let options = ConvertOptions { replace: true, ..Default::default() };
    let converted = convert(&ModelSpec::new(&file), &folder, &options)?;
    Ok((folder, converted.sha256))
}

fn label_codec() -> VqConfig {
    let quantizer =
        QuantizerConfig::Euclidean { len: LABEL_CODES, dim: 4, beta: 0.25, legacy_beta: true };
    VqConfig { in_channels: 7, out_channels: 7, quantizer, ..small() }
}

/// Numbers that are all different from one another, nearly.
fn numbers(expected: BTreeMap<String, Shape>) -> Result<BTreeMap<String, Tensor>> {
    let tensors = expected.into_iter().map(|(name, shape)| {
        let start = name.bytes().map(usize::from).sum::<usize>();
        let values = (0..shape.elem_count()).map(|i| ((start + 7 * i) as f32 * 0.37).sin());
        Ok((name, Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu)?))
    });
    tensors.collect()
}

/// A transformer of ours in a folder, `condition` with a codec of its own or not.
fn ours(
    dir: &Path,
    architecture: Architecture,
    permuter: Order,
    mut condition: ConditionConfig,
    own_codec: bool,
) -> Result<PathBuf> {
    let (first, sha256) = codec(&dir.join("first"), &small())?;
    let mut stage = None;
    if let (ConditionConfig::Grid(grid), true) = (&mut condition, own_codec) {
        let (folder, sha256) = codec(&dir.join("labels"), &label_codec())?;
        grid.codec = Some(StageRef::at("condition_stage", sha256));
        stage = Some(folder);
    }
    let config = TransformerConfig {
        architecture,
        weights: None,
        first_stage: StageRef::at("first_stage", sha256),
        codes: CODES,
        grid: [4, 4],
        permuter,
        condition,
        sampling: SamplingDefaults { temperature: 0.75, ..SamplingDefaults::default() },
        preprocessing: serde_json::json!({}),
        provenance: serde_json::json!({}),
    };
    let folder = dir.join("ours");
    let parts = TransformerParts {
        first_stage: Some(&first),
        condition_stage: stage.as_deref(),
        ..TransformerParts::default()
    };
    let tensors = numbers(network::expected(&config.architecture)?)?;
    TransformerFolder::replace(&folder, &config, &tensors, "# T\n", parts)?;
    Ok(folder)
}

fn gpt(vocab_size: usize, positions: usize) -> Architecture {
    Architecture::Gpt(GptConfig {
        vocab_size,
        block_size: positions + 15,
        n_layer: 2,
        n_head: 2,
        n_embd: 8,
        n_unmasked: positions - 1,
    })
}

#[test]
fn a_copy_of_ours_has_the_names_that_its_classes_are_given() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let names = |of: [&str; 2]| of.map(str::to_owned).to_vec();
    let classes = ClassCondition {
        names: names(["0", "1"]),
        offset: CODES as u32,
        null: Some(CODES as u32 + 2),
    };
    let condition = ConditionConfig::Class(classes.clone());
    let folder = ours(dir.path(), gpt(CODES + 3, 1), Order::Identity, condition, false)?;
    let spec = |names| GeneratorSpec { class_names: names, ..GeneratorSpec::new(&folder) };
    let out = dir.path().join("out");
    let options = ConvertOptions::default();
    convert_transformer(&spec(Some(names(["tulip", "rose"]))), &out, &options)?;
    let named = ClassCondition { names: names(["tulip", "rose"]), ..classes };
    assert_eq!(TransformerFolder::open(&out)?.config.condition, ConditionConfig::Class(named));
    let three = spec(Some(vec!["tulip".to_owned(); 3]));
    let error = convert_transformer(&three, &dir.path().join("three"), &options);
    let error = error.err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(error.contains("3 names were given for the 2 classes"), "{error}");

    // A checkpoint of the reference has its codecs inside.
    let reference = dir.path().join("reference");
    taming(&spec(None), &reference)?;
    let codec = ModelSpec::new(folder.join("first_stage"));
    let from = GeneratorSpec { condition_stage: Some(codec), ..GeneratorSpec::new(&reference) };
    let error = load(&from).err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(error.contains("leave --condition-stage out"), "{error}");
    Ok(())
}

fn taming(from: &GeneratorSpec, out: &Path) -> Result<ConvertedTransformer> {
    let options = ConvertOptions { target: Target::Reference, ..Default::default() };
    Ok(convert_transformer(from, out, &options)?)
}

fn load(place: &GeneratorSpec) -> Result<Generator> {
    Ok(Generator::load(place, &LoadOptions::default())?)
}

/// The likeliest codes behind `front`, and the picture's bytes.
fn draw(generator: &Generator, front: Front) -> Result<Vec<u32>> {
    let request = DrawRequest {
        streams: Stream::range(0, 0, 1),
        fronts: vec![front],
        grid: (4, 4),
        sampling: Sampling::greedy(),
        guidance: None,
        forced: Vec::new(),
        wavefront: Wavefront::default(),
    };
    Ok(generator.draw(&request, &mut |_| ())?.to_vec()?)
}

/// Every condition that we train and the reference has: what is written is read by our
/// loader of the reference's run folders, every weight as it was, and draws the same.
#[test]
fn there_and_back_is_the_same_transformer() -> Result<()> {
    let classes = ClassCondition {
        names: ["red apple", "${x}", "pear: \"x\""].map(str::to_owned).to_vec(),
        offset: CODES as u32,
        null: Some(CODES as u32 + 3),
    };
    let grid = |input, kinds: usize| GridCondition {
        input,
        codec: None,
        grid: [4, 4],
        offset: CODES as u32,
        downsample: None,
        labels: None,
        null: Some((CODES + kinds) as u32),
    };
    let start = StartCondition { token: CODES as u32 };
    for (condition, own, order, vocabulary) in [
        (ConditionConfig::Start(start), false, Order::Identity, CODES + 1),
        (ConditionConfig::Class(classes), false, Order::ZCurve, CODES + 4),
        (
            ConditionConfig::Grid(grid(GridInput::Segmentation, LABEL_CODES)),
            true,
            Order::Identity,
            CODES + LABEL_CODES + 1,
        ),
        (
            ConditionConfig::Grid(grid(GridInput::Image, CODES)),
            false,
            Order::Subsample,
            2 * CODES + 1,
        ),
        (
            ConditionConfig::Grid(GridCondition {
                offset: 0,
                null: None,
                ..grid(GridInput::Image, 0)
            }),
            false,
            Order::Identity,
            CODES,
        ),
    ] {
        let dir = tempfile::tempdir()?;
        let positions = if matches!(condition, ConditionConfig::Grid(_)) { 16 } else { 1 };
        let from = ours(dir.path(), gpt(vocabulary, positions), order, condition.clone(), own)?;
        let from = GeneratorSpec::new(from);
        let to = dir.path().join("reference");
        let converted = taming(&from, &to)?;
        assert!(converted.files.iter().all(|file| file.is_file()));
        let to = GeneratorSpec::new(to);

        let (before, after) = (from.find()?, to.find()?);
        let (old, new) = (TensorFile::open(&before.weights)?, TensorFile::open(&after.weights)?);
        for name in network::expected(&before.config.architecture)?.keys() {
            let new = new.tensor_sha256(&format!("{TRANSFORMER}{name}"))?;
            assert_eq!(new, old.tensor_sha256(name)?, "{name}");
        }
        let same = |what: &str| {
            ensure!(before.config.architecture == after.config.architecture, "{what}");
            ensure!(before.config.grid == after.config.grid, "{what}");
            ensure!(before.config.permuter == after.config.permuter, "{what}");
            ensure!(before.config.sampling == after.config.sampling, "{what}");
            ensure!(before.config.codes == after.config.codes, "{what}");
            Ok(())
        };
        same(condition.kind())?;
        if let (ConditionConfig::Class(before), ConditionConfig::Class(after)) =
            (&condition, &after.config.condition)
        {
            assert_eq!((&before.offset, &before.null), (&after.offset, &after.null));
            assert_eq!(after.names, ["red apple", "$ {x}", "pear: \"x\""]);
        }

        let (old, new) = (load(&from)?, load(&to)?);
        assert_eq!(old.sha256(), new.sha256(), "{}", condition.kind());
        assert_eq!(old.codec().sha256(), new.codec().sha256());
        let front = |generator: &Generator| -> Result<Front> {
            Ok(match &condition {
                ConditionConfig::Start(_) => generator.front_of_nothing((4, 4))?,
                ConditionConfig::Class(_) => generator.front_of_class("1")?,
                _ => {
                    let channels = if own { 7 } else { 3 };
                    let n = channels * 64;
                    let map =
                        (0..n).map(|i| ((i * i) as f32 * 0.7).sin() * 2.0).collect::<Vec<_>>();
                    let map = Tensor::from_vec(map, (1, channels, 8, 8), &Device::Cpu)?;
                    generator.front_of_picture(&PictureCondition::Tensor(map), (4, 4))?
                }
            })
        };
        let (old_front, new_front) = (front(&old)?, front(&new)?);
        assert_eq!(old_front, new_front, "{}", condition.kind());
        if let Front::Grid { tokens, .. } = &old_front {
            ensure!(tokens.iter().collect::<std::collections::BTreeSet<_>>().len() > 1, "one code");
        }
        assert_eq!(draw(&old, old_front)?, draw(&new, new_front)?, "{}", condition.kind());
    }
    Ok(())
}

/// What is made of the reference's own files has all names of them, and every bit.
#[test]
fn the_references_names_are_all_written() -> Result<()> {
    for (group, yaml) in [
        ("net2net_class", "config.yaml"),
        ("net2net_class", "config_uncond.yaml"),
        ("net2net_depth", "config.yaml"),
        ("net2net_seg", "config.yaml"),
    ] {
        let Some(group) = golden::group(group)? else { return Ok(()) };
        let source = group.path("model.safetensors");
        let from =
            GeneratorSpec { config: Some(group.path(yaml)), ..GeneratorSpec::new(source.clone()) };
        let dir = tempfile::tempdir()?;
        taming(&from, dir.path())?;
        let old = TensorFile::open(source)?;
        let new = TensorFile::open(dir.path().join("checkpoints/last.ckpt"))?;
        for name in old.names().filter(|name| !name.contains(".loss.")) {
            ensure!(new.dims(name) == old.dims(name), "{name}: {:?}", new.dims(name));
            if !name.ends_with("colorize") {
                ensure!(new.tensor_sha256(name)? == old.tensor_sha256(name)?, "{name}");
            }
        }
        let again = GeneratorSpec::new(dir.path()).find()?.config;
        assert_eq!(again, from.find()?.config);
        // And our own folder of it is the same model.
        let out = dir.path().join("ours");
        convert_transformer(&from, &out, &ConvertOptions::default())?;
        let (theirs, own) = (load(&from)?, load(&GeneratorSpec::new(out))?);
        assert_eq!(own.sha256(), theirs.sha256());
        assert_eq!(own.codec().sha256(), theirs.codec().sha256());
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 4, "something is left behind");
    }
    Ok(())
}

#[test]
fn llamagens_checkpoint_has_its_names() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let llama = LlamaConfig {
        vocab_size: CODES,
        block_size: 16,
        dim: 8,
        n_layer: 2,
        n_head: 2,
        n_kv_head: None,
        multiple_of: 4,
        ffn_dim_multiplier: None,
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix: PrefixConfig::Class { classes: 2 },
    };
    let names = vec!["a".to_owned(), "b".to_owned()];
    let condition = ConditionConfig::Class(ClassCondition { names, offset: 0, null: Some(2) });
    let architecture = Architecture::Llama(llama);
    let folder = ours(dir.path(), architecture.clone(), Order::Identity, condition.clone(), false)?;
    let from = GeneratorSpec::new(&folder);
    let out = dir.path().join("llamagen");
    let converted = taming(&from, &out)?;
    assert!(converted.notes[0].contains("num_classes=2, model_type=\"c2i\""));
    let to = GeneratorSpec {
        model: out.join("model.pt"),
        config: Some(folder.join("config.json")),
        first_stage: Some(ModelSpec::new(out.join("first_stage/last.ckpt"))),
        ..GeneratorSpec::default()
    };
    assert_eq!(load(&from)?.sha256(), load(&to)?.sha256());
    assert_eq!(TensorFile::open(&to.model)?.section(), Some("model"));

    let other = dir.path().join("other");
    std::fs::create_dir(&other)?;
    let folder = ours(&other, architecture, Order::ZCurve, condition, false)?;
    let error = taming(&GeneratorSpec::new(folder), &other.join("out")).err();
    assert!(error.is_some_and(|e| e.to_string().contains("row by row")));
    Ok(())
}

#[test]
fn what_the_reference_does_not_have_is_said() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let condition = TextCondition { tokens: 4, offset: CODES as u32, pad: 20, null: Some(20) };
    let condition = ConditionConfig::Text(condition);
    let from = GeneratorSpec::new(ours(dir.path(), gpt(21, 4), Order::Identity, condition, false)?);
    let out = dir.path().join("out");
    let error = taming(&from, &out).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("no condition of text"), "{error}");
    let options = ConvertOptions { target: Target::Diffusers, ..Default::default() };
    assert!(convert_transformer(&from, &out, &options).is_err() && !out.exists());
    let options = ConvertOptions::default();
    let copied = convert_transformer(&from, &out, &options)?;
    assert!(copied.parameters > 0 && TransformerFolder::is_one(&out));
    Ok(())
}

mod quantized;
mod substitute;
