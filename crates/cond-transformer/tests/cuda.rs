//! Codes drawn on an NVIDIA GPU without the host in between are those that the CPU draws.
//! Needs the feature `cuda` and a GPU; says so and passes where there is none.
#![cfg(feature = "cuda")]

mod common;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use common::weights_on;
use cond_transformer::{
    Conditions, Error, Gpt, GptConfig, Guidance, KvCache, Llama, LlamaConfig, NextCode, NoCode,
    PrefixConfig, Request, Sampling, Stream, generate,
};
use golden as _;

const LENGTH: usize = 16;

fn on_gpu(name: &str, test: impl FnOnce(&Device) -> Result<()>) -> Result<()> {
    match Device::new_cuda_with_stream(0) {
        Ok(device) => {
            layers::cuda::prepare(&device)?;
            test(&device).with_context(|| format!("FAILED {name}"))?;
            println!("ok {name}");
        }
        Err(error) => {
            let why = error.to_string();
            println!("skipped: no CUDA device ({name}: {})", why.lines().next().unwrap_or(""));
        }
    }
    Ok(())
}

/// Which model, in which size.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Gpt { unmasked: usize, width: usize, codes: usize },
    Llama { shared: usize, captions: bool },
}

const KINDS: [Kind; 6] = [
    Kind::Gpt { unmasked: 0, width: 32, codes: 300 },
    Kind::Gpt { unmasked: 1, width: 96, codes: 300 },
    // More than a block holds in registers.
    Kind::Gpt { unmasked: 0, width: 40, codes: 16_500 },
    Kind::Llama { shared: 4, captions: false },
    Kind::Llama { shared: 2, captions: false },
    Kind::Llama { shared: 1, captions: true },
];

fn model(kind: Kind, dtype: DType, device: &Device) -> Result<Box<dyn NextCode>> {
    let weights = weights_on(dtype, device);
    Ok(match kind {
        Kind::Gpt { unmasked: n_unmasked, width: n_embd, codes: vocab_size } => {
            let block_size = LENGTH + 4;
            let config =
                GptConfig { vocab_size, block_size, n_layer: 3, n_head: 4, n_embd, n_unmasked };
            Box::new(Gpt::new(&config, weights)?)
        }
        Kind::Llama { shared, captions } => {
            let prefix = match captions {
                false => PrefixConfig::Class { classes: 5 },
                true => PrefixConfig::Caption { dim: 8, positions: 3 },
            };
            let config = LlamaConfig {
                vocab_size: 300,
                block_size: LENGTH,
                dim: 48,
                n_layer: 3,
                n_head: 4,
                n_kv_head: Some(shared),
                multiple_of: 16,
                ffn_dim_multiplier: None,
                rope_base: 10000.0,
                norm_eps: 1e-5,
                prefix,
            };
            Box::new(Llama::new(&config, weights)?)
        }
    })
}

fn conditions(kind: Kind, count: usize, from: u32, device: &Device) -> Result<Conditions> {
    if let Kind::Llama { captions: true, .. } = kind {
        let values = (0..count * 24).map(|i| ((i + from as usize) as f32 * 0.7).sin());
        let embeddings = Tensor::from_vec(values.collect::<Vec<f32>>(), (count, 3, 8), device)?;
        let present = (0..count).map(|i| vec![i % 3 == 0, i % 2 == 0, true]).collect();
        return Ok(Conditions::Captions { embeddings, present });
    }
    let classes: Vec<u32> = (0..count as u32).map(|i| (i * 3 + from) % 5).collect();
    Ok(Conditions::classes(&classes, device)?)
}

/// A way to draw.
#[derive(Clone, Default)]
struct Way {
    name: &'static str,
    sampling: Sampling,
    /// Scale and interval.
    guidance: Option<(f64, Option<usize>)>,
    /// Whether some codes are given, and some forbidden.
    given: bool,
}

fn ways() -> [Way; 6] {
    let plain = Sampling::default();
    let sharp = Sampling { temperature: 0.6, top_k: Some(20), top_p: 0.9, greedy: false };
    let way = |name, sampling| Way { name, sampling, ..Way::default() };
    [
        way("greedy", Sampling::greedy()),
        way("all codes", plain.clone()),
        Way { given: true, ..way("top-k", Sampling { top_k: Some(7), ..plain.clone() }) },
        way("top-p", Sampling { top_p: 0.8, ..plain }),
        Way { guidance: Some((2.5, None)), given: true, ..way("all of it, guided", sharp.clone()) },
        Way { guidance: Some((1.5, Some(3))), ..way("guided at first", sharp) },
    ]
}

/// The request of `count` samples on a device.
fn request(kind: Kind, count: usize, way: &Way, device: &Device) -> Result<Request> {
    let mut request = Request::new(conditions(kind, count, 0, device)?, Stream::range(7, 3, count));
    request.sampling = way.sampling.clone();
    request.guidance = match way.guidance {
        Some((scale, interval)) => {
            Some(Guidance { scale, interval, absent: conditions(kind, count, 4, device)? })
        }
        None => None,
    };
    if way.given {
        request.forbidden = (0..300).step_by(3).collect();
        request.forced = (0..count)
            .map(|s| {
                let some = |p| p < 2 || (p == 5 && s % 2 == 0) || p == 9;
                (0..LENGTH).map(|p| some(p).then_some((p * 31 + s) as u32 % 300)).collect()
            })
            .collect();
    }
    Ok(request)
}

#[test]
fn codes_are_those_of_the_cpu() -> Result<()> {
    on_gpu("codes_are_those_of_the_cpu", |gpu| {
        for kind in KINDS {
            let there = model(kind, DType::F32, gpu)?;
            let here = model(kind, DType::F32, &Device::Cpu)?;
            // Beyond 8 rows products are cuBLAS's.
            for count in [1, 2, 3, 8, 9, 20] {
                for way in ways() {
                    let mut told = Vec::new();
                    let ours = generate(
                        there.as_ref(),
                        &request(kind, count, &way, gpu)?,
                        LENGTH,
                        &mut |done| told.push(done),
                    )?;
                    let cpu = request(kind, count, &way, &Device::Cpu)?;
                    let expected = generate(here.as_ref(), &cpu, LENGTH, &mut |_| ())?;
                    ensure!(
                        ours == expected,
                        "{kind:?}, {count} samples, {}: {ours:?} instead of {expected:?}",
                        way.name
                    );
                    let first = if way.given { 2 } else { 0 };
                    ensure!(told == (first..=LENGTH).collect::<Vec<_>>(), "progress {told:?}");
                }
            }
        }
        Ok(())
    })
}

/// A model that draws code by code.
struct Plain<'a>(&'a dyn NextCode);

impl NextCode for Plain<'_> {
    fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }

    fn context(&self) -> usize {
        self.0.context()
    }

    fn device(&self) -> &Device {
        self.0.device()
    }

    fn cache(&self, batch: usize, positions: usize) -> cond_transformer::Result<KvCache> {
        self.0.cache(batch, positions)
    }

    fn prefill(
        &self,
        conditions: &Conditions,
        codes: Option<&Tensor>,
        cache: &mut KvCache,
    ) -> cond_transformer::Result<Tensor> {
        self.0.prefill(conditions, codes, cache)
    }

    fn step(&self, codes: &Tensor, cache: &mut KvCache) -> cond_transformer::Result<Tensor> {
        self.0.step(codes, cache)
    }

    fn logits_after(
        &self,
        conditions: &Conditions,
        codes: &Tensor,
        known: &[usize],
    ) -> cond_transformer::Result<Tensor> {
        self.0.logits_after(conditions, codes, known)
    }
}

#[test]
fn half_precision_mostly_chooses_what_candle_does() -> Result<()> {
    on_gpu("half_precision_mostly_chooses_what_candle_does", |gpu| {
        for (kind, dtype) in KINDS.into_iter().zip([DType::F16, DType::BF16].iter().cycle()) {
            let model = model(kind, *dtype, gpu)?;
            // By rows; on tensor cores in groups of 8, 16 and 32 rows; by cuBLAS.
            for count in [2, 3, 12, 40, 140] {
                let greedy = Way { sampling: Sampling::greedy(), ..Way::default() };
                let mut request = request(kind, count, &greedy, gpu)?;
                if let Conditions::Captions { embeddings, .. } = &mut request.conditions {
                    *embeddings = embeddings.to_dtype(*dtype)?;
                }
                // One code at a time, so that a code that rounding changed changes no other.
                let given = |s: usize, p: usize| Some((p * 77 + s * 5) as u32 % 300);
                let mut alike = 0;
                for position in 2..LENGTH {
                    let until = |s| (0..LENGTH).map(move |p| given(s, p).filter(|_| p < position));
                    request.forced = (0..count).map(|s| until(s).collect()).collect();
                    // One sample draws from its second code on, so that the kernels read
                    // codes from there.
                    request.forced[0] = vec![None; LENGTH];
                    let ours = generate(model.as_ref(), &request, LENGTH, &mut |_| ())?;
                    let plain = Plain(model.as_ref());
                    let theirs = generate(&plain, &request, LENGTH, &mut |_| ())?;
                    let same = |s: &usize| ours[*s][position] == theirs[*s][position];
                    alike += (1..count).filter(same).count();
                }
                let all = (count - 1) * (LENGTH - 2);
                println!("{kind:?} {dtype:?}: {alike} of {all} codes alike");
                ensure!(alike * 4 >= all * 3, "{kind:?} {dtype:?}: {alike} of {all}");
            }
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_drawn_is_named() -> Result<()> {
    on_gpu("what_cannot_be_drawn_is_named", |gpu| {
        let kind = KINDS[0];
        let model = model(kind, DType::F32, gpu)?;
        let mut request = request(kind, 3, &Way::default(), gpu)?;
        request.forbidden = (0..300).collect();
        // Its first code is given; the second cannot be drawn.
        request.forced = vec![vec![None; LENGTH]; 3];
        request.forced.iter_mut().for_each(|codes| codes[0] = Some(5));
        request.forced[0] = vec![Some(5); LENGTH];
        match generate(model.as_ref(), &request, LENGTH, &mut |_| ()) {
            Err(Error::NoNextCode { sample: 1, position: 1, what: NoCode::NothingLeft }) => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    })
}
