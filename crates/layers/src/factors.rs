//! What the factors of matrix products are rounded to.

/// What the factors of matrix products may be rounded to in training on a CPU. Sums, and all that
/// is read and written, are f32 in any case.
///
/// It is a property of a [`Tape`](crate::Tape), which hands it to the layers that run on it: what
/// torch calls autocast, but that maps stay f32 between layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Factors {
    /// Nothing.
    #[default]
    F32,
    /// bf16, where the machine multiplies tiles of that (AMX) and a product is large enough to gain
    /// by it; else nothing.
    Bf16,
}

impl Factors {
    /// Whether products on this machine's CPU are rounded.
    pub fn are_rounded(self) -> bool {
        self == Self::Bf16 && simd::tiles::are_available()
    }
}
