//! Runs of the second stage: what they leave, and that a stopped one goes on exactly.

#[path = "support/compare.rs"]
mod compare;
#[path = "support/second_stage.rs"]
mod second_stage;
mod support;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use checkpoints::model_folder::ModelFolder;
use pipeline::{
    CodecInput, ConditionConfig, CopyOptions, DrawRequest, Generator, GeneratorSpec, LoadOptions,
    ModelSpec, Sampling, Stream, TransformerFolder, Wavefront,
};
use training::{
    CodeModel, Limits, ParameterStore, Summary, TrainConfig, train_transformer, write_model,
};

use compare::{bits, lines};
use second_stage::{config, setting, train};
use support::Warnings;
use vq_autoencoder::VqModel;

/// The model of `summary`, read from its folder as another program would.
fn read(summary: &Summary) -> Result<TransformerFolder> {
    let folder = TransformerFolder::open(&summary.model)?;
    let vb = weights(&folder)?;
    CodeModel::new(&folder.config.architecture, vb)?;
    assert!(folder.dir.join("first_stage/config.json").is_file());
    Ok(folder)
}

fn weights(folder: &TransformerFolder) -> Result<VarBuilder<'static>> {
    let tensors = candle_core::safetensors::load(&folder.weights, &Device::Cpu)?;
    Ok(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() -> Result<()> {
    let dir = setting()?;
    let condition =
        "condition.kind=text condition.vocabulary=280 condition.tokens=6 condition.drop=0.2";
    let whole = config(dir.path(), "whole", condition)?;
    let parts = config(dir.path(), "parts", condition)?;
    let summary = train(&whole, None)?;
    assert!(summary.finished && summary.step == 6);
    let first = train(&parts, Some(3))?;
    assert!(!first.finished && first.step == 3);
    train(&parts, None)?;

    let (a, b) = (bits(&whole)?, bits(&parts)?);
    assert!(a.len() > 100, "{}", a.len());
    for (name, values) in &a {
        assert!(b.get(name) == Some(values), "{name} differs");
    }
    assert_eq!(a.len(), b.len());
    let (a, b) = (lines(&whole)?, lines(&parts)?);
    assert_eq!(a, b);
    assert!(a.iter().any(|line| line.contains_key("val_nll")));

    let folder = read(&summary)?;
    assert!(matches!(folder.config.condition, ConditionConfig::Text(_)));
    assert!(folder.tokenizer.is_some());
    assert!(whole.run.join("previews/step-00000003.png").is_file());
    Ok(())
}

/// A run that was begun with another share of withheld classes than the usual one keeps it.
#[test]
fn classes_are_withheld_from_a_tenth_where_nothing_is_said() -> Result<()> {
    let dir = setting()?;
    let said =
        |run: &str, drop: &str| config(dir.path(), run, &format!("condition.kind=class {drop}"));
    let unsaid = said("run", "")?;
    assert!(!train(&unsaid, Some(3))?.finished);
    let file = std::fs::read_to_string(unsaid.run.join("config.toml"))?;
    assert!(file.contains("[condition]\nkind = \"class\"\ndrop = 0.1\n"), "{file}");
    // Runs of before name their share.
    let before = said("before", "condition.drop=0.1")?;
    assert!(!train(&before, Some(3))?.finished);
    assert_eq!(before.condition, unsaid.condition);
    for run in ["run", "before"] {
        assert!(train(&said(run, "")?, None)?.finished, "{run}");
    }
    assert!(bits(&unsaid)? == bits(&before)?);

    let other = said("other", "condition.drop=0.3")?;
    train(&other, Some(3))?;
    let error = train(&said("other", "")?, None).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("condition.drop: 0.3 -> 0.1"), "{error}");
    assert!(train(&other, None)?.finished);
    Ok(())
}

#[test]
fn both_architectures_learn_without_a_condition_and_by_class() -> Result<()> {
    let dir = setting()?;
    let llama = "model.kind=llama model.n_layer=1 model.n_head=2 model.dim=16 model.multiple_of=8";
    for (run, settings) in [
        ("gpt", "condition.kind=none".to_owned()),
        ("gpt-class", "condition.kind=class condition.drop=0.1".to_owned()),
        ("llama", format!("{llama} condition.kind=none")),
        ("llama-class", format!("{llama} condition.kind=class condition.drop=0.1")),
    ] {
        let mut config = config(dir.path(), run, &settings)?;
        (config.steps, config.optimizer.ema) = (40, 0.0);
        config.optimizer.schedule.lr = 1e-2;
        config.validation.every = 10;
        let summary = train(&config, None).context(run)?;
        let folder = read(&summary).context(run)?;
        match &folder.config.condition {
            ConditionConfig::Class(class) if run.ends_with("class") => {
                assert_eq!(class.names, ["dark", "light"]);
            }
            ConditionConfig::Class(_) => assert_eq!(run, "llama"),
            _ => assert_eq!(run, "gpt"),
        }
        let nll = summary.validation.context("no validation")?["val_nll"];
        assert!(nll < 24f64.ln() - 0.3, "{run}: {nll}");
    }
    Ok(())
}

#[test]
fn a_run_that_is_asked_to_stop_while_it_encodes_leaves_and_goes_on() -> Result<()> {
    static STOP: AtomicBool = AtomicBool::new(true);
    let dir = setting()?;
    let config = config(dir.path(), "run", "condition.kind=none")?;
    let limits = Limits { stop: Some(&STOP), ..Limits::default() };
    let summary = train_transformer(&config, &Device::Cpu, limits, &mut Warnings::default())?;
    assert_eq!((summary.step, summary.finished), (0, false));
    assert!(!summary.model.exists());
    assert!(config.run.join("codes/plan.json").is_file());
    assert!(train(&config, None)?.finished);
    Ok(())
}

#[test]
fn the_model_folder_holds_the_best_or_the_last_weights() -> Result<()> {
    let dir = setting()?;
    for (run, steps) in [("best", 2), ("last", 6)] {
        let mut config = config(dir.path(), run, &format!("condition.kind=none hand_out={run}"))?;
        // Far too large, so that the first validation is the best.
        (config.optimizer.schedule.lr, config.optimizer.ema) = (3.0, 0.0);
        let folder = read(&train_transformer(
            &config,
            &Device::Cpu,
            Limits::default(),
            &mut Warnings::default(),
        )?)?;
        assert_eq!(folder.config.provenance["steps"], steps, "{run}");
    }
    Ok(())
}

#[test]
fn codes_files_are_read_and_other_codecs_refused() -> Result<()> {
    let dir = setting()?;
    let pictures = config(dir.path(), "pictures-run", "condition.kind=none")?;
    train(&pictures, None)?;
    let mut codes = config(dir.path(), "codes-run", "condition.kind=class condition.drop=0.1")?;
    codes.data = pictures.run.join("codes");
    train(&codes, None)?;
    codes.run = dir.path().join("other-run");
    codes.first_stage = dir.path().join("other");
    let mut other = TrainConfig::default();
    other.model.ch_mult = vec![1, 1, 1];
    let store = ParameterStore::new(4);
    VqModel::new(&other.model, store.var_builder(DType::F32, &Device::Cpu))?;
    write_model(&codes.first_stage, &other, &CodecInput::Pictures, 0, &store.tensors(), None)?;
    let error = train(&codes, None).err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("made by"), "{error}");
    Ok(())
}

#[test]
fn a_folder_to_hand_on_is_stored_in_f16_and_read_as_f32() -> Result<()> {
    let dir = setting()?;
    let settings = "condition.kind=class condition.drop=0.1 data_card=squares";
    let summary = train(&config(dir.path(), "run", settings)?, None)?;
    let trained = TransformerFolder::open(&summary.model)?;
    let out = dir.path().join("out");
    let mut options = CopyOptions { dtype: Some(DType::F16), ..CopyOptions::default() };
    let half = trained.copy(&out, &options)?;
    let whole = trained.copy(dir.path().join("whole"), &CopyOptions::default())?;
    assert_eq!(whole.config.architecture, trained.config.architecture);
    assert_eq!(whole.config.first_stage, trained.config.first_stage);

    // Half the bytes, in both.
    for (part, dtype) in [("whole", DType::F32), ("out", DType::F16)] {
        for file in ["model.safetensors", "first_stage/model.safetensors"] {
            let path = dir.path().join(part).join(file);
            let tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
            assert!(tensors.values().all(|tensor| tensor.dtype() == dtype), "{part}/{file}");
        }
    }
    // They are those of the run, rounded, and what is read is f32.
    let load = |folder: &Path| {
        Generator::load(&GeneratorSpec::new(folder), &LoadOptions::default()).context("load")
    };
    let (from, to) = (weights(&trained)?, weights(&half)?);
    let name = "blocks.0.attn.key.weight";
    let (from, to) = (from.get((16, 16), name)?, to.get((16, 16), name)?);
    let rounded = from.to_dtype(DType::F16)?.to_dtype(DType::F32)?;
    assert_eq!(to.to_vec2::<f32>()?, rounded.to_vec2::<f32>()?);
    let folder = trained;
    let (trained, half, whole) = (load(&summary.model)?, load(&out)?, load(&whole.dir)?);
    assert_eq!(whole.sha256(), trained.sha256());
    assert_ne!(half.sha256(), trained.sha256());
    let provenance = &half.config().provenance;
    assert_eq!((&provenance["numbers"], &provenance["data"]), (&"f16".into(), &"squares".into()));
    // The codec was rounded, so it is another one: named, and with the old name beside it.
    assert_eq!(half.config().first_stage.codec_sha256, half.codec().sha256());
    assert_eq!(provenance["trained_with_codec_sha256"], trained.codec().sha256());
    let front = half.front_of_class("light")?;
    let request = DrawRequest {
        fronts: vec![front],
        streams: vec![Stream { seed: 1, sample: 0 }],
        grid: half.grid_of(half.training_size())?,
        sampling: Sampling::greedy(),
        guidance: None,
        forced: Vec::new(),
        wavefront: Wavefront::default(),
    };
    let codes = half.draw(&request, &mut |_| ())?;
    assert_eq!(half.decode(&codes, half.training_size())?.len(), 1);
    // A folder is replaced only when asked, also by itself.
    let half = TransformerFolder::open(&out)?;
    let error =
        half.copy(&out, &CopyOptions::default()).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("exists already"), "{error}");
    let again = half.copy(&out, &CopyOptions { replace: true, ..CopyOptions::default() })?;
    assert_eq!(again.config, half.config);

    // Two models beside one another may share a first stage, if it is the one.
    let beside = dir.path().join("beside");
    options.shared_first_stage = Some("../whole/first_stage".to_owned());
    let error = folder.copy(&beside, &options).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("this is not the first stage of the model"), "{error}");
    assert!(!beside.exists());
    options.shared_first_stage = Some("../out/first_stage".to_owned());
    let beside = folder.copy(&beside, &options)?;
    assert!(!beside.dir.join("first_stage").exists());
    let beside = load(&beside.dir)?;
    assert_eq!(beside.sha256(), load(&out)?.sha256());
    assert_eq!(beside.codec().sha256(), half.config.first_stage.codec_sha256);
    Ok(())
}

#[test]
fn another_decoder_of_the_same_codes_takes_the_place_of_the_first_stage() -> Result<()> {
    let dir = setting()?;
    let summary = train(&config(dir.path(), "run", "condition.kind=none")?, None)?;
    let trained = TransformerFolder::open(&summary.model)?;
    let codec = ModelFolder::open(trained.config.first_stage.place(&trained.dir))?;
    let tensors = candle_core::safetensors::load(&codec.weights, &Device::Cpu)?;
    let changed = |name: &str, place: &str| -> Result<ModelSpec> {
        let mut tensors = tensors.clone();
        let value = tensors.get_mut(name).with_context(|| format!("no {name}"))?;
        *value = (&*value + 0.5)?;
        let folder = dir.path().join(place);
        ModelFolder::write(&folder, &codec.config, &tensors, "")?;
        Ok(ModelSpec::new(folder))
    };
    let out = dir.path().join("out");
    let copy = |first_stage| {
        trained.copy(&out, &CopyOptions { first_stage: Some(first_stage), ..Default::default() })
    };
    for name in ["quantize.embedding.weight", "encoder.conv_in.bias", "quant_conv.bias"] {
        let error = copy(changed(name, name)?).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("codes mean something else"), "{name}: {error}");
        assert!(!out.exists());
    }
    copy(changed("decoder.conv_out.bias", "brighter")?)?;
    let load =
        |folder: &Path| Generator::load(&GeneratorSpec::new(folder), &LoadOptions::default());
    let (old, new) = (load(&summary.model)?, load(&out)?);
    assert_eq!(new.sha256(), old.sha256());
    let provenance = &new.config().provenance;
    assert_eq!(provenance["trained_with_codec_sha256"], old.codec().sha256());
    assert_ne!(new.codec().sha256(), old.codec().sha256());
    let x = Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu)?;
    let [old, new] = [old, new].map(|model| model.codec().model().forward_train(&x));
    let ((old, codes), (new, same)) = (old?, new?);
    let codes =
        [codes, same].map(|quantized| quantized.codes.codes().flatten_all()?.to_vec1::<u32>());
    let [codes, same] = codes;
    assert_eq!(codes?, same?);
    golden::close("brighter by 0.5", &new, &(old + 0.5)?, 1e-5)
}
