//! What is drawn depends on the seed, the sample and the condition, and on nothing else.

mod common;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use codebook::CodeGrid;
use common::weights;
use cond_transformer::{
    Chooser, Conditions, Error, Gpt, GptConfig, Guidance, KvCache, LayoutTokens, Llama,
    LlamaConfig, Middle, NextCode, NoCode, Object, Order, Permuter, Places, PrefixConfig, Rect,
    Request, Sampling, Scene, Scenes, Stream, Wavefront, Window, WindowConditions, WindowRequest,
    filter_logits, generate, generate_grid, generate_raster, generate_wavefront, probabilities,
};
use golden as _;

fn gpt(block_size: usize, n_unmasked: usize) -> Result<Gpt> {
    let config =
        GptConfig { vocab_size: 40, block_size, n_layer: 2, n_head: 4, n_embd: 32, n_unmasked };
    Ok(Gpt::new(&config, weights(DType::F32))?)
}

fn llama(dtype: DType) -> Result<Llama> {
    let config = LlamaConfig {
        vocab_size: 40,
        block_size: 16,
        dim: 32,
        n_layer: 2,
        n_head: 4,
        n_kv_head: Some(2),
        multiple_of: 16,
        ffn_dim_multiplier: None,
        rope_base: 10000.0,
        norm_eps: 1e-5,
        prefix: PrefixConfig::Class { classes: 5 },
    };
    Ok(Llama::new(&config, weights(dtype))?)
}

fn classes(classes: &[u32]) -> Result<Conditions> {
    Ok(Conditions::classes(classes, &Device::Cpu)?)
}

fn lively() -> Sampling {
    Sampling { temperature: 1.1, top_k: Some(30), top_p: 0.95, ..Sampling::default() }
}

#[test]
fn samples_do_not_depend_on_their_batch() -> Result<()> {
    let (gpt, llama) = (gpt(32, 0)?, llama(DType::F32)?);
    for model in [&gpt as &dyn NextCode, &llama] {
        let ids = [3, 1, 4, 1, 0, 2, 4, 3];
        let mut request = Request::new(classes(&ids)?, Stream::range(9, 100, ids.len()));
        request.sampling = lively();
        let all = generate(model, &request, 16, &mut |_| ())?;
        assert_ne!(all[1], all[3], "one condition, two samples");
        for (i, &id) in ids.iter().enumerate() {
            request.conditions = classes(&[id])?;
            request.streams = Stream::range(9, 100 + i as u64, 1);
            assert_eq!(generate(model, &request, 16, &mut |_| ())?[0], all[i]);
        }
    }
    Ok(())
}

#[test]
fn logits_do_not_depend_on_their_batch_in_any_bit() -> Result<()> {
    let (gpt, llama) = (gpt(32, 0)?, llama(DType::F32)?);
    for model in [&gpt as &dyn NextCode, &llama] {
        let ids = [3, 1, 4, 1, 0];
        let run = |ids: &[u32]| -> Result<Vec<Vec<f32>>> {
            let mut cache = model.cache(ids.len(), 16)?;
            let mut logits = model.prefill(&classes(ids)?, None, &mut cache)?;
            for step in 0..15 {
                let codes: Vec<u32> = ids.iter().map(|id| (id * 7 + step) % 40).collect();
                let codes = Tensor::from_vec(codes, (ids.len(), 1), &Device::Cpu)?;
                logits = model.step(&codes, &mut cache)?;
            }
            Ok(logits.to_vec2()?)
        };
        let all = run(&ids)?;
        for (i, &id) in ids.iter().enumerate() {
            assert_eq!(run(&[id])?[0], all[i]);
        }
    }
    Ok(())
}

#[test]
fn drawn_with_and_without_a_cache() -> Result<()> {
    // With more positions unmasked than the prefix has, cached keys go stale.
    for unmasked in [0, 9] {
        let model = gpt(40, unmasked)?;
        let conditions = Conditions::tokens(&[vec![3, 4, 5], vec![5, 6, 7]], &Device::Cpu)?;
        let mut cache = model.cache(2, 40)?;
        let mut codes = Tensor::zeros((2, 0), DType::U32, &Device::Cpu)?;
        let mut logits = model.prefill(&conditions, None, &mut cache)?;
        for step in 0..20_u32 {
            let known = codes.dim(1)?;
            let padded =
                Tensor::cat(&[&codes, &Tensor::ones((2, 3), DType::U32, &Device::Cpu)?], 1)?;
            let plain = model.logits_after(&conditions, &padded, &[known; 2])?;
            golden::close(&format!("step {step}"), &logits, &plain, 1e-5)?;
            let next = Tensor::new(&[[step % 7], [step % 11]], &Device::Cpu)?;
            codes = Tensor::cat(&[&codes, &next], 1)?;
            logits = model.step(&next, &mut cache)?;
        }
        assert_eq!(cache.bytes(), 2 * 2 * 2 * 40 * 32 * 4, "layers x (K, V) x batch x ... x f32");
    }
    Ok(())
}

/// Two scenes with an object in `place`, of which the second draws a part; 14 tokens.
fn scenes([x, y, width, height]: [f64; 4]) -> WindowConditions {
    let object = |category, place| Object {
        category,
        place,
        group: false,
        occluded: false,
        depiction: false,
        inside: false,
    };
    let place = Rect { x, y, width, height };
    let objects = vec![object(2, place), object(5, Rect { y: 0.0, height: 0.4, ..place })];
    let whole = Scene { objects: objects.clone(), crop: Rect::FULL };
    let part = Scene { objects, crop: Rect { x: 0.0, y: 0.25, width: 1.0, height: 0.5 } };
    WindowConditions::Scenes(Scenes {
        scenes: vec![whole, part],
        tokens: LayoutTokens {
            categories: 8,
            max_objects: 4,
            vocabulary: 40,
            places: Places::Boxes,
            encode_crop: true,
            tell_groups: false,
            tell_attributes: false,
        },
        offset: 0,
    })
}

#[test]
fn raster_and_wavefront_draw_the_same() -> Result<()> {
    let window = Window { height: 4, width: 4, ..Window::default() };
    let size = (7, 9);
    let grid = |seed: u64| -> Result<CodeGrid> {
        let stream = Stream { seed, sample: 0 };
        let codes = (0..2 * 63).map(|i| (stream.uniform(i) * 40.0) as u32).collect();
        Ok(CodeGrid::from_vec(codes, (2, size.0, size.1), &Device::Cpu)?)
    };
    let (gpt, llama) = (gpt(32, 16)?, llama(DType::F32)?);
    let fixed = WindowConditions::Fixed(classes(&[1, 2])?);
    let absent = WindowConditions::Fixed(classes(&[5, 5])?);
    let (scenes, others) = (scenes([0.1, 0.2, 0.6, 0.3]), scenes([0.5, 0.5, 0.5, 0.5]));
    let cases: [(&dyn NextCode, WindowConditions, Option<WindowConditions>); 5] = [
        (&gpt, scenes.clone(), None),
        (&gpt, scenes, Some(others)),
        (&gpt, WindowConditions::Grid(grid(1)?), Some(WindowConditions::Grid(grid(2)?))),
        (&llama, fixed.clone(), Some(absent)),
        (&llama, fixed, None),
    ];
    for (model, conditions, absent) in cases {
        let mut request = WindowRequest::new(conditions, Stream::range(4, 0, 2), size);
        request.window = window;
        if matches!(request.conditions, WindowConditions::Scenes(_)) {
            request.window.middle = Middle::Before;
        }
        request.sampling = lively();
        request.guidance = absent.map(|absent| Guidance { scale: 1.5, interval: Some(40), absent });
        request.forbidden = vec![7];
        let mut forced = vec![vec![None; 63]; 2];
        forced[1][20] = Some(11);
        forced[1][62] = Some(12);
        request.forced = forced;
        let plain = generate_raster(model, &request, &mut |_| ())?.to_vec()?;
        assert_eq!((plain[63 + 20], plain[63 + 62]), (11, 12));
        assert!(plain.iter().all(|&code| code != 7));
        assert_ne!(plain[..63], plain[63..]);
        for (lanes, cache_bytes) in [(1, 0), (2, 1 << 30), (5, 40_000), (64, 0), (64, 1 << 30)] {
            let mut told = 0;
            let wavefront = Wavefront { lanes, cache_bytes };
            let wave = generate_wavefront(model, &request, wavefront, &mut |p| told = p.done)?;
            assert_eq!(wave.to_vec()?, plain, "{wavefront:?}");
            assert!(told >= 124);
        }
    }
    Ok(())
}

#[test]
fn a_window_that_cannot_move_draws_what_the_cache_draws() -> Result<()> {
    let model = llama(DType::F32)?;
    let streams = Stream::range(2, 0, 3);
    let conditions = classes(&[0, 3, 4])?;
    let mut request = Request::new(conditions.clone(), streams.clone());
    request.sampling = lively();
    let order = Permuter::new(Order::Identity, 4, 4)?;
    let cached = generate_grid(&model, &request, (4, 4), &order, &mut |_| ())?.to_vec()?;
    let mut request = WindowRequest::new(WindowConditions::Fixed(conditions), streams, (4, 4));
    request.sampling = lively();
    request.window = Window { height: 4, width: 4, ..Window::default() };
    assert_eq!(
        generate_wavefront(&model, &request, Wavefront::default(), &mut |_| ())?.to_vec()?,
        cached
    );
    Ok(())
}

#[test]
fn given_codes_stay_in_their_places() -> Result<()> {
    let model = gpt(32, 0)?;
    let order = Permuter::new(Order::SpiralOut, 4, 4)?;
    let mut request = Request::new(classes(&[1, 2])?, Stream::range(1, 0, 2));
    request.forbidden = (20..40).collect();
    let free = generate_grid(&model, &request, (4, 4), &order, &mut |_| ())?.to_vec()?;
    assert!(free.iter().all(|&code| code < 20));
    let mut forced = vec![vec![None; 16]; 2];
    (forced[0][3], forced[1][9], forced[1][15]) = (Some(33), Some(0), Some(39));
    request.forced = forced;
    let codes = generate_grid(&model, &request, (4, 4), &order, &mut |_| ())?.to_vec()?;
    assert_eq!((codes[3], codes[16 + 9], codes[16 + 15]), (33, 0, 39));
    // What was drawn, given as a whole, is read back.
    request.forced = codes.chunks(16).map(|c| c.iter().copied().map(Some).collect()).collect();
    assert_eq!(generate_grid(&model, &request, (4, 4), &order, &mut |_| ())?.to_vec()?, codes);
    Ok(())
}

#[test]
fn half_precision_stays_close() -> Result<()> {
    let (full, half) = (llama(DType::F32)?, llama(DType::BF16)?);
    let conditions = classes(&[0, 3])?;
    let codes = Tensor::new(&[[1_u32, 2, 3], [7, 8, 9]], &Device::Cpu)?;
    let logits = |model: &Llama| -> Result<Tensor> {
        let mut cache = model.cache(2, model.context())?;
        Ok(model.prefill(&conditions, Some(&codes), &mut cache)?)
    };
    golden::close("bf16", &logits(&half)?, &logits(&full)?, 0.15)
}

#[test]
fn draws_follow_the_filtered_softmax() -> Result<()> {
    let logits: Vec<f32> = (0..12).map(|i| ((i * 5 % 12) as f32 - 5.0) / 3.0).collect();
    let sampling = Sampling { temperature: 0.8, top_k: Some(9), top_p: 0.97, greedy: false };
    let mut filtered = logits.clone();
    filter_logits(&mut filtered, &sampling);
    let expected = probabilities(&filtered);
    let chooser = Chooser::new(&sampling, [])?;
    const DRAWS: usize = 40_000;
    let mut counts = [0_usize; 12];
    for draw in 0..DRAWS {
        // Both ways a number may differ: by the sample and by the position.
        let stream = Stream { seed: 3, sample: (draw % 200) as u64 };
        let code = chooser.choose(&mut logits.clone(), stream.uniform(draw / 200));
        counts[code? as usize] += 1;
    }
    let mut chi_square = 0.0;
    let mut kinds = 0;
    for (&count, &p) in counts.iter().zip(&expected) {
        let mean = f64::from(p) * DRAWS as f64;
        if p == 0.0 {
            assert_eq!(count, 0, "a code was drawn that the filter left out");
        } else {
            chi_square += (count as f64 - mean).powi(2) / mean;
            kinds += 1;
        }
    }
    assert!((3..=9).contains(&kinds));
    // The 99.9th percentile with 8 degrees of freedom; fewer codes make it smaller.
    assert!(chi_square < 26.1, "chi-square {chi_square} over {kinds} codes");
    Ok(())
}

#[test]
fn refuses_what_cannot_be() -> Result<()> {
    let model = gpt(20, 0)?;
    let request = |c: Conditions| Request::new(c, Stream::range(0, 0, 1));
    let run = |request: &Request, length| generate(&model, request, length, &mut |_| ());
    let mut fine = request(classes(&[1])?);
    assert!(matches!(run(&fine, 21), Err(Error::ContextFull { .. })));
    assert_eq!(run(&fine, 20)?[0].len(), 20);
    assert!(matches!(run(&request(classes(&[40])?), 4), Err(Error::TokenOutOfRange { .. })));
    let caption = Conditions::Captions {
        embeddings: Tensor::zeros((1, 3, 8), DType::F32, &Device::Cpu)?,
        present: Vec::new(),
    };
    assert!(matches!(run(&request(caption), 4), Err(Error::ConditionKind { .. })));
    assert!(matches!(run(&request(classes(&[1, 2])?), 4), Err(Error::Request(_))));
    for (top_k, top_p, temperature) in [
        (Some(0), 1.0, 1.0),
        (None, 0.0, 1.0),
        (None, 1.5, 1.0),
        (None, 1.0, 0.0),
        (None, 1.0, f64::NAN),
    ] {
        fine.sampling = Sampling { top_k, top_p, temperature, greedy: false };
        assert!(matches!(run(&fine, 4), Err(Error::Sampling(_))));
    }
    let chooser = Chooser::new(&Sampling::default(), [0, 1])?;
    assert_eq!(chooser.choose(&mut [0.0, f32::NAN, 1.0], 0.5), Err(NoCode::NotFinite));
    assert_eq!(chooser.choose(&mut [3.0, 2.0], 0.5), Err(NoCode::NothingLeft));
    assert_eq!(chooser.choose(&mut [3.0, 2.0, -9.0], 0.999), Ok(2));
    let cache: &mut KvCache = &mut model.cache(1, 3)?;
    model.prefill(&classes(&[1])?, None, cache)?;
    let code = Tensor::new(&[[1_u32]], &Device::Cpu)?;
    model.step(&code, cache)?;
    model.step(&code, cache)?;
    assert!(matches!(model.step(&code, cache), Err(Error::ContextFull { .. })));
    assert!(matches!(model.prefill(&classes(&[1, 2])?, None, cache), Err(Error::Request(_))));
    Ok(())
}
