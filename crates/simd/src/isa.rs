//! The instruction sets that kernels exist for.

/// An instruction set that the kernels exist for, seen on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// The best instruction set of this machine that there are kernels for.
    pub fn detect() -> Option<Self> {
        Self::available().into_iter().next()
    }

    /// All instruction sets of this machine that there are kernels for, best first.
    pub fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f");
            let sets = [(avx512, Self::Avx512), (avx2, Self::Avx2)];
            sets.into_iter().filter_map(|(has, isa)| has.then_some(isa)).collect()
        }
        #[cfg(not(target_arch = "x86_64"))]
        Vec::new()
    }

    /// What kernels can be run with on this machine: every instruction set, and none (the portable
    /// vectors). For tests, which should try all.
    pub fn with_portable() -> impl Iterator<Item = Option<Self>> {
        Self::available().into_iter().map(Some).chain([None])
    }

    /// Floats of a vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 8,
        }
    }

    /// Pairs of vectors that sums are kept in.
    pub fn pairs(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 12,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
        }
    }
}
