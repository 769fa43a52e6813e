//! The driver's pool of device memory.

use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{CudaDevice, Result};

/// Lets the driver keep freed memory: see [`super::prepare`].
pub(super) fn keep(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread()?;
    let mut most = u64::MAX;
    // SAFETY: the device is one that the driver gave; the attribute is a number of 64 bits,
    // which the driver copies.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, attribute, (&raw mut most).cast())?;
    }
    Ok(())
}

/// See [`super::peak_bytes`].
pub(super) fn peak_bytes(device: &CudaDevice) -> Result<u64> {
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread()?;
    let mut peak = 0u64;
    // SAFETY: as above; the driver writes a number of 64 bits.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut peak).cast())?;
    }
    Ok(peak)
}
