//! Decoded pictures in memory, within a budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::Loaded;

/// Keeps what it is offered until the budget is spent; nothing is thrown out, since
/// every picture is needed equally often.
pub(crate) struct Cache {
    slots: Vec<OnceLock<Arc<Loaded>>>,
    left: AtomicU64,
}

impl Cache {
    pub(crate) fn new(len: usize, bytes: u64) -> Self {
        let slots = std::iter::repeat_with(OnceLock::new).take(len).collect();
        Self { slots, left: AtomicU64::new(bytes) }
    }

    pub(crate) fn get(&self, index: usize) -> Option<Arc<Loaded>> {
        self.slots.get(index)?.get().cloned()
    }

    pub(crate) fn offer(&self, index: usize, loaded: &Arc<Loaded>) {
        let Some(slot) = self.slots.get(index) else { return };
        let bytes = loaded.bytes();
        let spend = |left: u64| left.checked_sub(bytes);
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        if spent.is_ok() && slot.set(loaded.clone()).is_err() {
            // Another worker was faster.
            self.left.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_within_the_budget() {
        let cache = Cache::new(3, 30);
        let image = image::RgbImage::new(2, 2);
        let image = Arc::new(Loaded { image, labels: None, depth: None });
        for index in 0..3 {
            cache.offer(index, &image);
        }
        cache.offer(0, &image);
        cache.offer(9, &image);
        assert_eq!([0, 1, 2].map(|i| cache.get(i).is_some()), [true, true, false]);
        assert_eq!(cache.left.load(Ordering::Relaxed), 6);
    }
}
