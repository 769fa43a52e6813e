//! One buffer that the tasks of a parallel loop write to.

/// A buffer that tasks may share because each writes elements of its own.
#[derive(Debug)]
pub struct SharedMut<T = f32> {
    first: *mut T,
    len: usize,
}
// SAFETY: every use names the disjoint elements that its task writes.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> Clone for SharedMut<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedMut<T> {}

impl<T> SharedMut<T> {
    /// All of `buffer`.
    pub fn new(buffer: &mut [T]) -> Self {
        Self { first: buffer.as_mut_ptr(), len: buffer.len() }
    }

    /// All that `buffer` has room for, not yet written: for [`Self::at`] and
    /// [`Self::write`] only.
    pub fn new_spare(buffer: &mut Vec<T>) -> Self {
        Self { first: buffer.as_mut_ptr(), len: buffer.capacity() }
    }

    /// A pointer to element `offset`.
    pub fn at(self, offset: usize) -> *mut T {
        assert!(offset <= self.len, "offset {offset} of {}", self.len);
        // SAFETY: within the buffer (asserted).
        unsafe { self.first.add(offset) }
    }

    /// A pointer to elements `offset..offset + len`, which are there.
    pub fn range(self, offset: usize, len: usize) -> *mut T {
        assert!(offset + len <= self.len, "elements {offset}..+{len} of {}", self.len);
        self.at(offset)
    }

    /// Writes `len` values to `offset` and behind; what was there is not read.
    ///
    /// # Safety
    /// `values` must be as many as `len`, the buffer must be there still, and nothing
    /// else may use these elements meanwhile.
    #[inline(always)]
    pub unsafe fn write(self, offset: usize, len: usize, values: impl Iterator<Item = T>) {
        assert!(offset + len <= self.len, "elements {offset}..+{len} of {}", self.len);
        // SAFETY: within the buffer (asserted).
        let first = unsafe { self.first.add(offset) };
        // SAFETY: there are `len` values at most (contract), so all writes are within.
        values.enumerate().for_each(|(i, value)| unsafe { first.add(i).write(value) });
    }

    /// The elements `offset..offset + len`.
    ///
    /// # Safety
    /// The buffer must outlive the slice, and nothing else may use these elements
    /// meanwhile.
    pub unsafe fn slice<'a>(self, offset: usize, len: usize) -> &'a mut [T] {
        assert!(offset + len <= self.len, "elements {offset}..+{len} of {}", self.len);
        // SAFETY: within the buffer (asserted), exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(offset), len) }
    }
}
