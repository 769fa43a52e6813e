//! Which of the two decoders does what?
//!
//! The transformer (in the language of language models a decoder) decides which codes stand
//! where; the CNN decoder paints them. So the same codes in another order, and codes drawn
//! without a transformer, are painted just as well, and are nothing.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use codebook::CodeGrid;
use cond_transformer::{Sampling, Stream, Wavefront};
use image::RgbImage;
use image_data::{from_tensor, grid};
use pipeline::{
    Codec, ConditionConfig, DrawRequest, Front, Generator, GeneratorSpec, GuidanceOptions,
    LoadOptions,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::subject::{SIDE, Subject};
use super::{Questions, existing, head, row};

/// Pictures in a row.
const SHOWN: usize = 3;
/// Differences are shown so many times as large.
const GAIN: f64 = 2.0;

pub fn answer(questions: &Questions) -> Result<()> {
    let subject = Subject::load(questions)?;
    let codec = &subject.codec;
    let pictures = subject.pictures.narrow(0, 0, SHOWN.min(subject.pictures.dim(0)?))?;
    let codes = codec.encode_tensor(&pictures)?;
    let (count, h, w) = codes.dims();
    let kinds = codec.describe().codes as u64;
    let flat = codes.to_vec()?;
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut below = |n: u64| (u64::from(rand::Rng::next_u32(&mut rng)) * n) >> 32;

    let mut shuffled = flat.clone();
    for grid in shuffled.chunks_exact_mut(h * w) {
        for last in (1..grid.len()).rev() {
            grid.swap(last, below(last as u64 + 1) as usize);
        }
    }
    let random: Vec<u32> = flat.iter().map(|_| below(kinds) as u32).collect();
    let as_grid = |codes: Vec<u32>| CodeGrid::from_vec(codes, (count, h, w), &Device::Cpu);

    let mut sheet: Vec<RgbImage> =
        (0..count).map(|i| Ok(from_tensor(&pictures.get(i)?)?)).collect::<Result<_>>()?;
    sheet.extend(paint(codec, &codes)?);
    sheet.extend(paint(codec, &as_grid(shuffled)?)?);
    sheet.extend(paint(codec, &as_grid(random)?)?);

    let mut changed = flat.clone();
    for grid in changed.chunks_exact_mut(h * w) {
        // The code of a corner in the middle.
        grid[(h / 2) * w + w / 2] = grid[0];
    }
    let before = decoded(codec, &codes)?;
    let difference = (decoded(codec, &as_grid(changed)?)? - before)?;
    sheet.extend(footprint(&difference)?);
    tell(&difference, codec.factor())?;

    if let Some(folder) = &questions.transformer {
        sheet.extend(drawn(questions, existing(folder, "a transformer")?, count)?);
    }
    questions.save("decoders.png", &grid(&sheet, count, 4))
}

fn decoded(codec: &Codec, codes: &CodeGrid) -> Result<Tensor> {
    let quantizer = codec.model().quantizer();
    Ok(codec.model().decode_embeddings(&codebook::Quantizer::embed(quantizer, codes)?)?)
}

fn paint(codec: &Codec, codes: &CodeGrid) -> Result<Vec<RgbImage>> {
    Ok(codec.decode(codes, (SIDE, SIDE))?)
}

/// Where pixels changed, black on white.
fn footprint(difference: &Tensor) -> Result<Vec<RgbImage>> {
    let amount = (difference.abs()?.mean_keepdim(1)? * -GAIN)?;
    let shown = (amount + 1.0)?.clamp(-1.0, 1.0)?.broadcast_as(difference.dims())?.contiguous()?;
    (0..shown.dim(0)?).map(|i| Ok(from_tensor(&shown.get(i)?)?)).collect()
}

/// How far one code reaches.
fn tell(difference: &Tensor, factor: usize) -> Result<()> {
    let (count, _, h, w) = difference.dims4()?;
    let amount = difference.abs()?.mean(1)?.to_vec3::<f32>()?;
    let middle = (h as f64 / 2.0 + factor as f64 / 2.0, w as f64 / 2.0 + factor as f64 / 2.0);
    let (mut own, mut near, mut total) = (0.0, 0.0, 0.0);
    for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
        let value: f64 = amount.iter().map(|map| f64::from(map[y][x])).sum();
        let far = (y as f64 + 0.5 - middle.0).abs().max((x as f64 + 0.5 - middle.1).abs());
        total += value;
        own += if far <= factor as f64 / 2.0 { value } else { 0.0 };
        near += if far <= factor as f64 * 1.5 { value } else { 0.0 };
    }
    head(&["one code changed", "share of the change"]);
    let share = |part: f64| format!("{:.0} %", 100.0 * part / total.max(1e-12));
    row(&[format!("in its own {factor}x{factor} pixels"), share(own)]);
    row(&[format!("in those of its neighbours too ({0}x{0})", 3 * factor), share(near)]);
    row(&[format!("anywhere, mean of {count} pictures"), share(total)]);
    Ok(())
}

/// What the transformer in `folder` draws.
fn drawn(questions: &Questions, folder: &std::path::Path, count: usize) -> Result<Vec<RgbImage>> {
    let generator = Generator::load(&GeneratorSpec::new(folder), &LoadOptions::default())?;
    let size = generator.training_size();
    let front: Front = match &generator.config().condition {
        ConditionConfig::Text(_) => generator.front_of_text(&questions.prompt)?,
        ConditionConfig::Class(class) => {
            generator.front_of_class(class.names.first().context("a model without classes")?)?
        }
        _ => generator.front_of_nothing(generator.grid_of(size)?)?,
    };
    let defaults = &generator.config().sampling;
    let request = DrawRequest {
        fronts: vec![front; count],
        streams: Stream::range(1, 0, count),
        grid: generator.grid_of(size)?,
        sampling: Sampling {
            temperature: defaults.temperature,
            top_k: defaults.top_k,
            top_p: defaults.top_p,
            ..Sampling::default()
        },
        guidance: (defaults.cfg_scale != 1.0)
            .then_some(GuidanceOptions { scale: defaults.cfg_scale, interval: None }),
        forced: Vec::new(),
        wavefront: Wavefront::default(),
    };
    let codes = generator.draw(&request, &mut |_| ())?;
    Ok(generator.decode(&codes, size)?)
}
