//! Finding kernels, and how many threads to give them.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, CudaView, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg, sys,
};
use candle_core::{CudaDevice, Result};

mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A file of kernels: its name, which no other has, and its code.
#[derive(Clone, Copy)]
pub(crate) struct Module(&'static str, &'static str);

impl Module {
    pub const ATTENTION_BF16: Self = Self("layers-attention-bf16", ptx::ATTENTION_BF16);
    pub const ATTENTION_F16: Self = Self("layers-attention-f16", ptx::ATTENTION_F16);
    pub const ATTENTION_F32: Self = Self("layers-attention-f32", ptx::ATTENTION_F32);
    pub const BATCH_NORM: Self = Self("layers-batch-norm", ptx::BATCH_NORM);
    pub const FOREACH: Self = Self("layers-foreach", ptx::FOREACH);
    pub const GROUP_NORM: Self = Self("layers-group-norm", ptx::GROUP_NORM);
    pub const PLANES: Self = Self("layers-planes", ptx::PLANES);
    pub const POINTWISE: Self = Self("layers-pointwise", ptx::POINTWISE);
    pub const ROWS: Self = Self("layers-rows", ptx::ROWS);
    pub const SEQUENCE: Self = Self("layers-sequence", ptx::SEQUENCE);
}

/// Most threads of a block, as in `common.cuh`.
const THREADS: usize = 256;
/// Most blocks along a grid's second axis.
const MOST_PARTS: usize = 65_535;
/// Elements of a plane that a block takes.
pub(crate) const PLANE_PART: usize = 8192;

/// A kernel, and the stream that a device's tensors live on.
pub(crate) struct Function {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Function {
    /// A launch, still without arguments.
    pub fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }

    /// Allows blocks `bytes` of dynamic shared memory: above 48 KiB a kernel has to ask.
    pub fn allow_shared(&self, bytes: u32) -> Result<()> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = i32::try_from(bytes).map_err(candle_core::Error::wrap)?;
        self.function.set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes)?;
        Ok(())
    }
}

/// The kernel `name` of `module` on `device`, loaded where it has not been.
pub(crate) fn function(device: &CudaDevice, module: Module, name: &str) -> Result<Function> {
    let function = device.get_or_load_custom_func(name, module.0, module.1)?.into_cuda_function();
    Ok(Function { function, stream: device.cuda_stream() })
}

/// Most bytes of shared memory that a block on `device` may ask for.
pub(crate) fn most_shared(device: &CudaDevice) -> Result<u32> {
    use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let stream = device.cuda_stream();
    let most = stream.context().attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    Ok(u32::try_from(most).unwrap_or(0))
}

/// A size or index as kernels take it: below 2^31, so that a block's worth more does not
/// overflow.
pub(crate) fn index(size: usize) -> Result<u32> {
    match u32::try_from(size) {
        Ok(size) if size < 1 << 31 => Ok(size),
        _ => candle_core::bail!("{size} elements or blocks are too many for a CUDA kernel"),
    }
}

/// `len` elements in parts of a multiple of `unit`, at most `most` of them: the length of
/// a part, and how many there are.
pub(crate) fn parts(len: usize, unit: usize, most: usize) -> (usize, usize) {
    let part = len.div_ceil(unit * most.min(MOST_PARTS)).max(1) * unit;
    (part, len.div_ceil(part))
}

/// Threads for a block that has `work` for them: a multiple of a warp.
pub(crate) fn threads(work: usize) -> usize {
    work.next_multiple_of(32).clamp(32, THREADS)
}

/// `rows` times `parts` blocks of `threads`.
pub(crate) fn grid(rows: usize, parts: usize, threads: usize) -> Result<LaunchConfig> {
    if parts > MOST_PARTS {
        candle_core::bail!("a CUDA grid of {parts} parts")
    }
    Ok(LaunchConfig {
        grid_dim: (index(rows)?, index(parts)?, 1),
        block_dim: (index(threads)?, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// Arguments that may be missing.
pub(crate) trait Args<'a> {
    /// The address of `view`, or null.
    fn optional<'b: 'a, T>(&mut self, view: Option<&'b CudaView<'b, T>>) -> &mut Self
    where
        T: DeviceRepr;
}

impl<'a> Args<'a> for LaunchArgs<'a> {
    fn optional<'b: 'a, T: DeviceRepr>(&mut self, view: Option<&'b CudaView<'b, T>>) -> &mut Self {
        /// An address is 64 bits wide.
        static NULL: u64 = 0;
        match view {
            Some(view) => self.arg(view),
            None => self.arg(&NULL),
        }
    }
}
