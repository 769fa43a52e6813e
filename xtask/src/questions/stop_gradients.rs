//! Why two stop-gradient terms, and what happens without either?
//!
//! The shipped autoencoder forgets its codebook, whose rows are drawn at random again, and
//! learns on with both terms of van den Oord et al. 2017, eq. 3, or without one of them.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use codebook::{CodeUsage, Quantizer};
use layers::{Gradients, Tape};
use pipeline::{CodecWeights, ModelSpec};
use training::{Adam, AdamConfig, ParameterStore};
use vq_autoencoder::VqModel;

use super::subject::{Subject, decoder_pass, loss, psnr};
use super::{Questions, head, panel, plot, row};
use crate::plot::Curve;

const STEPS: usize = 160;
const BATCH: usize = 4;
const LR: f64 = 5e-4;
const MEASURE: usize = 20;

/// Weights of the codebook term (codes go to vectors) and the commitment term (vectors go
/// to codes).
const VARIANTS: [(&str, f64, f64); 4] = [
    ("both", 1.0, 0.25),
    ("no commitment", 1.0, 0.0),
    ("no codebook term", 0.0, 0.25),
    ("neither", 0.0, 0.0),
];

/// What was seen of a variant.
struct Seen {
    psnr: Curve,
    /// Root mean square distance of vectors to their codes.
    distance: Curve,
    used: f64,
    /// How far rows of the codebook moved, on average.
    moved: f64,
}

pub fn answer(questions: &Questions) -> Result<()> {
    let subject = Subject::load(questions)?;
    head(&["terms", "PSNR", "distance to the code", "codes in use", "codes moved by"]);
    let mut seen = Vec::new();
    for (name, codebook, commitment) in VARIANTS {
        let result = learn(questions, &subject, codebook, commitment)?;
        let last = |curve: &Curve| curve.last().map_or(f64::NAN, |&(_, value)| value);
        row(&[
            name.to_owned(),
            format!("{:.2} dB", last(&result.psnr)),
            format!("{:.3}", last(&result.distance)),
            format!("{:.1} %", 100.0 * result.used),
            format!("{:.3}", result.moved),
        ]);
        seen.push(result);
    }
    let of = |curve: fn(&Seen) -> &Curve| seen.iter().map(|seen| curve(seen).clone()).collect();
    let panels = [
        panel("PSNR of whole pictures, dB, by step", of(|seen| &seen.psnr)),
        panel("distance of vectors to their codes", of(|seen| &seen.distance)),
    ];
    let sheet = plot(&panels, &VARIANTS.map(|(name, ..)| name))?;
    questions.save("stop-gradients.png", &sheet)
}

fn learn(
    questions: &Questions,
    subject: &Subject,
    codebook_weight: f64,
    commitment_weight: f64,
) -> Result<Seen> {
    let weights = CodecWeights::load(&ModelSpec::new(&questions.model))?;
    let store = ParameterStore::new(5);
    let model = VqModel::new(&weights.config, store.var_builder(DType::F32, &Device::Cpu))?;
    let key = format!("quantize.{}", model.quantizer().codebook_key());
    // As the store drew it, from its seed.
    let drawn = store.variable(&key)?.as_tensor().copy()?;
    let mut tensors: HashMap<String, Tensor> = weights.tensors.into_iter().collect();
    tensors.insert(key.clone(), drawn.clone());
    store.load(&tensors)?;
    let config = AdamConfig { beta1: 0.9, beta2: 0.95, ..AdamConfig::default() };
    let mut optimizer = Adam::new(config, &store)?;

    let (mut psnrs, mut distances) = (Curve::new(), Curve::new());
    for step in 0..=STEPS {
        if step % MEASURE == 0 {
            let z = model.pre_quant(&subject.pictures)?;
            let commitment = model.quantizer().quantize(&z)?.losses.commitment;
            let mean = f64::from(commitment.to_scalar::<f32>()?);
            let distance = (mean * model.quantizer().dim() as f64).sqrt();
            psnrs.push((step as f64, psnr(loss(&model, &z, &subject.pictures)?)));
            distances.push((step as f64, distance));
        }
        let x = subject.crops(step as u64, BATCH)?;
        let mut encoder = Tape::from_data();
        let z = Var::from_tensor(&model.pre_quant_taped(&x, &mut encoder)?)?;
        let quantized = model.quantizer().quantize(z.as_tensor())?;
        let mut gradients = Gradients::default();
        let (_, upstream) = decoder_pass(&model, &quantized.embeddings, &x, &mut gradients)?;
        let terms = ((quantized.losses.codebook * codebook_weight)?
            + (quantized.losses.commitment * commitment_weight)?)?;
        // Its gradient is that of the whole loss, by the chain rule.
        let surrogate = ((quantized.embeddings * upstream)?.sum_all()? + terms)?;
        let mut found = surrogate.backward()?;
        let upstream = found.remove(z.as_tensor()).context("the encoder gets no gradient")?;
        gradients.extend(found)?;
        encoder.backward(&upstream, &mut gradients)?;
        let gradients = store.gradients(|parameter| gradients.get(parameter))?;
        optimizer.update(&gradients, LR, 1.0)?;
    }
    let mut usage = CodeUsage::new(model.quantizer().len());
    usage.add(&model.quantizer().codes(&model.pre_quant(&subject.pictures)?)?)?;
    let moved = (model.quantizer().codebook() - drawn)?.sqr()?.sum(1)?.sqrt()?.mean_all()?;
    Ok(Seen {
        psnr: psnrs,
        distance: distances,
        used: usage.used_fraction(),
        moved: f64::from(moved.to_scalar::<f32>()?),
    })
}
