use super::*;
use crate::tiles::bf16_pair;

const COUNT: usize = 64;

/// Every way to make floats of `bytes`, one result after the other.
struct Read<'a> {
    bytes: &'a [u8; 4 * COUNT],
    found: &'a mut Vec<f32>,
}

impl Kernel for Read<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        let Self { bytes, found } = self;
        let mut lanes = [0.0; MAX_LANES];
        let mut keep = |vector: S| {
            // SAFETY: there is room for the lanes of every vector.
            unsafe { vector.store(lanes.as_mut_ptr()) };
            found.extend(&lanes[..S::LANES]);
        };
        let first = bytes.as_ptr();
        for at in (0..COUNT).step_by(S::LANES) {
            // SAFETY: at most `COUNT` numbers of at most four bytes are read; the
            // machine has the instruction set (contract).
            unsafe {
                keep(S::load_bf16(first.cast::<u16>().add(at)));
                keep(S::load_f16(first.cast::<u16>().add(at)));
                keep(S::splat_f16(first.cast::<u16>().add(at).read_unaligned()));
                keep(S::load_i8(first.cast::<i8>().add(at)));
                keep(S::load_nibbles(first.add(at), false));
                keep(S::load_nibbles(first.add(at), true));
                let numbers = S::load(first.cast::<f32>().add(at));
                keep(numbers.times(S::splat(3.0)));
                keep(numbers.bf16_pairs(numbers.times(S::splat(3.0))));
                keep(numbers.bf16_row(numbers.times(S::splat(3.0))));
                let (first, second) = (numbers.upper(), numbers.times(S::splat(3.0)).upper());
                keep(first);
                keep(first.upper_pairs(second));
                keep(first.upper_row(second));
                keep(numbers.nearest_upper());
            }
        }
    }
}

#[test]
fn numbers_are_read_alike_by_all() {
    let mut bytes = [0_u8; 4 * COUNT];
    let mut state = 1_u32;
    for byte in &mut bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    // Zeros, a subnormal number and infinities among the f16.
    bytes[..10].copy_from_slice(&[0, 0, 0, 0x80, 1, 0, 0, 0x7c, 0, 0xfc]);
    let halves: Vec<u16> =
        bytes.chunks(2).map(|two| u16::from_le_bytes([two[0], two[1]])).collect();
    for isa in Isa::with_portable() {
        let mut found = Vec::new();
        run(isa, Read { bytes: &bytes, found: &mut found });
        let mut found = found.chunks(lanes(isa));
        let mut check = |expected: &dyn Fn(usize) -> f32, at: usize| {
            for (i, x) in found.next().into_iter().flatten().enumerate() {
                let expected = expected(at + i);
                let same = x.to_bits() == expected.to_bits() || x.is_nan() && expected.is_nan();
                assert!(same, "{isa:?}: {x} for {expected}");
            }
        };
        for at in (0..COUNT).step_by(lanes(isa)) {
            check(&|i| half::bf16::from_bits(halves[i]).to_f32(), at);
            check(&|i| half::f16::from_bits(halves[i]).to_f32(), at);
            check(&|_| half::f16::from_bits(halves[at]).to_f32(), at);
            check(&|i| f32::from(bytes[i] as i8), at);
            check(&|i| f32::from(bytes[i] & 15), at);
            check(&|i| f32::from(bytes[i] >> 4), at);
            let float =
                |i: usize| [bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]];
            let float = |i: usize| f32::from_le_bytes(float(i));
            check(&|i| float(i) * 3.0, at);
            check(&|i| bf16_pair(float(i), float(i) * 3.0), at);
            let row = |i: usize| match i.checked_sub(lanes(isa)) {
                Some(i) => float(at + i) * 3.0,
                None => float(at + i),
            };
            check(&|i| bf16_pair(row(2 * (i - at)), row(2 * (i - at) + 1)), at);
            let upper = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
            let pair = |a: f32, b: f32| f32::from_bits(a.to_bits() >> 16 | upper(b).to_bits());
            check(&|i| upper(float(i)), at);
            check(&|i| pair(float(i), float(i) * 3.0), at);
            check(&|i| pair(row(2 * (i - at)), row(2 * (i - at) + 1)), at);
            check(&|i| upper(f32::from_bits(float(i).to_bits().wrapping_add(0x8000))), at);
        }
    }
}

struct Nearest<'a>(&'a [f32; COUNT], &'a mut [f32; COUNT]);

impl Kernel for Nearest<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        for at in (0..COUNT).step_by(S::LANES) {
            // SAFETY: the machine has the instruction set (contract); whole vectors.
            unsafe {
                S::load(self.0.as_ptr().add(at)).nearest_upper().store(self.1[at..].as_mut_ptr());
            }
        }
    }
}

#[test]
fn nearest_numbers_are_those_of_half_but_for_ties() {
    // Ties, which `half` breaks to even, are odd here, or go up both ways.
    let mut numbers = [1.0 + 3.0 / 256.0; COUNT];
    for (i, number) in numbers.iter_mut().enumerate().skip(1) {
        *number = (i as f32 - 31.3) * 1.234_567 * 10_f32.powi(i as i32 % 7 - 3);
    }
    for isa in Isa::with_portable() {
        let mut found = [0.0; COUNT];
        run(isa, Nearest(&numbers, &mut found));
        for (x, found) in numbers.iter().zip(found) {
            assert_eq!(found, half::bf16::from_f32(*x).to_f32(), "{isa:?}: {x}");
        }
        run(isa, Nearest(&[f32::from_bits(0x3f80_8000); COUNT], &mut found));
        assert_eq!(found, [1.0 + 1.0 / 128.0; COUNT], "{isa:?}");
        run(isa, Nearest(&[f32::NAN; COUNT], &mut found));
        assert!(found.iter().all(|x| x.is_nan()), "{isa:?}");
    }
}

struct Silu<'a>(&'a [f32; COUNT], &'a mut [[f32; 2]; COUNT]);

impl Kernel for Silu<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        for at in (0..COUNT).step_by(S::LANES) {
            let mut lanes = [[0.0; MAX_LANES]; 2];
            // SAFETY: the machine has the instruction set (contract); whole vectors.
            unsafe {
                let x = S::load(self.0.as_ptr().add(at));
                functions::exp(x).store(lanes[0].as_mut_ptr());
                functions::silu(x).store(lanes[1].as_mut_ptr());
            }
            for (i, found) in self.1[at..at + S::LANES].iter_mut().enumerate() {
                *found = [lanes[0][i], lanes[1][i]];
            }
        }
    }
}

#[test]
fn exponentials_agree_with_f64() {
    for isa in Isa::with_portable() {
        for block in -1400..1400 {
            let x: [f32; COUNT] =
                std::array::from_fn(|i| (block * COUNT as i32 + i as i32) as f32 * 9.7e-4);
            let mut found = [[0.0; 2]; COUNT];
            run(isa, Silu(&x, &mut found));
            for (x, [exp, silu]) in x.into_iter().map(f64::from).zip(found) {
                let expected = x.clamp(-87.0, 87.0).exp();
                let off = (f64::from(exp) - expected).abs();
                assert!(off <= 2e-7 * expected, "{isa:?}: exp({x}) {exp}");
                let expected = x / (1.0 + (-x).exp());
                let off = (f64::from(silu) - expected).abs();
                assert!(off <= 3e-7 * expected.abs() + 2e-36, "{isa:?}: silu({x}) {silu}");
            }
        }
        let mut x = [f32::NAN; COUNT];
        x[0] = f32::INFINITY;
        let mut found = [[0.0; 2]; COUNT];
        run(isa, Silu(&x, &mut found));
        assert_eq!(found[0][1], f32::INFINITY, "{isa:?}");
        assert!(found[1..].iter().flatten().all(|x| x.is_nan()), "{isa:?}");
    }
}

struct Sum<'a>(&'a [f32], &'a mut f32);

impl Kernel for Sum<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self) {
        // SAFETY: there are as many floats as the widest vector has lanes.
        *self.1 = unsafe { S::load(self.0.as_ptr()).sum() };
    }
}

#[test]
fn sums_are_of_all_lanes() {
    let numbers: Vec<f32> = (0..MAX_LANES).map(|i| (1 << i) as f32).collect();
    for isa in Isa::with_portable() {
        let mut sum = 0.0;
        run(isa, Sum(&numbers, &mut sum));
        assert_eq!(sum, ((1_u32 << lanes(isa)) - 1) as f32, "{isa:?}");
    }
}
