//! All codes of a batch, drawn on the device.

use std::collections::VecDeque;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, DeviceRepr, sys};
use candle_core::{CudaDevice, DType, Device};

use super::launch::{Kernel, Module};
use super::model::{Model, address};
use super::pass::{Cache, Pass};
use super::{Memory, grid, int, record};
use crate::next_code::Draw;
use crate::{Error, KvCache, NoCode, Result};

/// Threads of a block of `choose.cu`.
const THREADS: u32 = 1024;
/// Codes of which the logits fit into the registers of such a block.
const HELD: usize = 16 * THREADS as usize;
/// Positions that the device may be behind what is asked of it. More than one, so that it
/// never waits for the host; few, so that progress is what was done.
const AHEAD: usize = 8;

/// The options of `choose.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Options {
    scale: f64,
    temperature: f32,
    top_p: f32,
    top_k: i32,
    greedy: i32,
    guided_until: i32,
    length: i32,
    vocabulary: i32,
    sequences: i32,
    width: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Options {}

impl Options {
    fn new(draw: &Draw, model: &Model) -> Result<Self> {
        let (vocabulary, width) = model.table.dims2()?;
        let sampling = draw.chooser.sampling();
        // The reference counts decode steps, which begin with the second code.
        let until = match draw.guidance.map(|guidance| guidance.interval) {
            Some(Some(interval)) => draw.first.saturating_add(interval).saturating_add(1),
            _ => usize::MAX,
        };
        Ok(Self {
            scale: draw.guidance.map_or(0.0, |guidance| guidance.scale),
            temperature: sampling.temperature as f32,
            top_p: sampling.top_p as f32,
            top_k: sampling.top_k.map_or(0, |k| i32::try_from(k).unwrap_or(i32::MAX)),
            greedy: i32::from(sampling.greedy),
            guided_until: i32::try_from(until).unwrap_or(i32::MAX),
            length: int(draw.length)?,
            vocabulary: int(vocabulary)?,
            sequences: int(draw.streams.len())?,
            width: int(width)?,
        })
    }
}

/// Draws from position `draw.first` on; `None` where the kernels are not made for this
/// model: the cache is as it was then.
pub(crate) fn draw(
    model: &Model,
    cache: &mut KvCache,
    draw: &mut Draw,
) -> Result<Option<Vec<Vec<u32>>>> {
    let Device::Cuda(device) = draw.logits.device() else { return Ok(None) };
    let device = device.clone();
    draw.logits = draw.logits.to_dtype(DType::F32)?.contiguous()?;
    let count = draw.length - draw.first;
    let (rows, past) = (cache.shape().batch, cache.len());
    let guided = draw.guidance.is_some();
    // A model that reads everything anew for each code is not for these kernels.
    if cache.replay().is_some() || rows != draw.streams.len() * if guided { 2 } else { 1 } {
        return Ok(None);
    }
    cache.reserve(rows, count - 1)?;
    let front = cache.hidden().iter().map(Vec::len).max().unwrap_or(0);
    let mut hidden = vec![0u8; rows * front];
    for (row, flags) in cache.hidden().iter().enumerate() {
        for (to, &flag) in hidden[row * front..].iter_mut().zip(flags) {
            *to = u8::from(flag);
        }
    }
    let room = cache.shape().positions;
    let Some(layers) = cache.tensors() else { return Ok(None) };
    let places = Cache { layers, room, hidden, front };
    // Choosing moves on by one, also before the first pass.
    let Some(pass) = Pass::new(&device, model, places, rows, past - 1)? else { return Ok(None) };
    let drawn = Drawing::new(&device, model, &pass, draw)?.run(draw)?;
    drop(pass);
    cache.advance(count - 1);
    Ok(Some(drawn))
}

/// What choosing needs beside a pass.
struct Drawing<'a> {
    device: &'a CudaDevice,
    pass: &'a Pass<'a>,
    options: Options,
    probabilities: Memory<f32>,
    forbidden: Option<Memory<u8>>,
    forced: Memory<i32>,
    uniforms: Memory<f64>,
    step: Memory<i32>,
    ended: Memory<u32>,
    codes: Memory<u32>,
    failed: Memory<u32>,
    table: u64,
    places: u64,
}

impl<'a> Drawing<'a> {
    fn new(device: &'a CudaDevice, model: &Model, pass: &'a Pass, draw: &Draw) -> Result<Self> {
        let (sequences, length) = (draw.streams.len(), draw.length);
        let vocabulary = model.table.dim(0)?;
        let mut uniforms = vec![0f64; sequences * length];
        let mut forced = vec![-1i32; sequences * length];
        for (sequence, stream) in draw.streams.iter().enumerate() {
            for position in draw.first..length {
                let at = sequence * length + position;
                uniforms[at] = stream.uniform(position);
                if let Some(code) = draw.forced.get(sequence).and_then(|codes| codes[position]) {
                    forced[at] = int(code as usize)?;
                }
            }
        }
        let forbidden: Vec<u8> =
            (0..vocabulary).map(|code| u8::from(draw.chooser.forbids(code as u32))).collect();
        let any = forbidden.contains(&1);
        let stream = device.cuda_stream();
        Ok(Self {
            device,
            pass,
            options: Options::new(draw, model)?,
            probabilities: Memory::zeros(device, sequences * vocabulary)?,
            forbidden: any.then(|| Memory::from_slice(device, &forbidden)).transpose()?,
            forced: Memory::from_slice(device, &forced)?,
            uniforms: Memory::from_slice(device, &uniforms)?,
            step: Memory::from_slice(device, &[int(draw.first)?])?,
            ended: Memory::zeros(device, 1)?,
            codes: Memory::zeros(device, sequences * length)?,
            failed: Memory::zeros(device, sequences)?,
            table: address(Some(model.table), &stream)?,
            places: address(model.places, &stream)?,
        })
    }

    /// Chooses from `logits`, which are left filtered. Only launches.
    fn choose(&self, logits: u64) -> Result<()> {
        let kind = if self.options.vocabulary as usize <= HELD { "held" } else { "any" };
        let name = format!("choose_{kind}_{}", self.pass.suffix());
        let kernel = Kernel::new(&self.pass.stream, Module::CHOOSE, &name)?;
        let forbidden = self.forbidden.as_ref().map_or(0, |memory| memory.address);
        let grid = grid(self.options.sequences as usize, 1, THREADS, 0)?;
        let mut launch = kernel.arguments();
        launch.arg(&self.options).arg(&logits).arg(&self.probabilities.address);
        launch.arg(&forbidden).arg(&self.forced.address).arg(&self.uniforms.address);
        launch.arg(&self.pass.position.address).arg(&self.step.address).arg(&self.ended.address);
        launch.arg(&self.codes.address).arg(&self.failed.address);
        launch.arg(&self.table).arg(&self.places).arg(&self.pass.x.address);
        // SAFETY: the arguments are those of the kernel; every address is that of memory of
        // this drawing, its pass or the model, as large as the options say.
        unsafe { launch.launch(grid) }.map_err(Error::from)
    }

    /// One more code of every sequence. Only launches.
    fn advance(&self) -> Result<()> {
        self.pass.launch()?;
        self.choose(self.pass.logits.address)
    }

    fn run(self, draw: &mut Draw) -> Result<Vec<Vec<u32>>> {
        let stream = self.device.cuda_stream();
        let mut behind = VecDeque::with_capacity(AHEAD);
        let mut graph = None;
        // Nobody else has these logits; they are overwritten here.
        let given = address(Some(&draw.logits), &stream)?;
        for position in draw.first..draw.length {
            match position - draw.first {
                0 => self.choose(given)?,
                // Loads the kernels, which a recording cannot.
                1 => self.advance()?,
                2 => {
                    record(&stream)?;
                    let launched = self.advance();
                    let flags = sys::CUgraphInstantiate_flags(0);
                    let recorded = stream.end_capture(flags);
                    launched?;
                    graph = recorded.w()?;
                    match &graph {
                        Some(graph) => graph.launch().w()?,
                        None => self.advance()?,
                    }
                }
                _ => match &graph {
                    Some(graph) => graph.launch().w()?,
                    None => self.advance()?,
                },
            }
            behind.push_back((position, stream.record_event(None).w()?));
            if behind.len() > AHEAD {
                wait(behind.pop_front(), draw)?;
            }
        }
        while !behind.is_empty() {
            wait(behind.pop_front(), draw)?;
        }
        let failed = self.failed.read(self.device)?;
        let first = failed.iter().enumerate().filter(|(_, what)| **what > 0);
        if let Some((sample, what)) = first.min_by_key(|(sample, what)| ((**what - 1) / 2, *sample))
        {
            let position = ((what - 1) / 2) as usize;
            let what = if what % 2 == 1 { NoCode::NotFinite } else { NoCode::NothingLeft };
            return Err(Error::NoNextCode { sample, position, what });
        }
        let codes = self.codes.read(self.device)?;
        Ok(codes.chunks(draw.length).map(|codes| codes[draw.first..].to_vec()).collect())
    }
}

/// Waits for a position, and says that it is done.
fn wait(behind: Option<(usize, CudaEvent)>, draw: &mut Draw) -> Result<()> {
    if let Some((position, event)) = behind {
        event.synchronize().w()?;
        (draw.progress)(position + 1);
    }
    Ok(())
}
