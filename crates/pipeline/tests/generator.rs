//! Published transformers through the pipeline: the reference's condition codes, codes
//! and pictures.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, IndexOp, Tensor};
use codebook::CodeGrid;
use cond_transformer::{Sampling, Stream, Wavefront};
use golden::{Expected, Group};
use image::GrayImage;
use pipeline::{
    ConditionConfig, DrawRequest, Front, Generator, GeneratorSpec, GuidanceOptions, LoadOptions,
    ModelSpec, PictureCondition,
};
use serde_json::json;
use vq_autoencoder::ImageCodec;

fn load(spec: &GeneratorSpec) -> Result<Generator> {
    Ok(Generator::load(spec, &LoadOptions::default())?)
}

fn reference(group: &Group, weights: &str, yaml: &str) -> Result<Generator> {
    load(&GeneratorSpec {
        config: Some(group.path(yaml)),
        ..GeneratorSpec::new(group.path(weights))
    })
}

fn greedy(fronts: Vec<Front>, grid: (usize, usize)) -> DrawRequest {
    DrawRequest {
        streams: Stream::range(0, 0, fronts.len()),
        fronts,
        grid,
        sampling: Sampling::greedy(),
        guidance: None,
        forced: Vec::new(),
        wavefront: Wavefront::default(),
    }
}

fn i64s(grid: &CodeGrid) -> Result<Tensor> {
    Ok(grid.codes().to_dtype(DType::I64)?)
}

/// `[B, T]` of the group, as numbers.
fn rows(tensor: &Tensor) -> Result<Vec<Vec<u32>>> {
    Ok(tensor.to_dtype(DType::U32)?.flatten_from(1)?.to_vec2()?)
}

/// Draws, and checks codes in the model's order and the picture decoded from them.
fn check(
    generator: &Generator,
    expected: &Expected,
    request: &DrawRequest,
    tokens: &str,
    image: Option<&str>,
) -> Result<()> {
    let mut told = 0;
    let codes = generator.draw(request, &mut |progress| told = progress.done)?;
    assert_eq!(told, codes.codes().elem_count(), "{tokens}: progress");
    let order = generator.config().permuter()?;
    let (batch, height, width) = codes.dims();
    let sequences = codes.to_vec()?;
    let sequences = match [height, width] == generator.config().grid {
        true => sequences
            .chunks(height * width)
            .map(|grid| order.permute(grid))
            .collect::<Result<Vec<_>, _>>()?
            .concat(),
        false => sequences,
    };
    let sequences = CodeGrid::from_vec(sequences, (batch, height, width), codes.codes().device())?;
    expected.check(tokens, &i64s(&sequences)?)?;
    if let Some(image) = image {
        expected.check(image, &generator.codec().model().decode(&codes)?)?;
    }
    Ok(())
}

/// The first half of the reference's codes, given.
fn first_half(generator: &Generator, z: &[Vec<u32>]) -> Result<Vec<Vec<Option<u32>>>> {
    let order = generator.config().permuter()?;
    z.iter()
        .map(|sequence| {
            let half = sequence.len() / 2;
            let given = sequence.iter().enumerate().map(|(i, &code)| (i < half).then_some(code));
            Ok(order.restore(&given.collect::<Vec<_>>())?)
        })
        .collect()
}

#[test]
fn class_conditional_and_unconditional() -> Result<()> {
    let Some(group) = golden::group("net2net_class")? else { return Ok(()) };
    let expected = group.expected("outputs.safetensors")?;
    let generator = reference(&group, "last.ckpt", "config.yaml")?;
    let same = reference(&group, "model.safetensors", "config.yaml")?;
    assert_eq!(generator.sha256(), same.sha256(), "one model in two files");
    let classes = rows(&group.inputs()?["c"].unsqueeze(1)?)?;
    let fronts = classes
        .iter()
        .map(|class| Ok(generator.front_of_class(&class[0].to_string())?))
        .collect::<Result<Vec<_>>>()?;
    let z = rows(expected.get("z_indices")?)?;
    let mut request = greedy(fronts.clone(), (8, 8));
    check(&generator, &expected, &request, "greedy/tokens", Some("greedy/image"))?;
    check(&generator, &expected, &request, "fast/tokens", None)?;
    request.forced = first_half(&generator, &z)?;
    check(&generator, &expected, &request, "half/tokens", Some("half/image"))?;
    // Bits are the loss, in another unit.
    let scores = z.iter().zip(&fronts).map(|(z, front)| {
        let codes = CodeGrid::from_vec(z.clone(), (1, 8, 8), generator.codec().device())?;
        Ok(generator.score(front, &codes, &mut |_| ())?.mean())
    });
    let scores = scores.collect::<Result<Vec<_>>>()?;
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    group.check_scalar("loss", mean * std::f64::consts::LN_2)?;

    let generator = reference(&group, "last.ckpt", "config_uncond.yaml")?;
    let front = generator.front_of_nothing((8, 8))?;
    let mut request = greedy(vec![front.clone(), front], (8, 8));
    check(&generator, &expected, &request, "uncond/greedy/tokens", None)?;
    request.forced = first_half(&generator, &z)?;
    check(&generator, &expected, &request, "uncond/half/tokens", None)
}

#[test]
fn depth_with_a_permuter_and_a_smaller_condition() -> Result<()> {
    let Some(group) = golden::group("net2net_depth")? else { return Ok(()) };
    let expected = group.expected("outputs.safetensors")?;
    let generator = reference(&group, "model.safetensors", "config.yaml")?;
    let depth = &group.inputs()?["d"];
    let fronts = (0..depth.dim(0)?)
        .map(|i| {
            let map = PictureCondition::Tensor(depth.i(i..i + 1)?);
            Ok(generator.front_of_picture(&map, (8, 8))?)
        })
        .collect::<Result<Vec<_>>>()?;
    let condition = rows(expected.get("c_indices")?)?;
    for (front, tokens) in fronts.iter().zip(&condition) {
        assert_eq!(front, &Front::Grid { height: 4, width: 4, tokens: tokens.clone() });
    }
    let mut request = greedy(fronts, (8, 8));
    check(&generator, &expected, &request, "greedy/tokens", Some("greedy/image"))?;
    request.forced = first_half(&generator, &rows(expected.get("z_indices")?)?)?;
    check(&generator, &expected, &request, "half/tokens", Some("half/image"))?;
    let error = generator.grid_of((20, 20)).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("16x16 pixels only"), "{error}");
    Ok(())
}

#[test]
fn segmentation_with_a_window_that_slides() -> Result<()> {
    let Some(group) = golden::group("net2net_seg")? else { return Ok(()) };
    let expected = group.expected("outputs.safetensors")?;
    let generator = reference(&group, "model.safetensors", "config.yaml")?;
    let map = |name: &str| -> Result<PictureCondition> {
        let labels = group.inputs()?[name].to_dtype(DType::U8)?.i(0)?;
        let (height, width) = labels.dims2()?;
        let labels = labels.flatten_all()?.to_vec1()?;
        let map = GrayImage::from_raw(width as u32, height as u32, labels).context("size")?;
        Ok(PictureCondition::Labels(map))
    };
    let condition = |name: &str, grid: (usize, usize)| -> Result<Front> {
        Ok(generator.front_of_picture(&map(name)?, grid)?)
    };
    let tokens = |front: &Front| match front {
        Front::Grid { tokens, .. } => tokens.clone(),
        _ => Vec::new(),
    };
    let small = condition("labels", (16, 16))?;
    assert_eq!(tokens(&small), rows(expected.get("c_indices")?)?[0]);
    let z = rows(expected.get("z_indices")?)?;
    let codes = CodeGrid::from_vec(z[0].clone(), (1, 16, 16), generator.codec().device())?;
    let scores = generator.score(&small, &codes, &mut |_| ())?;
    group.check_scalar("loss", scores.mean() * std::f64::consts::LN_2)?;

    let (width, height) = map("labels_big")?.size()?;
    let grid = generator.grid_of((width, height))?;
    let front = condition("labels_big", grid)?;
    assert_eq!(tokens(&front), rows(expected.get("big/c_indices")?)?[0]);
    let mut request = greedy(vec![front.clone()], grid);
    check(&generator, &expected, &request, "slide/tokens", Some("slide/image"))?;
    let z = rows(expected.get("big/z_indices")?)?;
    let kept = grid.0 / 2 * grid.1;
    let given = z[0].iter().enumerate().map(|(i, &code)| (i < kept).then_some(code));
    request.forced = vec![given.collect()];
    check(&generator, &expected, &request, "slide_half/tokens", None)?;

    let wrong = condition("labels_big", (16, 16)).err().map(|e| e.to_string());
    assert!(wrong.is_some_and(|error| error.contains("32x32")));
    // Each code is scored where the window has it.
    let codes = CodeGrid::from_vec(z[0].clone(), (1, grid.0, grid.1), generator.codec().device())?;
    let mut told = 0;
    let scores = generator.score(&front, &codes, &mut |done| told = done)?;
    assert_eq!((told, scores.bits.len()), (grid.0 * grid.1, grid.0 * grid.1));
    assert!(scores.bits.iter().all(|bits| bits.is_finite() && *bits > 0.0));
    Ok(())
}

/// The configuration of a LlamaGen group, with the codec of another.
fn llamagen(group: &Group, folder: &Path) -> Result<Option<GeneratorSpec>> {
    let Some(codec) = golden::group("llamagen_vq")? else { return Ok(None) };
    let sizes = &codec.manifest()["config"];
    let preset = vq_autoencoder::VqConfig::preset("llamagen-vq16").context("no preset")?;
    let mut config = serde_json::to_value(preset)?;
    for (key, stated) in
        [("ch", "ch"), ("ch_mult", "mult"), ("num_res_blocks", "nres"), ("z_channels", "z")]
    {
        config[key] = sizes[stated].clone();
    }
    config["quantizer"]["len"] = sizes["K"].clone();
    config["quantizer"]["dim"] = sizes["e"].clone();
    let codec_config = folder.join("codec.json");
    std::fs::write(&codec_config, serde_json::to_string(&config)?)?;

    let given = &group.manifest()["config"];
    let classes = given["num_classes"].as_u64().context("classes")?;
    let caption = given["model_type"] == "t2i";
    let (prefix, condition) = match caption {
        true => (
            json!({ "kind": "caption", "dim": given["caption_dim"],
                    "positions": given["cls_token_num"] }),
            json!({ "kind": "caption" }),
        ),
        false => (
            json!({ "kind": "class", "classes": classes }),
            json!({ "kind": "class", "null": classes,
                    "names": (0..classes).map(|n| n.to_string()).collect::<Vec<_>>() }),
        ),
    };
    let mut architecture = json!({ "layout": "llama", "prefix": prefix });
    for key in ["vocab_size", "block_size", "dim", "n_layer", "n_head", "multiple_of"] {
        architecture[key] = given[key].clone();
    }
    let codes = sizes["K"].as_u64().min(given["vocab_size"].as_u64());
    let config = json!({
        "kind": "code_transformer", "architecture": architecture,
        "first_stage": { "path": "x", "codec_sha256": "0".repeat(64) },
        "codes": codes, "grid": [4, 4], "condition": condition,
    });
    let path = folder.join("config.json");
    std::fs::write(&path, serde_json::to_string(&config)?)?;
    Ok(Some(GeneratorSpec {
        config: Some(path),
        first_stage: Some(ModelSpec::with_config(codec.path("model.safetensors"), codec_config)),
        ..GeneratorSpec::default()
    }))
}

/// The greedy groups of LlamaGen, with guidance and its interval.
fn check_llamagen(group: &Group, generator: &Generator, fronts: &[Front]) -> Result<()> {
    let expected = group.expected("outputs.safetensors")?;
    let mut seen = 0;
    for name in expected.names() {
        let Some(options) = name.strip_prefix("gen/cfg") else { continue };
        let (scale, interval) = options.split_once("_int").context("name")?;
        let mut request = greedy(fronts.to_vec(), (4, 4));
        request.guidance = Some(GuidanceOptions {
            scale: scale.parse()?,
            interval: usize::try_from(interval.parse::<i64>()?).ok(),
        });
        check(generator, &expected, &request, name, None)?;
        seen += 1;
    }
    assert!(seen > 1);
    Ok(())
}

#[test]
fn llamagen_by_class_from_every_file_format() -> Result<()> {
    let Some(group) = golden::group("llamagen_gpt")? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let Some(spec) = llamagen(&group, folder.path())? else { return Ok(()) };
    let mut identity = None;
    for file in ["model.safetensors", "ddp.pt", "fsdp_consolidated.pth", "deepspeed_bf16.pt"] {
        let generator =
            load(&GeneratorSpec { model: group.path(file), ..spec.clone() }).context(file)?;
        if file.starts_with("deepspeed") {
            continue;
        }
        assert_eq!(identity.get_or_insert(generator.sha256().to_owned()), generator.sha256());
        let classes = rows(&group.inputs()?["cond"].unsqueeze(1)?)?;
        let fronts = classes
            .iter()
            .map(|class| Ok(generator.front_of_class(&class[0].to_string())?))
            .collect::<Result<Vec<_>>>()?;
        check_llamagen(&group, &generator, &fronts)?;
    }
    let alone = GeneratorSpec { first_stage: None, model: group.path("ddp.pt"), ..spec };
    let error = load(&alone).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("--first-stage"), "{error}");
    Ok(())
}

#[test]
fn llamagen_by_captions() -> Result<()> {
    let Some(group) = golden::group("llamagen_gpt_t2i")? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let Some(spec) = llamagen(&group, folder.path())? else { return Ok(()) };
    let generator = load(&GeneratorSpec { model: group.path("model.safetensors"), ..spec })?;
    let inputs = group.inputs()?;
    let fronts = (0..inputs["cond"].dim(0)?)
        .map(|i| {
            // As a file of embeddings, which is how they come.
            let path = folder.path().join(format!("caption{i}.safetensors"));
            let tensors = [
                ("embeddings".to_owned(), inputs["cond"].i(i)?),
                ("mask".to_owned(), inputs["emb_masks"].i(i)?),
            ];
            candle_core::safetensors::save(&tensors.into_iter().collect(), &path)?;
            Ok(generator.front_of_captions(&path)?)
        })
        .collect::<Result<Vec<_>>>()?;
    check_llamagen(&group, &generator, &fronts)
}

#[test]
fn a_reference_run_folder_and_what_is_none() -> Result<()> {
    let Some(group) = golden::group("net2net_class")? else { return Ok(()) };
    let run = tempfile::tempdir()?;
    let at = |name: &str| run.path().join(name);
    std::fs::create_dir(at("configs"))?;
    std::fs::create_dir(at("checkpoints"))?;
    std::fs::copy(group.path("config.yaml"), at("configs/2020-11-09T13-31-51-project.yaml"))?;
    std::fs::copy(group.path("last.ckpt"), at("checkpoints/last.ckpt"))?;
    let direct = reference(&group, "last.ckpt", "config.yaml")?;
    for place in [run.path(), &at("checkpoints/last.ckpt")] {
        let generator = load(&GeneratorSpec::new(place))?;
        assert_eq!(generator.sha256(), direct.sha256());
        assert_eq!(generator.training_size(), (16, 16));
        assert!(matches!(&generator.config().condition, ConditionConfig::Class(_)));
    }
    let vqgan = golden::group("vqgan_a")?.context("no vqgan_a")?;
    for (spec, words) in [
        (GeneratorSpec::new(at("nowhere")), "no such model"),
        (GeneratorSpec::new(group.path("last.ckpt")), "--config"),
        (GeneratorSpec::new(at("configs")), "no model in this folder"),
        (
            GeneratorSpec {
                config: Some(vqgan.path("config.yaml")),
                ..GeneratorSpec::new(vqgan.path("model.safetensors"))
            },
            "VQModel",
        ),
        (
            GeneratorSpec {
                config: Some("llamagen-z".into()),
                ..GeneratorSpec::new(group.path("last.ckpt"))
            },
            "llamagen-b",
        ),
    ] {
        let message = load(&spec).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(words), "{words}: {message}");
    }
    Ok(())
}
