//! How does the gradient get past the quantization?
//!
//! A decoder is to make one picture from the vectors of another. The loss is a staircase
//! in these vectors, flat between its steps; the straight-through gradient, which is the
//! loss's gradient at the codes, still says in which direction the steps go down.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::subject::{Subject, loss, on_sphere, psnr, straight_through};
use super::{Questions, below, head, panel, plot, row};
use crate::plot::Curve;

/// Places along the line on which one vector moves.
const PLACES: usize = 200;
/// How far it moves; on the unit sphere, where 2 is the other side.
const FAR: f64 = 1.5;
/// Small moves of all vectors, of which a true derivative would be seen.
const MOVES: usize = 40;
const SMALL: f64 = 1e-5;
const STEPS: usize = 60;
/// Root mean square of what a vector moves in a step of the descent.
const RATE: f64 = 0.03;

pub fn answer(questions: &Questions) -> Result<()> {
    let subject = Subject::load(questions)?;
    let model = subject.model();
    let picture = |i: usize| subject.pictures.narrow(0, i, 1);
    let (from, target) = (picture(0)?, picture(1)?);
    let start = on_sphere(&model.pre_quant(&from)?)?;

    let (_, _, gradient) = straight_through(model, &start, &target)?;
    // The pass with a tape adds up in another order.
    let begun = loss(model, &start, &target)?;
    let changed = changed_by_small_moves(&subject, &start, &target, begun)?;
    let (stairs, promised) = one_vector(&subject, &start, &target, begun, &gradient)?;
    let flat: Curve = vec![(0.0, begun), (STEPS as f64, begun)];
    let descent = descend(&subject, &start, &target)?;
    let ended = descent.last().context("no descent")?.1;

    head(&["experiment", "result"]);
    row(&[
        format!("all vectors moved at random by {SMALL:e} of their length, {MOVES} times"),
        format!("the loss changed {changed} times"),
    ]);
    let levels = stairs.windows(2).filter(|pair| pair[0].1 != pair[1].1).count() + 1;
    row(&[
        "one vector moved along its straight-through gradient".to_owned(),
        format!(
            "{levels} levels in {PLACES} places, from {:.6} to {:.6}",
            begun,
            stairs.last().context("no places")?.1
        ),
    ]);
    row(&[
        format!("{STEPS} steps of descent along the straight-through gradient"),
        format!("{:.2} dB to {:.2} dB of the other picture", psnr(begun), psnr(ended)),
    ]);
    let near = plot(
        &[panel("loss while one vector of the grid moves", vec![stairs, promised])],
        &["loss", "what straight-through says"],
    )?;
    let far = plot(
        &[panel("loss by step, all vectors move", vec![descent, flat])],
        &["straight-through", "the derivative (0)"],
    )?;
    questions.save("gradient.png", &below(&[near, far]))
}

/// How often moves too small to cross a border changed the loss.
fn changed_by_small_moves(
    subject: &Subject,
    z: &Tensor,
    target: &Tensor,
    begun: f64,
) -> Result<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut changed = 0;
    for _ in 0..MOVES {
        let noise: Vec<f32> =
            (0..z.elem_count()).map(|_| rand::RngExt::random::<f32>(&mut rng) - 0.5).collect();
        let noise = Tensor::from_vec(noise, z.dims(), &Device::Cpu)?;
        let moved = (z + (noise * SMALL)?)?;
        changed += usize::from(loss(subject.model(), &moved, target)? != begun);
    }
    Ok(changed)
}

/// The loss while the vector with the largest gradient moves against it, and the line that
/// the gradient promises.
fn one_vector(
    subject: &Subject,
    z: &Tensor,
    target: &Tensor,
    begun: f64,
    gradient: &Tensor,
) -> Result<(Curve, Curve)> {
    let norms = gradient.sqr()?.sum(1)?.flatten_all()?.to_vec1::<f32>()?;
    let at = (0..norms.len()).max_by(|&a, &b| norms[a].total_cmp(&norms[b])).context("no codes")?;
    let mask: Vec<f32> = (0..norms.len()).map(|i| f32::from(u8::from(i == at))).collect();
    let (_, _, h, w) = z.dims4()?;
    let mask = Tensor::from_vec(mask, (1, 1, h, w), &Device::Cpu)?;
    let length = f64::from(norms[at]).sqrt();
    let direction = (gradient.broadcast_mul(&mask)? * (-1.0 / length))?;
    let (mut stairs, mut promised) = (Curve::new(), Curve::new());
    for place in 0..=PLACES {
        let t = FAR * place as f64 / PLACES as f64;
        let moved = (z + (&direction * t)?)?;
        stairs.push((t, loss(subject.model(), &moved, target)?));
        promised.push((t, begun - t * length));
    }
    Ok((stairs, promised))
}

/// The loss by step when all vectors go down the straight-through gradient.
fn descend(subject: &Subject, start: &Tensor, target: &Tensor) -> Result<Curve> {
    let mut z = start.clone();
    let mut curve = Curve::new();
    for step in 0..=STEPS {
        let (loss, _, gradient) = straight_through(subject.model(), &z, target)?;
        curve.push((step as f64, loss));
        let vectors = gradient.elem_count() / gradient.dim(1)?;
        let square = f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?) / vectors as f64;
        z = on_sphere(&(z - (gradient * (RATE / square.sqrt().max(1e-20)))?)?)?;
    }
    Ok(curve)
}
