//! What a Winograd transform consists of, and how linear maps of lines become those of squares.

use std::ops::Range;

use super::tiles::TILE;
use crate::vector::Vector;

/// A way to compute tiles of 4 x 4 outputs of a 3x3 convolution. Elements of what it makes are
/// vectors of channels.
pub trait Form: Copy + Send + Sync {
    /// Steps of the convolution.
    const STRIDE: usize;
    /// Pixels of the side of an input tile.
    const SIDE: usize;
    /// Elements of a transformed input tile, and of a transformed kernel.
    const ELEMENTS: usize;
    /// Elements of a transformed output tile.
    const FREQUENCIES: usize;

    /// The elements of an input tile whose products with the kernel's add up to element
    /// `frequency` of the output tile. They are neighbours, and in the order of frequencies.
    fn elements(self, frequency: usize) -> Range<usize>;

    /// The element of an output tile that `element` of an input tile is part of.
    fn frequency(self, element: usize) -> usize;

    /// Bᵀ d B of an input tile, rows `pitch` floats apart, pixels one vector apart; element
    /// `e` of the result goes to `to + e * stride`.
    ///
    /// # Safety
    /// The machine must have the instruction set; all that is named must be readable
    /// and writable.
    unsafe fn input<S: Vector>(self, from: *const f32, pitch: usize, to: *mut f32, stride: usize);

    /// G g Gᵀ of a kernel of 3 x 3 weights, one vector apart; element `e` of the result goes
    /// to `to + e * stride`.
    ///
    /// # Safety
    /// As for [`Form::input`].
    unsafe fn weight<S: Vector>(self, from: *const f32, to: *mut f32, stride: usize);

    /// Aᵀ m A of a transformed output tile, elements `stride` floats apart, plus `bias`: 4 x 4
    /// pixels, rows `pitch` floats apart, pixels one vector apart.
    ///
    /// # Safety
    /// As for [`Form::input`].
    unsafe fn output<S: Vector>(
        self,
        from: *const f32,
        stride: usize,
        bias: S,
        to: *mut f32,
        pitch: usize,
    );

    /// A y Aᵀ of a tile of 4 x 4 pixels of the output's gradient, rows `pitch` floats
    /// apart, pixels one vector apart; element `f` of the result goes to
    /// `to + f * stride`.
    ///
    /// # Safety
    /// As for [`Form::input`].
    unsafe fn gradient<S: Vector>(
        self,
        from: *const f32,
        pitch: usize,
        to: *mut f32,
        stride: usize,
    );

    /// Gᵀ u G of the gradient to a transformed kernel, elements `stride` floats apart:
    /// the gradient to its 3 x 3 weights, one vector apart.
    ///
    /// # Safety
    /// As for [`Form::input`].
    unsafe fn weight_gradient<S: Vector>(self, from: *const f32, stride: usize, to: *mut f32);
}

/// What is done to both axes: lines of `E` elements and `F` frequencies.
pub trait Lines<const E: usize, const F: usize>: Copy + Send + Sync {
    /// Steps of the convolution.
    const STRIDE: usize;

    /// Bᵀ d: input pixels.
    type Input: Line<E, E>;
    /// G g: weights.
    type Weight: Line<3, E>;
    /// Aᵀ m: to output pixels.
    type Output: Line<F, TILE>;
    /// A y: pixels of the output's gradient.
    type Gradient: Line<TILE, F>;
    /// Gᵀ u: to the gradient to weights.
    type WeightGradient: Line<E, 3>;
}

/// The form of these lines: element `e` of a line is part of frequency `e % F`.
#[derive(Clone, Copy)]
pub struct Squares<L, const E: usize, const F: usize>(pub L);

impl<L, const E: usize, const F: usize> Squares<L, E, F> {
    /// Of the elements of a square, `[row][column]`, which they are: sorted by frequency.
    const ELEMENTS: [[usize; E]; E] = {
        let mut elements = [[0; E]; E];
        let (mut next, mut frequency) = (0, 0);
        while frequency < F * F {
            let mut y = frequency / F;
            while y < E {
                let mut x = frequency % F;
                while x < E {
                    elements[y][x] = next;
                    next += 1;
                    x += F;
                }
                y += F;
            }
            frequency += 1;
        }
        elements
    };
}

impl<L: Lines<E, F>, const E: usize, const F: usize> Form for Squares<L, E, F> {
    const STRIDE: usize = L::STRIDE;
    const SIDE: usize = E;
    const ELEMENTS: usize = E * E;
    const FREQUENCIES: usize = F * F;

    fn elements(self, frequency: usize) -> Range<usize> {
        let (row, column) = (frequency / F, frequency % F);
        let count = (row..E).step_by(F).len() * (column..E).step_by(F).len();
        let first = Self::ELEMENTS[row][column];
        first..first + count
    }

    fn frequency(self, element: usize) -> usize {
        (0..Self::FREQUENCIES).find(|f| self.elements(*f).contains(&element)).unwrap_or_default()
    }

    #[inline(always)]
    unsafe fn input<S: Vector>(self, from: *const f32, pitch: usize, to: *mut f32, stride: usize) {
        let (pixels, elements) =
            (Places::Steps(pitch, S::LANES), Places::Elements(&Self::ELEMENTS, stride));
        // SAFETY: this function's contract.
        unsafe { square::<S, L::Input, E, E>((from, pixels), (to, elements), None) }
    }

    #[inline(always)]
    unsafe fn weight<S: Vector>(self, from: *const f32, to: *mut f32, stride: usize) {
        let (taps, elements) =
            (Places::Steps(3 * S::LANES, S::LANES), Places::Elements(&Self::ELEMENTS, stride));
        // SAFETY: this function's contract.
        unsafe { square::<S, L::Weight, 3, E>((from, taps), (to, elements), None) }
    }

    #[inline(always)]
    unsafe fn output<S: Vector>(
        self,
        from: *const f32,
        stride: usize,
        bias: S,
        to: *mut f32,
        pitch: usize,
    ) {
        let (elements, pixels) =
            (Places::Steps(F * stride, stride), Places::Steps(pitch, S::LANES));
        // SAFETY: this function's contract.
        unsafe { square::<S, L::Output, F, TILE>((from, elements), (to, pixels), Some(bias)) }
    }

    #[inline(always)]
    unsafe fn gradient<S: Vector>(
        self,
        from: *const f32,
        pitch: usize,
        to: *mut f32,
        stride: usize,
    ) {
        let (pixels, elements) =
            (Places::Steps(pitch, S::LANES), Places::Steps(F * stride, stride));
        // SAFETY: this function's contract.
        unsafe { square::<S, L::Gradient, TILE, F>((from, pixels), (to, elements), None) }
    }

    #[inline(always)]
    unsafe fn weight_gradient<S: Vector>(self, from: *const f32, stride: usize, to: *mut f32) {
        let (elements, taps) =
            (Places::Elements(&Self::ELEMENTS, stride), Places::Steps(3 * S::LANES, S::LANES));
        // SAFETY: this function's contract.
        unsafe { square::<S, L::WeightGradient, E, 3>((from, elements), (to, taps), None) }
    }
}

/// A linear map of `N` numbers to `M`.
pub trait Line<const N: usize, const M: usize> {
    /// Of every lane.
    ///
    /// # Safety
    /// The machine must have the instruction set.
    unsafe fn map<S: Vector>(line: [S; N]) -> [S; M];
}

/// Where the vectors of a square of `N` x `N` are, in floats.
#[derive(Clone, Copy)]
enum Places<const N: usize> {
    /// Rows and columns so far apart.
    Steps(usize, usize),
    /// The elements of a square, so far apart.
    Elements(&'static [[usize; N]; N], usize),
}

impl<const N: usize> Places<N> {
    #[inline(always)]
    fn at(self, y: usize, x: usize) -> usize {
        match self {
            Self::Steps(row, column) => y * row + x * column,
            Self::Elements(elements, step) => elements[y][x] * step,
        }
    }
}

/// Maps the columns of `N` x `N` vectors, then the rows of what that gives, and adds `plus`.
///
/// # Safety
/// The machine must have the instruction set; both squares must be readable and writable.
#[inline(always)]
unsafe fn square<S: Vector, L: Line<N, M>, const N: usize, const M: usize>(
    (from, from_places): (*const f32, Places<N>),
    (to, to_places): (*mut f32, Places<M>),
    plus: Option<S>,
) {
    // SAFETY: within the squares (contract).
    unsafe {
        let mut columns = [[S::splat(0.0); M]; N];
        for (x, column) in columns.iter_mut().enumerate() {
            let mut line = [S::splat(0.0); N];
            for (y, value) in line.iter_mut().enumerate() {
                *value = S::load(from.add(from_places.at(y, x)));
            }
            *column = L::map(line);
        }
        for y in 0..M {
            let mut line = [S::splat(0.0); N];
            for (value, column) in line.iter_mut().zip(&columns) {
                *value = column[y];
            }
            for (x, value) in L::map(line).into_iter().enumerate() {
                let value = match plus {
                    Some(plus) => value.plus(plus),
                    None => value,
                };
                value.store(to.add(to_places.at(y, x)));
            }
        }
    }
}
