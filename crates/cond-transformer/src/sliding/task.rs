//! What to draw with a sliding window, and the state of the drawing.

use candle_core::{Device, Tensor};
use codebook::CodeGrid;

use super::reuse::KeptWindows;
use super::{Scenes, Window};
use crate::generate::check_forced;
use crate::{Chooser, Conditions, Error, Guidance, NextCode, Result, Sampling, Stream};

/// What the window has in front of its codes.
#[derive(Clone, Debug)]
pub enum WindowConditions {
    /// The same wherever the window is: a class, a start token, a caption.
    Fixed(Conditions),
    /// A code grid as large as what is drawn, cut by the same window.
    Grid(CodeGrid),
    /// Objects, of which the window is told what lies in it.
    Scenes(Scenes),
}

/// What to draw with a sliding window. As [`Request`](crate::Request), for grids
/// larger than the model's.
#[derive(Clone, Debug)]
pub struct WindowRequest {
    /// What comes in front, one for each sample.
    pub conditions: WindowConditions,
    /// The random numbers of each sample, by row-major position.
    pub streams: Vec<Stream>,
    /// Rows and columns of what is drawn.
    pub size: (usize, usize),
    /// The window.
    pub window: Window,
    /// How a code is drawn.
    pub sampling: Sampling,
    /// Guidance towards the conditions, at every position.
    pub guidance: Option<Guidance<WindowConditions>>,
    /// Codes never drawn.
    pub forbidden: Vec<u32>,
    /// Codes that are given, for each sample in row-major order; empty: none.
    pub forced: Vec<Vec<Option<u32>>>,
}

impl WindowRequest {
    /// Draws `streams.len()` grids of `size` with default options.
    pub fn new(conditions: WindowConditions, streams: Vec<Stream>, size: (usize, usize)) -> Self {
        Self {
            conditions,
            streams,
            size,
            window: Window::default(),
            sampling: Sampling::default(),
            guidance: None,
            forbidden: Vec::new(),
            forced: Vec::new(),
        }
    }
}

/// How far a drawing is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Codes that are there, of all samples, given ones included.
    pub done: usize,
    /// The row-major codes of each sample; what is not there yet is 0.
    pub codes: &'a [Vec<u32>],
    /// How many rows from the top are complete, of each sample.
    pub rows: &'a [usize],
}

/// A place of a sample whose code is wanted next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub(super) sample: usize,
    pub(super) row: usize,
    pub(super) column: usize,
}

/// A request being worked on: the codes so far.
pub(super) struct Drawing<'a> {
    model: &'a dyn NextCode,
    request: &'a WindowRequest,
    chooser: Chooser,
    conditions: Front,
    guidance: Option<Guidance<Front>>,
    codes: Vec<Vec<u32>>,
    kept: KeptWindows,
}

/// Conditions, ready to be cut.
enum Front {
    Fixed(Conditions),
    /// Row-major codes of each sample.
    Grid(Vec<Vec<u32>>),
    Scenes(Scenes),
}

impl Front {
    fn new(conditions: &WindowConditions, samples: usize, size: (usize, usize)) -> Result<Self> {
        let (batch, fits) = match conditions {
            WindowConditions::Fixed(conditions) => (conditions.batch()?, true),
            WindowConditions::Grid(grid) => {
                let (batch, height, width) = grid.dims();
                (batch, (height, width) == size)
            }
            WindowConditions::Scenes(scenes) => (scenes.scenes.len(), true),
        };
        if batch != samples || !fits {
            return Err(Error::Request(format!(
                "{batch} conditions for {samples} samples, or condition grids that are not \
                 {}x{} like what is drawn",
                size.0, size.1
            )));
        }
        Ok(match conditions {
            WindowConditions::Fixed(conditions) => Self::Fixed(conditions.clone()),
            WindowConditions::Grid(grid) => {
                Self::Grid(grid.to_vec()?.chunks(size.0 * size.1).map(<[u32]>::to_vec).collect())
            }
            WindowConditions::Scenes(scenes) => Self::Scenes(scenes.clone()),
        })
    }

    fn positions(&self, window: Window) -> Result<usize> {
        match self {
            Self::Fixed(conditions) => conditions.positions(),
            Self::Grid(_) => Ok(window.height * window.width),
            Self::Scenes(scenes) => Ok(scenes.tokens.positions()),
        }
    }
}

impl<'a> Drawing<'a> {
    pub(super) fn new(model: &'a dyn NextCode, request: &'a WindowRequest) -> Result<Self> {
        let (samples, size) = (request.streams.len(), request.size);
        let codes = size.0.saturating_mul(size.1);
        if samples == 0 || codes > 1 << 28 {
            return Err(Error::Request(format!("{samples} grids of {}x{} codes", size.0, size.1)));
        }
        request.window.validate(size)?;
        check_forced(&request.forced, samples, codes, model.vocabulary())?;
        let conditions = Front::new(&request.conditions, samples, size)?;
        let guided = request.guidance.as_ref();
        if let Some(guidance) = guided {
            guidance.validate()?;
        }
        let guidance = guided
            .filter(|guidance| guidance.scale > 1.0)
            .map(|guidance| guidance.prepare(|absent| Front::new(absent, samples, size)))
            .transpose()?;
        let window = request.window.height * request.window.width;
        let positions = conditions.positions(request.window)? + window - 1;
        if positions > model.context() {
            return Err(Error::ContextFull {
                what: "the model's context (condition and window)",
                positions,
                limit: model.context(),
            });
        }
        Ok(Self {
            model,
            request,
            chooser: Chooser::new(&request.sampling, request.forbidden.iter().copied())?,
            conditions,
            guidance,
            codes: vec![vec![0; codes]; samples],
            kept: KeptWindows::default(),
        })
    }

    /// Keeps up to `bytes` of keys and values of windows that will be used again.
    pub(super) fn keep_windows(&mut self, bytes: usize) {
        self.kept = KeptWindows::new(bytes);
    }

    /// The row-major codes of each sample so far.
    pub(super) fn codes(&self) -> &[Vec<u32>] {
        &self.codes
    }

    pub(super) fn samples(&self) -> usize {
        self.codes.len()
    }

    /// The code given for a site, if any, put in its place.
    pub(super) fn take_given(&mut self, site: Site) -> bool {
        let place = self.place(site);
        match self.request.forced.get(site.sample).and_then(|codes| codes[place]) {
            Some(code) => {
                self.codes[site.sample][place] = code;
                self.release(site);
                true
            }
            None => false,
        }
    }

    /// Draws the codes of `sites`: those in windows that are kept by what is new in
    /// them, the others in one batch. Everything before each in its window must be
    /// there.
    pub(super) fn draw(&mut self, sites: &[Site]) -> Result<()> {
        let mut rest = Vec::with_capacity(sites.len());
        for &site in sites {
            match self.logits_kept(site)? {
                Some(logits) => self.choose(&[site], &logits)?,
                None => rest.push(site),
            }
        }
        if !rest.is_empty() {
            let logits = self.logits_together(&rest)?;
            self.choose(&rest, &logits)?;
        }
        sites.iter().for_each(|&site| self.release(site));
        Ok(())
    }

    /// Logits `[sites, V]` from whole windows, in one pass.
    fn logits_together(&self, sites: &[Site]) -> Result<Tensor> {
        let known: Vec<Vec<u32>> = sites.iter().map(|&site| self.before(site)).collect();
        let longest = known.iter().map(Vec::len).max().unwrap_or(0);
        let lengths: Vec<usize> = known.iter().map(Vec::len).collect();
        // Codes behind a row's own are not seen; any will do.
        let padded: Vec<u32> = known
            .into_iter()
            .flat_map(|mut codes| {
                codes.resize(longest, 0);
                codes
            })
            .collect();
        let codes = Tensor::from_vec(padded, (sites.len(), longest), self.model.device())?;
        let conditions = self.fronts(sites)?;
        match &self.guidance {
            Some(guidance) => {
                let codes = Tensor::cat(&[&codes, &codes], 0)?;
                let logits = self.model.logits_after(&conditions, &codes, &lengths.repeat(2))?;
                self.guide(guidance, &logits, sites)
            }
            None => self.model.logits_after(&conditions, &codes, &lengths),
        }
    }

    /// Logits `[1, V]` from the keys and values of the site's window, if it is kept or
    /// worth keeping and there is room.
    fn logits_kept(&mut self, site: Site) -> Result<Option<Tensor>> {
        let (top, left) = self.corner(site);
        let key = (site.sample, top, left);
        let rows = if self.guidance.is_some() { 2 } else { 1 };
        let known = self.before(site);
        let device = self.model.device();
        let codes = |known: &[u32]| -> Result<Tensor> {
            Ok(Tensor::from_vec(known.repeat(rows), (rows, known.len()), device)?)
        };
        let (logits, cache) = match self.kept.take(key) {
            Some((mut cache, read)) => {
                (self.model.step(&codes(&known[read..])?, &mut cache)?, cache)
            }
            None => {
                if self.leaves(site) || !self.kept.has_room() {
                    return Ok(None);
                }
                let conditions = self.fronts(&[site])?;
                let window = self.request.window;
                let positions = conditions.positions()? + window.height * window.width - 1;
                let mut cache = self.model.cache(rows, positions)?;
                if !self.kept.fits(&cache) {
                    return Ok(None);
                }
                let codes = (!known.is_empty()).then(|| codes(&known)).transpose()?;
                (self.model.prefill(&conditions, codes.as_ref(), &mut cache)?, cache)
            }
        };
        self.kept.put(key, cache, known.len());
        Ok(Some(match &self.guidance {
            Some(guidance) => self.guide(guidance, &logits, &[site])?,
            None => logits,
        }))
    }

    /// Draws the codes of `sites` from their logits `[sites, V]`.
    fn choose(&mut self, sites: &[Site], logits: &Tensor) -> Result<()> {
        let mut rows = logits.to_vec2::<f32>()?;
        for (&site, logits) in sites.iter().zip(&mut rows) {
            let place = self.place(site);
            let uniform = self.request.streams[site.sample].uniform(place);
            let code = self.chooser.choose(logits, uniform).map_err(|what| Error::NoNextCode {
                sample: site.sample,
                position: place,
                what,
            })?;
            self.codes[site.sample][place] = code;
        }
        Ok(())
    }

    /// Whether no later site has the window of this one.
    fn leaves(&self, site: Site) -> bool {
        self.request.window.leaves((site.row, site.column), self.request.size)
    }

    /// Forgets the site's window if no later site has it.
    fn release(&mut self, site: Site) {
        if self.leaves(site) {
            let (top, left) = self.corner(site);
            self.kept.take((site.sample, top, left));
        }
    }

    /// The conditions of `sites`, then under guidance those that stand for none.
    fn fronts(&self, sites: &[Site]) -> Result<Conditions> {
        let device = self.model.device();
        let with = self.front(&self.conditions, sites, device)?;
        match &self.guidance {
            Some(guidance) => with.cat(&self.front(&guidance.absent, sites, device)?),
            None => Ok(with),
        }
    }

    /// The grids, `[B, H, W]`.
    pub(super) fn finish(self) -> Result<CodeGrid> {
        let (height, width) = self.request.size;
        let shape = (self.codes.len(), height, width);
        Ok(CodeGrid::from_vec(self.codes.concat(), shape, &Device::Cpu)?)
    }

    fn place(&self, site: Site) -> usize {
        site.row * self.request.size.1 + site.column
    }

    /// Guided logits, each site by its own place in the interval.
    fn guide(&self, guidance: &Guidance<Front>, logits: &Tensor, sites: &[Site]) -> Result<Tensor> {
        let count = sites.len();
        let rows = (0..count)
            .map(|i| {
                let pair = [logits.narrow(0, i, 1)?, logits.narrow(0, count + i, 1)?];
                guidance.combine(&Tensor::cat(&pair, 0)?, self.place(sites[i]))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&rows, 0)?)
    }

    /// The codes of the site's window before the site, row by row.
    fn before(&self, site: Site) -> Vec<u32> {
        let (top, left) = self.corner(site);
        let (width, window) = (self.request.size.1, self.request.window.width);
        let codes = &self.codes[site.sample];
        let mut known = Vec::new();
        for row in top..site.row {
            known.extend_from_slice(&codes[row * width + left..row * width + left + window]);
        }
        known.extend_from_slice(&codes[site.row * width + left..site.row * width + site.column]);
        known
    }

    fn corner(&self, site: Site) -> (usize, usize) {
        let (height, width) = self.request.size;
        let window = self.request.window;
        (window.top(site.row, height), window.left(site.column, width))
    }

    /// The conditions of `sites`, cut by their windows.
    fn front(&self, front: &Front, sites: &[Site], device: &Device) -> Result<Conditions> {
        match front {
            Front::Fixed(conditions) => {
                conditions.select(&sites.iter().map(|site| site.sample as u32).collect::<Vec<_>>())
            }
            Front::Grid(grids) => {
                let (width, window) = (self.request.size.1, self.request.window);
                let cut = sites.iter().map(|&site| {
                    let (top, left) = self.corner(site);
                    (top..top + window.height)
                        .flat_map(|row| {
                            let start = row * width + left;
                            grids[site.sample][start..start + window.width].iter().copied()
                        })
                        .collect::<Vec<u32>>()
                });
                Conditions::tokens(&cut.collect::<Vec<_>>(), device)
            }
            Front::Scenes(scenes) => {
                let (window, size) = (self.request.window, self.request.size);
                let told = sites
                    .iter()
                    .map(|&site| scenes.tokens(site.sample, window, self.corner(site), size));
                Conditions::tokens(&told.collect::<Result<Vec<_>>>()?, device)
            }
        }
    }
}
