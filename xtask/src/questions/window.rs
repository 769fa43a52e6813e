//! How fast is the sliding window against full attention?
//!
//! Two models of one size with random weights, since only their shape matters here: one
//! whose attention sees a 16x16 window that slides, one that sees everything drawn so far.

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device};
use cond_transformer::{
    Conditions, Gpt, GptConfig, NextCode, Request, Stream, Wavefront, WindowConditions,
    WindowRequest, generate, generate_wavefront,
};
use training::ParameterStore;

use super::{Questions, head, panel, plot, row};
use crate::plot::Curve;

/// Sides of square grids, in codes; a window has 16.
const SIDES: [usize; 5] = [16, 24, 32, 48, 64];
const WINDOW: usize = 16;
const CODES: usize = 2048;

fn model(block_size: usize) -> Result<(Gpt, GptConfig)> {
    let (n_layer, n_head, n_embd) = (6, 4, 256);
    let vocab_size = CODES + 1;
    let config = GptConfig { vocab_size, block_size, n_layer, n_head, n_embd, n_unmasked: 0 };
    let store = ParameterStore::new(9);
    Ok((Gpt::new(&config, store.var_builder(DType::F32, &Device::Cpu))?, config))
}

pub fn answer(questions: &Questions) -> Result<()> {
    let (windowed, config) = model(WINDOW * WINDOW)?;
    println!(
        "{} layers of {}, one picture, {} threads; f32\n",
        config.n_layer,
        config.n_embd,
        rayon::current_num_threads()
    );
    head(&[
        "codes",
        "window: time",
        "a code",
        "keys and values",
        "full attention: time",
        "a code",
        "keys and values",
    ]);
    let start = || Conditions::classes(&[CODES as u32], &Device::Cpu);
    let streams = || Stream::range(3, 0, 1);
    let mut curves: [Curve; 4] = Default::default();
    for side in SIDES {
        let codes = side * side;
        let mut request =
            WindowRequest::new(WindowConditions::Fixed(start()?), streams(), (side, side));
        request.forbidden = vec![CODES as u32];
        let (mut done, mut lanes) = (0, 1);
        let mut see = |progress: cond_transformer::Progress<'_>| {
            lanes = lanes.max(progress.done - done);
            done = progress.done;
        };
        let begun = Instant::now();
        generate_wavefront(&windowed, &request, Wavefront::default(), &mut see)?;
        let sliding = begun.elapsed().as_secs_f64();

        let (full, _) = model(codes)?;
        let mut request = Request::new(start()?, streams());
        request.forbidden = vec![CODES as u32];
        let begun = Instant::now();
        generate(&full, &request, codes, &mut |_| ())?;
        let whole = begun.elapsed().as_secs_f64();

        let megabytes = |bytes: usize| bytes as f64 / (1 << 20) as f64;
        let small = megabytes(lanes * windowed.cache(1, WINDOW * WINDOW)?.bytes());
        let large = megabytes(full.cache(1, codes)?.bytes());
        let each = |seconds: f64| format!("{:.1} ms", 1e3 * seconds / codes as f64);
        row(&[
            format!("{side}x{side}"),
            format!("{sliding:.1} s"),
            each(sliding),
            format!("{small:.0} MiB"),
            format!("{whole:.1} s"),
            each(whole),
            format!("{large:.0} MiB"),
        ]);
        for (curve, value) in curves.iter_mut().zip([sliding, whole, small, large]) {
            curve.push((side as f64, value));
        }
    }
    let [sliding, whole, small, large] = curves;
    let panels = [
        panel("seconds a picture, by its side in codes", vec![sliding, whole]),
        panel("MiB of keys and values, by its side in codes", vec![small, large]),
    ];
    questions.save("window.png", &plot(&panels, &["16x16 window", "full attention"])?)
}
