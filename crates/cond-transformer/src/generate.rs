//! Whole sequences and grids of the training size.

use candle_core::{Device, Tensor};
use codebook::CodeGrid;

use crate::{
    Chooser, Conditions, Draw, Error, Guidance, KvCache, NextCode, Permuter, Result, Sampling,
    Stream,
};

/// What to draw.
#[derive(Clone, Debug)]
pub struct Request {
    /// What comes in front, one for each sample.
    pub conditions: Conditions,
    /// The random numbers of each sample.
    pub streams: Vec<Stream>,
    /// How a code is drawn.
    pub sampling: Sampling,
    /// Guidance towards the conditions.
    pub guidance: Option<Guidance>,
    /// Codes never drawn, those beyond the codebook for example.
    pub forbidden: Vec<u32>,
    /// Codes that are given, for each sample and position; empty: none. They are
    /// taken as they are, and seen by the positions behind them.
    pub forced: Vec<Vec<Option<u32>>>,
}

impl Request {
    /// Draws `streams.len()` samples under `conditions` with default options.
    pub fn new(conditions: Conditions, streams: Vec<Stream>) -> Self {
        Self {
            conditions,
            streams,
            sampling: Sampling::default(),
            guidance: None,
            forbidden: Vec::new(),
            forced: Vec::new(),
        }
    }

    /// Checks that all parts are for one number of samples, and codes are below
    /// the vocabulary.
    fn validate(&self, model: &dyn NextCode, length: usize) -> Result<()> {
        let samples = self.streams.len();
        let refuse = |why: String| Err(Error::Request(why));
        if samples == 0 || length == 0 {
            return refuse("no samples or no codes asked for".to_owned());
        }
        if self.conditions.batch()? != samples {
            return refuse(format!(
                "{} conditions for {samples} samples",
                self.conditions.batch()?
            ));
        }
        if let Some(guidance) = &self.guidance {
            guidance.validate()?;
            if guidance.absent.batch()? != samples
                || guidance.absent.positions()? != self.conditions.positions()?
            {
                return refuse("guidance needs one absent condition a sample, as long".to_owned());
            }
        }
        check_forced(&self.forced, samples, length, model.vocabulary())?;
        let positions = self.conditions.positions()? + length - 1;
        if positions > model.context() {
            return Err(Error::ContextFull {
                what: "the model's context",
                positions,
                limit: model.context(),
            });
        }
        Ok(())
    }
}

/// Checks given codes: `length` for each of `samples`, below the vocabulary.
pub(crate) fn check_forced(
    forced: &[Vec<Option<u32>>],
    samples: usize,
    length: usize,
    vocabulary: usize,
) -> Result<()> {
    if forced.is_empty() {
        return Ok(());
    }
    if forced.len() != samples || forced.iter().any(|sample| sample.len() != length) {
        return Err(Error::Request(format!(
            "given codes are not {length} for each of {samples} samples"
        )));
    }
    let codes = forced.iter().flatten().enumerate();
    for (position, code) in codes {
        if let Some(token) = code.filter(|&code| code as usize >= vocabulary) {
            return Err(Error::TokenOutOfRange { what: "code", token, position, len: vocabulary });
        }
    }
    Ok(())
}

/// Conditions and model of one batch: doubled under guidance.
struct Batch<'a> {
    model: &'a dyn NextCode,
    conditions: Conditions,
    guidance: Option<&'a Guidance>,
    cache: KvCache,
}

impl Batch<'_> {
    fn doubled(&self, codes: &Tensor) -> Result<Tensor> {
        Ok(match self.guidance {
            Some(_) => Tensor::cat(&[codes, codes], 0)?,
            None => codes.clone(),
        })
    }

    /// Reads the conditions and the first codes `[B, T]`: logits of the next code, of rows
    /// without the condition too.
    fn prefill(&mut self, codes: Option<&Tensor>) -> Result<Tensor> {
        let codes = codes.map(|codes| self.doubled(codes)).transpose()?;
        self.model.prefill(&self.conditions, codes.as_ref(), &mut self.cache)
    }

    /// Reads one more code of every sample, `[B, 1]`: logits as of [`Self::prefill`].
    fn step(&mut self, codes: &Tensor) -> Result<Tensor> {
        let codes = self.doubled(codes)?;
        self.model.step(&codes, &mut self.cache)
    }

    /// Guided logits `[B, V]` of those of all rows, when `drawn` codes were drawn.
    fn guide(&self, logits: Tensor, drawn: usize) -> Result<Tensor> {
        match self.guidance {
            Some(guidance) => guidance.combine(&logits, drawn),
            None => Ok(logits),
        }
    }
}

/// Draws sequences of `length` codes, in the model's order; `progress` is told the
/// number of positions done.
///
/// Codes given for the first positions of every sample are read in one pass. The
/// interval of guidance counts from the first code that is drawn.
///
/// # Errors
/// If parts of the request do not fit together or the model, or a logit is NaN.
pub fn generate(
    model: &dyn NextCode,
    request: &Request,
    length: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    request.validate(model, length)?;
    let chooser = Chooser::new(&request.sampling, request.forbidden.iter().copied())?;
    let samples = request.streams.len();
    let given = |sample: usize, position: usize| {
        request.forced.get(sample).and_then(|codes| codes[position])
    };
    let lead = (0..length)
        .take_while(|&position| (0..samples).all(|sample| given(sample, position).is_some()))
        .count();
    let mut sequences: Vec<Vec<u32>> = (0..samples)
        .map(|s| (0..lead).filter_map(|position| given(s, position)).collect())
        .collect();
    progress(lead);
    if lead == length {
        return Ok(sequences);
    }
    let guidance = request.guidance.as_ref().filter(|guidance| guidance.scale > 1.0);
    let (conditions, rows) = match guidance {
        Some(guidance) => (request.conditions.cat(&guidance.absent)?, 2 * samples),
        None => (request.conditions.clone(), samples),
    };
    let cache = model.cache(rows, conditions.positions()? + length - 1)?;
    let mut batch = Batch { model, conditions, guidance, cache };
    let prefix = match lead {
        0 => None,
        _ => Some(Tensor::from_vec(sequences.concat(), (samples, lead), model.device())?),
    };
    let mut draw = Draw {
        logits: batch.prefill(prefix.as_ref())?,
        first: lead,
        length,
        chooser: &chooser,
        streams: &request.streams,
        guidance,
        forced: &request.forced,
        progress,
    };
    if let Some(drawn) = model.draw(&mut draw, &mut batch.cache)? {
        sequences.iter_mut().zip(drawn).for_each(|(sequence, codes)| sequence.extend(codes));
        return Ok(sequences);
    }
    let Draw { logits, progress, .. } = draw;
    let mut logits = batch.guide(logits, 0)?;
    for position in lead..length {
        let all_given = (0..samples).all(|sample| given(sample, position).is_some());
        let drawn = if all_given {
            vec![0; samples]
        } else {
            chooser.choose_batch(&logits, &request.streams, position)?
        };
        let codes: Vec<u32> =
            drawn.iter().enumerate().map(|(s, &code)| given(s, position).unwrap_or(code)).collect();
        for (sequence, &code) in sequences.iter_mut().zip(&codes) {
            sequence.push(code);
        }
        progress(position + 1);
        if position + 1 < length {
            let codes = Tensor::from_vec(codes, (samples, 1), model.device())?;
            let next = batch.step(&codes)?;
            logits = batch.guide(next, position + 1 - lead)?;
        }
    }
    Ok(sequences)
}

/// Draws grids of `height` x `width` codes, in the order of `permuter`. Given codes
/// (`forced`) are in row-major order here.
///
/// # Errors
/// As [`generate`], or if the permuter is for another size.
pub fn generate_grid(
    model: &dyn NextCode,
    request: &Request,
    (height, width): (usize, usize),
    permuter: &Permuter,
    progress: &mut dyn FnMut(usize),
) -> Result<CodeGrid> {
    let forced = request.forced.iter().map(|grid| permuter.permute(grid)).collect::<Result<_>>()?;
    let request = Request { forced, ..request.clone() };
    let sequences = generate(model, &request, height * width, progress)?;
    let mut codes = Vec::with_capacity(sequences.len() * height * width);
    for sequence in &sequences {
        codes.extend(permuter.restore(sequence)?);
    }
    Ok(CodeGrid::from_vec(codes, (sequences.len(), height, width), &Device::Cpu)?)
}

/// Given codes of a grid `[B, H, W]` whose first `rows` are kept, in row-major
/// order: for half completion, half the rows.
///
/// # Errors
/// If the grid has fewer rows.
pub fn keep_rows(grid: &CodeGrid, rows: usize) -> Result<Vec<Vec<Option<u32>>>> {
    let (_, height, width) = grid.dims();
    if rows > height {
        return Err(Error::Request(format!("{rows} rows to keep of {height}")));
    }
    let codes = grid.to_vec()?;
    Ok(codes
        .chunks((height * width).max(1))
        .map(|codes| {
            let kept = codes.iter().enumerate();
            kept.map(|(i, &code)| (i < rows * width).then_some(code)).collect()
        })
        .collect())
}
