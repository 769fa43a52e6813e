//! The table that tells a kernel which tensors there are.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, SyncOnDrop,
};
use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Storage, Tensor};

use super::super::launch::{grid, index, threads};

/// Elements of a block, as in `foreach.cu`.
const PART: usize = 8192;

/// A row of the table, as in `foreach.cu`: tensors of one shape that a kernel goes through
/// together.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Row {
    block: u64,
    len: u64,
    address: [u64; 4],
    own: f32,
    unused: u32,
}

// SAFETY: numbers without padding, as the kernels declare them.
unsafe impl DeviceRepr for Row {}

/// A table on its device. While it lives, its tensors are borrowed.
pub(super) struct Table {
    pub device: CudaDevice,
    pub rows: CudaSlice<Row>,
    pub count: u32,
    /// Blocks for all rows.
    pub blocks: usize,
}

/// Contiguous tensors of `N` dtypes, as long as a kernel is told of their addresses.
pub(super) struct Group<'a, const N: usize> {
    pub tensors: [&'a Tensor; N],
    /// A number of its own.
    pub own: f32,
}

/// Calls `launch` with the table of `groups`, whose tensors are of `dtypes`; not at all
/// where none has elements.
///
/// # Errors
/// If the tensors of a group have different shapes, are on different devices or none of
/// NVIDIA's, are not contiguous, or of other dtypes.
pub(super) fn with_table<const N: usize, T>(
    what: &str,
    groups: &[Group<'_, N>],
    dtypes: [DType; N],
    launch: impl FnOnce(&Table) -> Result<T>,
) -> Result<Option<T>> {
    const { assert!(N > 0 && N <= 4) };
    let groups: Vec<_> = groups.iter().filter(|g| g.tensors[0].elem_count() > 0).collect();
    let Some(first) = groups.first() else { return Ok(None) };
    let device = first.tensors[0].device().as_cuda_device()?.clone();
    let stream = device.cuda_stream();
    // Storages stay borrowed, and events of their use are recorded, until after the launch.
    let mut storages = Vec::with_capacity(groups.len() * N);
    for group in &groups {
        for (tensor, dtype) in group.tensors.iter().zip(dtypes) {
            let same = tensor.device().same_device(first.tensors[0].device());
            if tensor.shape() != group.tensors[0].shape() || tensor.dtype() != dtype || !same {
                candle_core::bail!(
                    "{what}: {dtype:?} of {:?} is wanted on {:?}, and got {tensor:?}",
                    group.tensors[0].shape(),
                    first.tensors[0].device().location()
                )
            }
            storages.push(tensor.storage_and_layout());
        }
    }
    let mut guards = Vec::with_capacity(storages.len());
    let mut rows = Vec::with_capacity(groups.len());
    let mut blocks = 0;
    for (group, storages) in groups.iter().zip(storages.chunks(N)) {
        let len = group.tensors[0].elem_count();
        let mut row =
            Row { block: blocks as u64, len: len as u64, own: group.own, ..Row::default() };
        for (to, (storage, layout)) in row.address.iter_mut().zip(storages) {
            let Storage::Cuda(storage) = &**storage else {
                candle_core::bail!("{what}: a tensor of another device")
            };
            let (address, guard) = address(what, storage, layout, &stream)?;
            *to = address;
            guards.push(guard);
        }
        blocks += len.div_ceil(PART);
        rows.push(row);
    }
    let count = index(rows.len())?;
    let table = Table { rows: device.clone_htod(&rows)?, device, count, blocks };
    let result = launch(&table)?;
    drop(guards);
    Ok(Some(result))
}

impl Table {
    /// Threads and blocks for all of it.
    pub fn grid(&self) -> Result<LaunchConfig> {
        grid(self.blocks, 1, threads(PART))
    }
}

/// Where a contiguous tensor's first element is.
pub(super) fn address<'a>(
    what: &str,
    storage: &'a CudaStorage,
    layout: &Layout,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("{what}: a non-contiguous tensor {layout:?}")
    };
    macro_rules! of {
        ($t:ty) => {{
            let slice = storage.as_cuda_slice::<$t>()?;
            if end > slice.len() {
                candle_core::bail!("{what}: {start}..{end} of {}", slice.len())
            }
            let (base, guard) = slice.device_ptr(stream);
            Ok((base + (start * size_of::<$t>()) as u64, guard))
        }};
    }
    match candle_core::backend::BackendStorage::dtype(storage) {
        DType::F32 => of!(f32),
        DType::F16 => of!(half::f16),
        DType::BF16 => of!(half::bf16),
        DType::F64 => of!(f64),
        DType::U32 => of!(u32),
        other => candle_core::bail!("{what}: no CUDA kernel for {other:?}"),
    }
}
