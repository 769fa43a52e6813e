//! Decoded pictures in memory, within a budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use image::RgbImage;

/// Keeps what it is offered until the budget is spent; nothing is thrown out, since
/// every picture is needed equally often.
pub(super) struct Cache {
    slots: Vec<OnceLock<Arc<RgbImage>>>,
    left: AtomicU64,
}

impl Cache {
    pub(super) fn new(len: usize, bytes: u64) -> Self {
        let slots = std::iter::repeat_with(OnceLock::new).take(len).collect();
        Self { slots, left: AtomicU64::new(bytes) }
    }

    pub(super) fn get(&self, index: usize) -> Option<Arc<RgbImage>> {
        self.slots.get(index)?.get().cloned()
    }

    pub(super) fn offer(&self, index: usize, image: &Arc<RgbImage>) {
        let Some(slot) = self.slots.get(index) else { return };
        let bytes = image.as_raw().len() as u64;
        let spend = |left: u64| left.checked_sub(bytes);
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
        if spent.is_ok() && slot.set(image.clone()).is_err() {
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
        let image = Arc::new(RgbImage::new(2, 2));
        for index in 0..3 {
            cache.offer(index, &image);
        }
        cache.offer(0, &image);
        cache.offer(9, &image);
        assert_eq!([0, 1, 2].map(|i| cache.get(i).is_some()), [true, true, false]);
        assert_eq!(cache.left.load(Ordering::Relaxed), 6);
    }
}
