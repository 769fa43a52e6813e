//! What the memory can do: sums over more bytes than the caches hold.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Numbers of each thread, 256 MiB.
const NUMBERS: usize = 1 << 26;
const PASSES: usize = 6;
/// Independent sums: enough that adding is not what takes time.
const SUMS: usize = 64;

/// Bytes a second that `threads` threads read together, in GB/s: the best of some passes.
pub fn gigabytes(threads: usize) -> f64 {
    let barrier = Barrier::new(threads);
    let times = std::thread::scope(|scope| {
        let work = || {
            let numbers = vec![1f32; NUMBERS];
            let mut times = [0.0; PASSES];
            for time in &mut times {
                barrier.wait();
                let begun = Instant::now();
                black_box(sum(&numbers));
                *time = begun.elapsed().as_secs_f64();
            }
            times
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().filter_map(|handle| handle.join().ok()).collect::<Vec<_>>()
    });
    let slowest = (0..PASSES).map(|i| times.iter().map(|times| times[i]).fold(0.0, f64::max));
    let bytes = (threads * NUMBERS * size_of::<f32>()) as f64;
    bytes / slowest.fold(f64::INFINITY, f64::min) / 1e9
}

fn sum(numbers: &[f32]) -> f32 {
    let mut sums = [0f32; SUMS];
    for numbers in numbers.chunks_exact(SUMS) {
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += number;
        }
    }
    sums.iter().sum()
}
