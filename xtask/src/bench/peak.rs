//! What the machine can do: multiply-adds that never leave the registers.

use std::array::from_fn;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Independent sums per thread: enough to hide the latency of a multiply-add in
/// two units, and few enough for 16 registers. Each begins at a value the compiler
/// cannot know, or they would become one.
const SUMS: usize = 12;
/// Multiply-adds of each sum in one burst, some 10 ms.
const STEPS: usize = 1 << 22;
const BURSTS: usize = 20;

/// The f32 peak of `threads` threads in GFLOP/s, the best of some bursts.
pub fn gflops(threads: usize) -> f64 {
    let burst = || {
        let barrier = Barrier::new(threads);
        let slowest = std::thread::scope(|scope| {
            let work = || {
                barrier.wait();
                let begun = Instant::now();
                let flops = multiply_add();
                (flops, begun.elapsed())
            };
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            handles
                .into_iter()
                .filter_map(|handle| handle.join().ok())
                .fold((0.0, Duration::ZERO), |(flops, slowest), (more, time)| {
                    (flops + more, slowest.max(time))
                })
        });
        slowest.0 / slowest.1.as_secs_f64() / 1e9
    };
    (0..BURSTS).map(|_| burst()).fold(0.0, f64::max)
}

/// Computes a burst in the widest registers there are; returns its operations.
#[cfg(target_arch = "x86_64")]
fn multiply_add() -> f64 {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512F.
        unsafe { x86::avx512() }
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA.
        unsafe { x86::avx2() }
    } else {
        portable()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_add() -> f64 {
    portable()
}

fn operations(lanes: usize) -> f64 {
    (2 * SUMS * STEPS * lanes) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{STEPS, SUMS, black_box, from_fn, operations};
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() -> f64 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums: [_; SUMS] = from_fn(|_| _mm512_set1_ps(black_box(0.5)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        operations(16)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() -> f64 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums: [_; SUMS] = from_fn(|_| _mm256_set1_ps(black_box(0.5)));
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
        operations(8)
    }
}

/// For processors without a kernel above; arrays of four become vectors on all
/// that have them.
fn portable() -> f64 {
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    let mut sums: [[f32; 4]; SUMS] = from_fn(|_| [black_box(0.5); 4]);
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = sum.map(|sum| sum.mul_add(a, b));
        }
    }
    black_box(sums);
    operations(4)
}
