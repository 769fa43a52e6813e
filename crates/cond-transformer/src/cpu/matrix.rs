//! Weights as the kernels see them: rows of bytes in one of the formats.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, DType, Result, Storage, StorageRef, Tensor};
use simd::vector::Vector;

use super::dot::{Rows, add_products};
use super::format::Format;

/// How the numbers of rows lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    Brain,
    Half,
    Eight,
    Four,
}

/// Does something with the format of a [`Kind`].
macro_rules! with_format {
    ($kind:expr, $format:ident => $body:expr) => {
        match $kind {
            Kind::Single => {
                type $format = $crate::cpu::format::Single;
                $body
            }
            Kind::Brain => {
                type $format = $crate::cpu::format::Brain;
                $body
            }
            Kind::Half => {
                type $format = $crate::cpu::format::Half;
                $body
            }
            Kind::Eight => {
                type $format = $crate::cpu::format::Eight;
                $body
            }
            Kind::Four => {
                type $format = $crate::cpu::format::Four;
                $body
            }
        }
    };
}
pub(crate) use with_format;

impl Kind {
    /// The format of a dense tensor; none for what the kernels do not read.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::Single),
            DType::BF16 => Some(Self::Brain),
            DType::F16 => Some(Self::Half),
            _ => None,
        }
    }

    /// The format of GGML blocks; none for those that the kernels do not read.
    pub(crate) fn of_blocks(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::Q8_0 => Some(Self::Eight),
            GgmlDType::Q4_0 => Some(Self::Four),
            _ => None,
        }
    }

    /// Bytes of a row of `len` numbers.
    pub(crate) fn bytes(self, len: usize) -> usize {
        with_format!(self, F => len / F::BLOCK * F::BYTES)
    }
}

/// A matrix `[rows, columns]` that nobody changes while this exists.
pub(crate) struct Matrix<'a> {
    first: *const u8,
    kind: Kind,
    rows: usize,
    columns: usize,
    /// What keeps a tensor's numbers in their place.
    _held: Option<StorageRef<'a>>,
}
// SAFETY: the numbers are only read.
unsafe impl Sync for Matrix<'_> {}

impl<'a> Matrix<'a> {
    /// The numbers of a contiguous matrix on the CPU; none for others.
    pub(crate) fn of(tensor: &'a Tensor) -> Option<Self> {
        let &[rows, columns] = tensor.dims() else { return None };
        let kind = Kind::of(tensor.dtype())?;
        let (held, layout) = tensor.storage_and_layout();
        let (start, end) = layout.contiguous_offsets()?;
        let Storage::Cpu(storage) = &*held else { return None };
        let first: *const u8 = match storage {
            CpuStorage::F32(numbers) => numbers[start..end].as_ptr().cast(),
            CpuStorage::BF16(numbers) => numbers[start..end].as_ptr().cast(),
            CpuStorage::F16(numbers) => numbers[start..end].as_ptr().cast(),
            _ => return None,
        };
        Some(Self { first, kind, rows, columns, _held: Some(held) })
    }

    /// The blocks of a quantized matrix on the CPU; none for others.
    pub(crate) fn of_blocks(tensor: &'a Arc<QTensor>) -> Option<Self> {
        let (rows, columns) = tensor.shape().dims2().ok()?;
        let kind = Kind::of_blocks(tensor.dtype())?;
        if !tensor.device().is_cpu() {
            return None;
        }
        let data = tensor.data().ok()?;
        // Owned bytes would be gone with this function.
        let std::borrow::Cow::Borrowed(bytes) = data else { return None };
        (bytes.len() == rows * kind.bytes(columns)).then_some(Self {
            first: bytes.as_ptr(),
            kind,
            rows,
            columns,
            _held: None,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of a row.
    pub(crate) fn stride(&self) -> usize {
        self.kind.bytes(self.columns)
    }

    /// Adds the products of `count` rows from `first` on and all rows of `x` to `sums`, as
    /// [`add_products`] does.
    ///
    /// # Safety
    /// The machine must have the instruction set of `S`; rows of `x` must hold as many
    /// numbers as this has columns; `sums` must be writable and used by nobody else.
    #[inline(always)]
    pub(crate) unsafe fn add_products<S: Vector>(
        &self,
        first: usize,
        count: usize,
        x: Rows<f32>,
        sums: *mut f32,
        work: &mut [f32],
    ) {
        assert!(first + count <= self.rows, "rows {first}..+{count} of {}", self.rows);
        let stride = self.stride();
        // SAFETY: these rows are there (asserted), the rest is this function's contract.
        unsafe {
            let rows = Rows { first: self.first.add(first * stride), stride, count };
            with_format!(self.kind, F => {
                add_products::<S, F>(rows, x, self.columns, sums, count, work)
            });
        }
    }
}

/// The numbers of a vector as f32.
pub(crate) enum Numbers<'a> {
    Held(*const f32, usize, #[allow(dead_code)] StorageRef<'a>),
    Own(Vec<f32>),
}
// SAFETY: the numbers are only read.
unsafe impl Sync for Numbers<'_> {}

impl<'a> Numbers<'a> {
    /// All numbers of a tensor of f32, bf16 or f16 on the CPU.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        if tensor.dtype() == DType::F32 {
            let (held, layout) = tensor.storage_and_layout();
            if let (Some((start, end)), Storage::Cpu(CpuStorage::F32(numbers))) =
                (layout.contiguous_offsets(), &*held)
            {
                let numbers = &numbers[start..end];
                return Ok(Self::Held(numbers.as_ptr(), numbers.len(), held));
            }
        }
        Ok(Self::Own(tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?))
    }
}

impl std::ops::Deref for Numbers<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            // SAFETY: the storage is held, so the numbers stay where they are unchanged.
            Self::Held(first, len, _) => unsafe { std::slice::from_raw_parts(*first, *len) },
            Self::Own(numbers) => numbers,
        }
    }
}
