//! Working memory that is reused: the first touch of a page costs more than what
//! most kernels do with it.

use std::sync::{Mutex, PoisonError};

/// Floats of a cache line, to which buffers are aligned.
const LINE: usize = 16;

/// Buffers that nobody uses at the moment, smallest first.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Runs `f` with `len` floats, aligned to cache lines, of any contents. May be
/// nested; there are as many buffers as were ever in use at once.
pub fn with_scratch<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut buffer = take(len + LINE);
    let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let result = f(&mut buffer[start..start + len]);
    give_back(buffer);
    result
}

/// The smallest free buffer of at least `len` floats; failing that, a new one in
/// place of the largest.
fn take(len: usize) -> Vec<f32> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let fitting = free.partition_point(|buffer| buffer.len() < len);
    if fitting < free.len() {
        return free.remove(fitting);
    }
    drop(free.pop());
    drop(free);
    vec![0.0; len]
}

fn give_back(buffer: Vec<f32>) {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let at = free.partition_point(|other| other.len() < buffer.len());
    free.insert(at, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_buffers_are_apart_and_aligned() {
        with_scratch(100, |outer| {
            outer.fill(1.0);
            with_scratch(50, |inner| {
                inner.fill(2.0);
                assert_eq!(inner.as_ptr() as usize % 64, 0);
            });
            assert_eq!(outer, [1.0; 100]);
            assert_eq!(outer.as_ptr() as usize % 64, 0);
        });
        with_scratch(0, |empty| assert!(empty.is_empty()));
    }
}
