//! Transformed tiles of a feature map, and how they are made.

use super::super::geometry::Geometry;
use super::form::Form;
use crate::shared_mut::SharedMut;
use crate::vector::{Kernel, MAX_LANES, Vector};

/// Pixels of the side of an output tile.
pub const TILE: usize = 4;
/// Columns of the buffers that hold a row of tiles between NCHW and vectors of
/// channels: a multiple of every vector's lanes.
pub const COLUMNS: usize = 80;
/// Tiles of a whole line of the cache.
const LINE: usize = 4;
/// Rows of the tallest tile.
const MAX_SIDE: usize = 9;

/// The output tiles of all pictures, row by row.
#[derive(Clone, Copy)]
pub struct Grid {
    columns: usize,
    rows: usize,
    batch: usize,
    /// Tiles of a run, at most: as many as fit into [`COLUMNS`], and fill lines.
    run: usize,
}

/// Neighbouring tiles of a [`Grid`].
#[derive(Clone, Copy)]
pub struct Range {
    pub first: usize,
    pub count: usize,
}

/// Tiles of a range that stand in one row.
pub struct Run {
    /// Tiles of the range before these.
    pub done: usize,
    pub picture: usize,
    /// In tiles.
    pub row: usize,
    /// In tiles.
    pub column: usize,
    pub count: usize,
}

impl Grid {
    pub fn new<F: Form>(_form: F, g: &Geometry) -> Self {
        Self {
            columns: g.ow.div_ceil(TILE),
            rows: g.oh.div_ceil(TILE),
            batch: g.batch,
            run: ((COLUMNS - F::SIDE) / (TILE * F::STRIDE) + 1) / LINE * LINE,
        }
    }

    /// Tiles of one picture.
    pub fn per_picture(self) -> usize {
        self.columns * self.rows
    }

    /// All tiles.
    pub fn len(self) -> usize {
        self.batch * self.per_picture()
    }

    /// The tiles of `range` in runs.
    pub fn runs(self, range: Range) -> impl Iterator<Item = Run> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let (left, tile) = (range.count - done, range.first + done);
            let (row, column) = (tile / self.columns, tile % self.columns);
            let count = left.min(self.columns - column).min(self.run);
            let (picture, row) = (row / self.rows, row % self.rows);
            let run = Run { done, picture, row, column, count };
            done += count;
            (left > 0).then_some(run)
        })
    }
}

/// Transformed tiles: tile `t`, element `e`, channel `c` at
/// `c / chunk * next + e * element + t * tile + c % chunk`.
#[derive(Clone, Copy)]
pub struct Tiles {
    pub data: SharedMut,
    pub element: usize,
    pub tile: usize,
    /// Channels that lie side by side.
    pub chunk: usize,
    next: usize,
}

/// What [`Tiles`] there are.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub elements: usize,
    pub channels: usize,
    /// Channels that lie side by side: a multiple of [`MAX_LANES`], or all.
    pub chunk: usize,
    pub count: usize,
}

/// What lies side by side in memory, so that few pages are in use at a time.
#[derive(Clone, Copy)]
pub enum Order {
    /// The elements of a tile.
    Tiles,
    /// The tiles of an element.
    Elements,
}

impl Sizes {
    /// Floats of all tiles.
    pub fn len(self) -> usize {
        self.channels.div_ceil(self.chunk) * self.next()
    }

    /// Floats of one element of one tile: a line more than the channels, so that many
    /// of them do not fall into one set of the cache.
    fn pitch(self) -> usize {
        self.chunk.next_multiple_of(MAX_LANES) + 16
    }

    /// Floats of a chunk of channels of all tiles.
    fn next(self) -> usize {
        self.elements * (self.count * self.pitch() + 16)
    }
}

impl Tiles {
    /// Those in `data`, which holds [`Sizes::len`].
    pub fn new(order: Order, sizes: Sizes, data: &mut [f32]) -> Self {
        let Sizes { elements, chunk, count, .. } = sizes;
        assert!(data.len() >= sizes.len(), "too few floats for {count} tiles");
        let (pitch, next) = (sizes.pitch(), sizes.next());
        let (element, tile) = match order {
            Order::Tiles => (pitch, elements * pitch),
            Order::Elements => (count * pitch + 16, pitch),
        };
        Self { data: SharedMut::new(data), element, tile, chunk, next }
    }

    /// Element `element`, tile `tile` and channel `channel`.
    pub fn at(self, element: usize, tile: usize, channel: usize) -> *mut f32 {
        let (chunk, channel) = (channel / self.chunk, channel % self.chunk);
        self.data.at(chunk * self.next + element * self.element + tile * self.tile + channel)
    }
}

/// Feature maps of which tiles are made: `[batch, channels, h, w]`.
#[derive(Clone, Copy)]
pub struct Maps<'a> {
    pub data: &'a [f32],
    pub channels: usize,
    pub h: usize,
    pub w: usize,
    /// Whether every pixel stands for 2 x 2 of the map that tiles are made of
    /// (nearest upsampling).
    pub doubled: bool,
    /// Rows above and columns left of that map, where the first tile starts.
    pub before: (usize, usize),
}

/// What tiles are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Pixels of the convolution's input.
    Input,
    /// 4 x 4 pixels of the gradient to its output.
    Gradient,
}

/// Transforms the tiles of `range`; the first becomes tile `at` of `to`.
pub struct Transform<'a, F> {
    pub form: F,
    pub grid: Grid,
    pub part: Part,
    pub maps: Maps<'a>,
    pub range: Range,
    pub to: Tiles,
    pub at: usize,
}

impl<F: Form> Kernel for Transform<'_, F> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Maps { channels, h, w, before, .. } = self.maps;
        let (side, step) = match self.part {
            Part::Input => (F::SIDE, TILE * F::STRIDE),
            Part::Gradient => (TILE, TILE),
        };
        let pitch = COLUMNS * S::LANES;
        let mut pixels = [0.0_f32; MAX_SIDE * COLUMNS * MAX_LANES];
        for run in self.grid.runs(self.range) {
            let columns = (step * run.column, step * (run.count - 1) + side);
            let y = |y: usize| {
                let y = (step * run.row + y).checked_sub(before.0)?;
                Some(if self.maps.doubled { y / 2 } else { y }).filter(|&y| y < h)
            };
            for channel in (0..channels).step_by(S::LANES) {
                let first = (run.picture * channels + channel) * h * w;
                let width = S::LANES.min(channels - channel);
                for (row, target) in pixels.chunks_exact_mut(pitch).take(side).enumerate() {
                    match y(row) {
                        Some(y) => {
                            let planes = (first, width);
                            // SAFETY: the machine has the instruction set.
                            unsafe {
                                if self.maps.doubled {
                                    self.maps.doubled_vectors::<S>(planes, y, columns, target);
                                } else {
                                    self.maps.vectors::<S>(planes, y, columns, target);
                                    // The next channels: they are too far apart for the machine
                                    // to guess.
                                    self.maps.prefetch::<S>(first + width * h * w, y, columns);
                                }
                            }
                        }
                        None => target.fill(0.0),
                    }
                }
                for tile in 0..run.count {
                    let target = self.to.at(0, self.at + run.done + tile, channel);
                    // SAFETY: `pixels` holds all columns of each tile; `to` holds this tile's
                    // vectors (its pitch is a multiple of the lanes) for every element, and no
                    // other task has them.
                    unsafe {
                        let from = pixels.as_ptr().add(step * tile * S::LANES);
                        match self.part {
                            Part::Input => {
                                self.form.input::<S>(from, pitch, target, self.to.element)
                            }
                            Part::Gradient => {
                                self.form.gradient::<S>(from, pitch, target, self.to.element);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Maps<'_> {
    /// As [`Self::vectors`], every pixel twice.
    #[inline(always)]
    unsafe fn doubled_vectors<S: Vector>(
        &self,
        planes: (usize, usize),
        y: usize,
        columns: (usize, usize),
        target: &mut [f32],
    ) {
        // Column `j` of the doubled, padded row is pixel `(j + odd) / 2` of a row with half
        // the padding, rounded up.
        let left = self.before.1.div_ceil(2);
        let odd = 2 * left - self.before.1;
        let (first, last) = ((columns.0 + odd) / 2, (columns.0 + columns.1 - 1 + odd) / 2);
        let single = Maps { before: (self.before.0, left), doubled: false, ..*self };
        let mut pixels = [0.0_f32; COLUMNS * MAX_LANES];
        // SAFETY: the machine has the instruction set.
        unsafe { single.vectors::<S>(planes, y, (first, last - first + 1), &mut pixels) }
        for (j, target) in target.chunks_exact_mut(S::LANES).take(columns.1).enumerate() {
            let source = &pixels[((columns.0 + j + odd) / 2 - first) * S::LANES..];
            // SAFETY: a vector of each.
            unsafe { S::load(source[..S::LANES].as_ptr()).store(target.as_mut_ptr()) }
        }
    }

    /// Row `y` of up to one vector of channels, whose planes start at `first`, as
    /// vectors of channels: `columns.1` columns from `columns.0` on (counted from the
    /// first tile's first), zeros outside the map.
    #[inline(always)]
    unsafe fn vectors<S: Vector>(
        &self,
        (first, channels): (usize, usize),
        y: usize,
        columns: (usize, usize),
        target: &mut [f32],
    ) {
        let (w, left, plane) = (self.w, self.before.1, self.h * self.w);
        for at in (0..columns.1).step_by(S::LANES) {
            let start = columns.0 + at;
            let inside = start.max(left)..(start + S::LANES).min(left + w);
            let target = &mut target[at * S::LANES..][..S::LANES * S::LANES];
            // A block may reach over the ends of the row, as long as it stays in the data:
            // what it finds there becomes zeros.
            let from = (first + y * w + start).checked_sub(left);
            let fits = |from: &usize| {
                channels == S::LANES && from + (S::LANES - 1) * plane + S::LANES <= self.data.len()
            };
            if let Some(from) = from.filter(fits) {
                // SAFETY: all rows are within `data` (just checked), the block is `target`.
                unsafe {
                    let from = self.data.as_ptr().add(from);
                    S::transpose(from, plane, target.as_mut_ptr(), S::LANES);
                }
                if inside.len() < S::LANES {
                    let inside = inside.start.min(start + S::LANES)..inside.end.max(start);
                    target[..(inside.start - start) * S::LANES].fill(0.0);
                    target[(inside.end - start) * S::LANES..].fill(0.0);
                }
                continue;
            }
            let mut block = [0.0_f32; MAX_LANES * MAX_LANES];
            if !inside.is_empty() {
                let planes = self.data[first..].chunks(plane).take(channels);
                for (plane, row) in planes.zip(block.chunks_exact_mut(S::LANES)) {
                    let source = &plane[y * w + inside.start - left..][..inside.len()];
                    row[inside.start - start..][..inside.len()].copy_from_slice(source);
                }
            }
            // SAFETY: both are `LANES` rows of `LANES`.
            unsafe { S::transpose(block.as_ptr(), S::LANES, target.as_mut_ptr(), S::LANES) }
        }
    }

    /// Asks for a row of the planes from `first` on, ahead of its use.
    #[inline(always)]
    fn prefetch<S: Vector>(&self, first: usize, y: usize, columns: (usize, usize)) {
        let column = columns.0.saturating_sub(self.before.1).min(self.w);
        let width = columns.1.min(self.w - column);
        for channel in 0..S::LANES {
            let row = first + channel * self.h * self.w + y * self.w + column;
            for at in (0..width).step_by(MAX_LANES) {
                S::prefetch(self.data.as_ptr().wrapping_add(row + at));
            }
        }
    }
}
