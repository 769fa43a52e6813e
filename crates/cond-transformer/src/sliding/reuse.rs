//! Keys and values of windows that later positions look through too.

use std::collections::HashMap;

use crate::KvCache;

/// A window: the sample, the row of its top and the column of its left edge.
type Key = (usize, usize, usize);

/// Caches by window, up to a number of bytes.
#[derive(Debug, Default)]
pub(super) struct KeptWindows {
    /// The cache, and how many codes it has read.
    windows: HashMap<Key, (KvCache, usize)>,
    bytes: usize,
    limit: usize,
    /// Bytes of the last cache that did not fit.
    refused: Option<usize>,
}

impl KeptWindows {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Whether it is worth making a cache and asking [`Self::fits`].
    pub(super) fn has_room(&self) -> bool {
        self.limit > 0 && self.refused.is_none_or(|refused| self.bytes + refused <= self.limit)
    }

    /// Whether one more cache fits.
    pub(super) fn fits(&mut self, cache: &KvCache) -> bool {
        let fits = self.bytes + cache.bytes() <= self.limit;
        self.refused = (!fits).then(|| cache.bytes());
        fits
    }

    /// Takes out a window's cache, and how many codes it has read.
    pub(super) fn take(&mut self, key: Key) -> Option<(KvCache, usize)> {
        let taken = self.windows.remove(&key);
        if let Some((cache, _)) = &taken {
            self.bytes -= cache.bytes();
        }
        taken
    }

    /// Keeps a window's cache, which has read `codes` codes.
    pub(super) fn put(&mut self, key: Key, cache: KvCache, codes: usize) {
        self.bytes += cache.bytes();
        self.windows.insert(key, (cache, codes));
    }
}
