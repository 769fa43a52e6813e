//! Kernels, loaded once, and their launches.
//!
//! From compute capability 9.0 on a kernel may begin while the one before it still runs
//! (CUDA's programmatic dependent launch): it asks for its weights to be fetched, then waits.
//! candle's launches cannot say so, which is why these are our own.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaStream, DeviceRepr, LaunchConfig, result, sys,
};

mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// A file of kernels: its name, which no other has, and its code.
#[derive(Clone, Copy)]
pub(super) struct Module(&'static str, &'static str);

impl Module {
    pub(super) const ATTENTION: Self = Self("attention", ptx::ATTENTION);
    pub(super) const CHOOSE: Self = Self("choose", ptx::CHOOSE);
    pub(super) const LINEAR: Self = Self("linear", ptx::LINEAR);
    pub(super) const PRODUCTS: Self = Self("products", ptx::PRODUCTS);
}

/// A module in a context, which stays for as long as the process.
#[derive(Clone)]
struct Loaded {
    module: sys::CUmodule,
    /// Whether its kernels wait for those before them.
    waits: bool,
    _context: Arc<CudaContext>,
}

// SAFETY: the driver's handles are for all threads, and this one is never unloaded.
unsafe impl Send for Loaded {}

/// By device and name.
static LOADED: LazyLock<Mutex<HashMap<(usize, &str), Loaded>>> = LazyLock::new(Mutex::default);

fn load(context: &Arc<CudaContext>, module: Module) -> Result<Loaded> {
    let Ok(mut loaded) = LOADED.lock() else {
        candle_core::bail!("a thread broke off while it loaded CUDA kernels")
    };
    let key = (context.ordinal(), module.0);
    if let Some(loaded) = loaded.get(&key) {
        return Ok(loaded.clone());
    }
    context.bind_to_thread().w()?;
    let code = CString::new(module.1).map_err(candle_core::Error::wrap)?;
    // SAFETY: text of PTX that ends with a zero.
    let handle = unsafe { result::module::load_data(code.as_ptr().cast()) }.w()?;
    let new = Loaded {
        module: handle,
        waits: module.1.contains("griddepcontrol.wait"),
        _context: Arc::clone(context),
    };
    loaded.insert(key, new.clone());
    Ok(new)
}

/// A kernel, and the stream on which candle has everything else run.
pub(super) struct Kernel<'a> {
    function: sys::CUfunction,
    waits: bool,
    stream: &'a CudaStream,
}

impl<'a> Kernel<'a> {
    pub(super) fn new(stream: &'a CudaStream, module: Module, name: &str) -> Result<Self> {
        let Loaded { module, waits, .. } = load(stream.context(), module)?;
        let name = CString::new(name).map_err(candle_core::Error::wrap)?;
        // SAFETY: the module is never unloaded.
        let function = unsafe { result::module::get_function(module, name) }.w()?;
        Ok(Self { function, waits, stream })
    }

    pub(super) fn arguments(&self) -> Launch<'_> {
        Launch { kernel: self, arguments: Vec::new() }
    }
}

/// A kernel's arguments.
pub(super) struct Launch<'a> {
    kernel: &'a Kernel<'a>,
    arguments: Vec<*mut c_void>,
}

impl<'a> Launch<'a> {
    pub(super) fn arg<T: DeviceRepr>(&mut self, value: &'a T) -> &mut Self {
        self.arguments.push(std::ptr::from_ref(value).cast_mut().cast());
        self
    }

    /// # Safety
    /// The arguments have to be the kernel's, in number and types, and what they point to as
    /// large as it takes them to be; it waits, before it reads or writes anything but
    /// constants, for the kernel before it.
    pub(super) unsafe fn launch(&mut self, grid: LaunchConfig) -> Result<()> {
        let stream = self.kernel.stream;
        stream.context().bind_to_thread().w()?;
        let mut early = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.grid_dim.0,
            gridDimY: grid.grid_dim.1,
            gridDimZ: grid.grid_dim.2,
            blockDimX: grid.block_dim.0,
            blockDimY: grid.block_dim.1,
            blockDimZ: grid.block_dim.2,
            sharedMemBytes: grid.shared_mem_bytes,
            hStream: stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(self.kernel.waits),
        };
        let arguments = self.arguments.as_mut_ptr();
        // SAFETY: `config` and what it points to live until the call returns, the arguments as
        // long as this; the rest is the caller's promise.
        let launched = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.kernel.function,
                arguments,
                std::ptr::null_mut(),
            )
        };
        launched.result().w()
    }
}
