//! Filters, orders and condition tokens against the reference's tables.

mod common;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use codebook::CodeGrid;
use common::u32s;
use cond_transformer::{
    Coordinates, LayoutTokens, Object, Order, Permuter, Places, Rect, Sampling, filter_logits,
    probabilities,
};
use serde_json::Value;

/// Results with those of equal logits sorted: which of equals top-p keeps depends on
/// torch's sort, which is not stable, and no rule describes it.
fn without_ties(results: &[f32], logits: &[f32]) -> Vec<f32> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(results[a].total_cmp(&results[b])));
    order.iter().map(|&i| results[i]).collect()
}

#[test]
fn filters() -> Result<()> {
    let Some(group) = golden::group("sampling_utils")? else { return Ok(()) };
    let expected = group.expected("outputs.safetensors")?;
    let rows = group.inputs()?["logits"].to_vec2::<f32>()?;
    for name in expected.names() {
        let (kind, options) = name.split_once('/').context("name")?;
        let mut sampling = Sampling::default();
        let top_k = |text: &str| -> Result<Option<usize>> {
            Ok(Some(text.parse::<usize>()?).filter(|&k| k > 0))
        };
        let mut parts = options.split('_');
        sampling.top_k = top_k(parts.next().context("k")?)?;
        if let Some(p) = parts.next() {
            sampling.top_p = p.parse()?;
        }
        if let Some(t) = parts.next() {
            sampling.temperature = t.trim_start_matches('t').parse()?;
        }
        let mut filtered = rows.clone();
        filtered.iter_mut().for_each(|row| filter_logits(row, &sampling));
        if kind == "probs_hf" {
            filtered.iter_mut().for_each(|row| *row = probabilities(row));
        }
        let expected = expected.get(name)?.to_vec2::<f32>()?;
        for ((ours, theirs), logits) in filtered.iter().zip(&expected).zip(&rows) {
            let (ours, theirs) = (without_ties(ours, logits), without_ties(theirs, logits));
            let close = |(a, b): (&f32, &f32)| a == b || (a - b).abs() <= 1e-6;
            ensure!(ours.iter().zip(&theirs).all(close), "{name}: {ours:?} is not {theirs:?}");
        }
    }
    Ok(())
}

fn order(name: &str) -> Option<Order> {
    Some(match name {
        "Identity" => Order::Identity,
        "Subsample" => Order::Subsample,
        "ZCurve" => Order::ZCurve,
        "SpiralOut" => Order::SpiralOut,
        "SpiralIn" => Order::SpiralIn,
        "Random" => Order::Random,
        "AlternateParsing" => Order::AlternateParsing,
        _ => return None,
    })
}

#[test]
fn orders() -> Result<()> {
    let Some(group) = golden::group("permuters")? else { return Ok(()) };
    let expected = group.expected("outputs.safetensors")?;
    for name in expected.names() {
        let (table, direction) = name.split_once('/').context("name")?;
        let (kind, size) = table.split_once('_').context("name")?;
        let (height, width) = size.split_once('x').context("name")?;
        let order = order(kind).with_context(|| kind.to_owned())?;
        let permuter = Permuter::new(order, height.parse()?, width.parse()?)?;
        let ours = match direction {
            "forward" => permuter.forward(),
            _ => permuter.backward(),
        };
        let theirs = u32s(expected.get(name)?)?.to_vec1::<u32>()?;
        ensure!(ours == theirs, "{name}: {ours:?} is not {theirs:?}");
    }
    Ok(())
}

#[test]
fn coordinates() -> Result<()> {
    let Some(group) = golden::group("coord")? else { return Ok(()) };
    let config = &group.manifest()["config"];
    let stage = Coordinates {
        levels: config["n_embed"].as_u64().context("n_embed")? as u32,
        factor: config["down_factor"].as_u64().context("down_factor")? as usize,
    };
    let expected = group.expected("outputs.safetensors")?;
    for (name, input) in group.inputs()? {
        let tokens = stage.encode(&input)?;
        expected.check(&format!("{name}/indices"), &tokens.codes().to_dtype(DType::I64)?)?;
        let decoded = stage.decode(&tokens)?;
        golden::close(&name, &decoded, expected.get(&format!("{name}/decoded"))?, 1e-7)?;
    }
    let (_, _, height, width) = group.inputs()?["grid"].dims4()?;
    let whole = Coordinates::of_picture(height, width)?;
    golden::close("grid", &whole, &group.inputs()?["grid"], 1e-7)
}

fn rect(value: &Value) -> Option<Rect> {
    let at = |i: usize| value[i].as_f64();
    Some(Rect { x: at(0)?, y: at(1)?, width: at(2)?, height: at(3)? })
}

fn object(value: &Value) -> Result<Object> {
    let flag = |key: &str| value[key].as_bool().unwrap_or(false);
    Ok(Object {
        category: value["category_no"].as_u64().context("category")? as u32,
        place: rect(&value["bbox"]).context("bbox")?,
        group: flag("is_group_of"),
        occluded: flag("is_occluded"),
        depiction: flag("is_depiction"),
        inside: flag("is_inside"),
    })
}

#[test]
fn layouts() -> Result<()> {
    let Some(group) = golden::group("scene_tokens")? else { return Ok(()) };
    let cases: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(group.path("cases.json"))?)?;
    for (number, case) in cases.iter().enumerate() {
        let config = &case["config"];
        let count = |key: &str| config[key].as_u64().context("count");
        let flag = |key: &str| config[key].as_bool().unwrap_or(false);
        let boxes = case["kind"] == "objects_bbox";
        let tokens = LayoutTokens {
            categories: count("no_object_classes")? as u32,
            max_objects: count("no_max_objects")? as usize,
            vocabulary: count("no_tokens")? as u32,
            places: if boxes { Places::Boxes } else { Places::Centres },
            encode_crop: flag("encode_crop"),
            tell_groups: flag("use_group_parameter"),
            tell_attributes: flag("use_additional_parameters"),
        };
        let objects = case["annotations"].as_array().context("annotations")?;
        let objects = objects.iter().map(object).collect::<Result<Vec<_>>>()?;
        let crop = rect(&case["crop"]).unwrap_or(Rect::FULL);
        let flip = case["flip"].as_bool().context("flip")?;
        let ours = tokens.encode(&objects, crop, flip)?;
        let theirs: Vec<u32> = serde_json::from_value(case["tokens"].clone())?;
        ensure!(ours == theirs, "case {number}: {ours:?} is not {theirs:?}");
        ensure!(case["embedding_dim"].as_u64() == Some(tokens.positions() as u64));

        let layout = tokens.decode(&ours)?;
        let inverse = case["inverse"].as_array().context("inverse")?;
        ensure!(layout.objects.len() == inverse.len(), "case {number}");
        for (ours, theirs) in layout.objects.iter().zip(inverse) {
            let token = theirs[0].as_u64().context("token")?;
            ensure!(u64::from(ours.category) == token % u64::from(tokens.categories));
            let place = [ours.place.x, ours.place.y, ours.place.width, ours.place.height];
            let told = theirs[1].as_array().context("place")?;
            let close = told
                .iter()
                .zip(place)
                .all(|(a, b)| a.as_f64().is_some_and(|a| (a - b).abs() < 1e-12));
            ensure!(close, "case {number}: {place:?} is not {told:?}");
        }
        match (rect(&case["inverse_crop"]), layout.crop) {
            (None, None) => {}
            (Some(theirs), Some(ours)) => {
                let differs = (theirs.x - ours.x).abs() + (theirs.width - ours.width).abs();
                ensure!(differs < 1e-12, "case {number}: {ours:?} is not {theirs:?}");
            }
            other => anyhow::bail!("case {number}: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn coordinates_refuse_what_they_cannot_cut() -> Result<()> {
    let stage = Coordinates::default();
    assert!(stage.encode(&Tensor::zeros((1, 1, 20, 16), DType::F32, &Device::Cpu)?).is_err());
    assert!(stage.encode(&Tensor::full(1.5f32, (1, 1, 16, 16), &Device::Cpu)?).is_err());
    let one = stage.encode(&Tensor::ones((1, 1, 16, 16), DType::F32, &Device::Cpu)?)?;
    assert_eq!(CodeGrid::to_vec(&one)?, [1024]);
    Ok(())
}
