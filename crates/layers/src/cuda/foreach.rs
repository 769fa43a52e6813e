//! One launch for many tensors, as torch's "foreach" operations: what a training step does
//! to all parameters of a model, which are hundreds and mostly small, so that launching a
//! kernel for each takes longer than its work.
//!
//! Tensors are on one GPU; where dtypes are not spelled out they are f32. Tensors that are
//! written are those of variables or otherwise the caller's own: contiguous, each given once,
//! and changed in place. Those that are only read may have any layout. Tensors without
//! elements are left out. Results do not depend on the order in which threads finish.
//!
//! Nothing here waits for the device. A table of the tensors' addresses is uploaded for each
//! call, 56 bytes a row, because gradients are somewhere else in every step.

use candle_core::cuda_backend::cudarc::driver::PushKernelArg;
use candle_core::{DType, Result, Storage, Tensor};

use super::launch::{Module, function, grid, threads};
use super::operand::tensor;
use table::{Group, with_table};

mod table;

/// The numbers of a step of Adam that all parameters share.
#[derive(Clone, Copy, Debug)]
pub struct AdamRates {
    /// What gradients are multiplied by first.
    pub scale: f32,
    /// `1 - beta1`.
    pub gain1: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`.
    pub gain2: f32,
    /// `lr / (1 - beta1^t)`.
    pub size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

/// A parameter that Adam updates: all tensors of one shape.
#[derive(Clone, Copy, Debug)]
pub struct AdamParameter<'a> {
    /// Written.
    pub parameter: &'a Tensor,
    /// The first moment, written.
    pub first: &'a Tensor,
    /// The second moment, written.
    pub second: &'a Tensor,
    /// Read.
    pub gradient: &'a Tensor,
    /// What weight decay multiplies the parameter by; 1 for none.
    pub shrink: f32,
}

/// A step of Adam: with `g` for `scale * gradient`, and every operation rounded by itself,
///
/// `m <- m + gain1 (g - m)`, `v <- beta2 v + gain2 g g`,
/// `p <- shrink p - size (m / (sqrt(v) / root + eps))`.
///
/// With a `gate` (see [`gate`]) that is the scale instead, and where it is NaN nothing happens.
///
/// # Errors
/// If tensors of a parameter have other shapes, devices or dtypes, or one that is written is
/// not contiguous.
pub fn adam(parameters: &[AdamParameter], rates: &AdamRates, gate: Option<&Tensor>) -> Result<()> {
    let gradients = contiguous(parameters.iter().map(|p| p.gradient))?;
    let groups: Vec<_> = parameters
        .iter()
        .zip(&gradients)
        .map(|(p, gradient)| Group {
            tensors: [p.parameter, p.first, p.second, gradient],
            own: p.shrink,
        })
        .collect();
    with_table("adam", &groups, [DType::F32; 4], |table| {
        let kernel = function(&table.device, Module::FOREACH, "adam")?;
        let AdamRates { scale, gain1, beta2, gain2, size, root, eps } = rates;
        let mut launch = kernel.builder();
        launch.arg(&table.rows).arg(&table.count);
        for rate in [scale, gain1, beta2, gain2, size, root, eps] {
            launch.arg(rate);
        }
        let gate = address("adam", gate, DType::F32, 1)?;
        launch.arg(&gate);
        // SAFETY: the arguments are those of the kernel, and the gate is there until it has
        // run, which is before what is freed later; it writes what is written above, and
        // all of the table's tensors have as many elements as their row says.
        unsafe { launch.launch(table.grid()?) }?;
        Ok(())
    })?;
    Ok(())
}

/// Moves the first of each pair towards the second: `mean <- mean + gain (x - mean)`.
///
/// # Errors
/// If tensors of a pair have other shapes, devices or dtypes, or a mean is not contiguous.
pub fn follow(pairs: &[(&Tensor, &Tensor)], gain: f32) -> Result<()> {
    let values = contiguous(pairs.iter().map(|(_, x)| *x))?;
    let groups: Vec<_> = pairs
        .iter()
        .zip(&values)
        .map(|((mean, _), x)| Group { tensors: [*mean, x], own: 0.0 })
        .collect();
    with_table("follow", &groups, [DType::F32; 2], |table| {
        let kernel = function(&table.device, Module::FOREACH, "follow")?;
        let mut launch = kernel.builder();
        launch.arg(&table.rows).arg(&table.count).arg(&gain);
        // SAFETY: the arguments are those of the kernel; it writes the means, and all of the
        // table's tensors have as many elements as their row says.
        unsafe { launch.launch(table.grid()?) }?;
        Ok(())
    })?;
    Ok(())
}

/// The square root of the sum of squares of everything in `tensors`, summed in f64 in a
/// fixed order: a scalar, f64, on the device; `None` where there are no elements.
///
/// # Errors
/// If the tensors are on different devices.
pub fn norm<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Option<Tensor>> {
    let tensors = contiguous(tensors)?;
    let groups: Vec<_> =
        tensors.iter().map(|tensor| Group { tensors: [tensor], own: 0.0 }).collect();
    with_table("norm", &groups, [DType::F32], |table| {
        let device = &table.device;
        // SAFETY: every block writes its own.
        let mut sums = unsafe { device.alloc::<f64>(table.blocks)? };
        let kernel = function(device, Module::FOREACH, "squares")?;
        let mut launch = kernel.builder();
        launch.arg(&table.rows).arg(&table.count).arg(&mut sums);
        // SAFETY: the arguments are those of the kernel; there is a sum for every block, and
        // all of the table's tensors have as many elements as their row says.
        unsafe { launch.launch(table.grid()?) }?;

        // SAFETY: the kernel writes it.
        let mut root = unsafe { device.alloc::<f64>(1)? };
        let kernel = function(device, Module::FOREACH, "root_of_sums")?;
        let count = table.blocks as u64;
        let mut launch = kernel.builder();
        launch.arg(&sums).arg(&count).arg(&mut root);
        // SAFETY: the arguments are those of the kernel; there are `count` sums.
        unsafe { launch.launch(grid(1, 1, threads(table.blocks))?) }?;
        Ok(tensor(root, (), device))
    })
}

/// What a step multiplies its gradients by, so that their norm is at most `limit` (0: no
/// limit), as `torch.nn.utils.clip_grad_norm_`: `[1]`, f32, on the device; NaN where there is
/// nothing to update.
///
/// `values` `[n]`, f64, begin with `terms` numbers, of which number `norm` is the gradients'
/// norm; codes follow. There is nothing to update if a term is not finite, a code is
/// `u32::MAX`, which no codebook has, `before` (another gate) is NaN, or `limit` is.
///
/// # Errors
/// If `values` are not such, or there are fewer.
pub fn gate(
    values: &Tensor,
    terms: usize,
    norm: usize,
    limit: f64,
    before: Option<&Tensor>,
) -> Result<Tensor> {
    let count = values.elem_count();
    if terms > count || norm >= terms {
        candle_core::bail!("a gate of {terms} terms and norm {norm}, of {count} values")
    }
    let device = values.device().as_cuda_device()?;
    let from = address("gate", Some(values), DType::F64, count)?;
    let before = address("gate", before, DType::F32, 1)?;
    // SAFETY: the kernel writes it.
    let mut scale = unsafe { device.alloc::<f32>(1)? };
    let kernel = function(device, Module::FOREACH, "gate")?;
    let (terms, count, norm) = (terms as u64, count as u64, norm as u64);
    let mut launch = kernel.builder();
    launch.arg(&from).arg(&terms).arg(&count).arg(&norm).arg(&limit).arg(&before);
    launch.arg(&mut scale);
    // SAFETY: the arguments are those of the kernel; there are `count` values.
    unsafe { launch.launch(grid(1, 1, threads(count as usize))?) }?;
    Ok(tensor(scale, 1, device))
}

/// Where `tensor`, of `len` elements, begins, for a kernel on the device's one stream, on
/// which what is freed meanwhile is freed after it; 0 for none.
fn address(what: &str, tensor: Option<&Tensor>, dtype: DType, len: usize) -> Result<u64> {
    let Some(tensor) = tensor else { return Ok(0) };
    if tensor.dtype() != dtype || tensor.elem_count() != len {
        candle_core::bail!("{what}: {len} numbers of {dtype:?} are wanted, and got {tensor:?}")
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        candle_core::bail!("{what}: a tensor of another device")
    };
    let stream = storage.device.cuda_stream();
    Ok(table::address(what, storage, layout, &stream)?.0)
}

/// Writes the second of each pair to the first, which has the same shape and may have
/// another dtype: f32 to f32, f16, bf16 and f64, f16 and bf16 to f32, and f64 and u32 to
/// f64. A launch for each pair of dtypes that there is.
///
/// # Errors
/// If tensors of a pair have other shapes or devices, one that is written is not contiguous,
/// or there is no such conversion.
pub fn convert(pairs: &[(&Tensor, &Tensor)]) -> Result<()> {
    let given = contiguous(pairs.iter().map(|(_, from)| *from))?;
    let pairs: Vec<_> = pairs.iter().map(|(to, _)| *to).zip(&given).collect();
    for dtypes in CONVERSIONS {
        let is = |(to, from): &(&Tensor, &Tensor)| [to.dtype(), from.dtype()] == dtypes;
        let groups: Vec<_> = pairs
            .iter()
            .filter(|pair| is(pair))
            .map(|(to, from)| Group { tensors: [*to, *from], own: 0.0 })
            .collect();
        let name = format!("convert_{}_{}", dtypes[1].as_str(), dtypes[0].as_str());
        with_table(&name, &groups, dtypes, |table| {
            let kernel = function(&table.device, Module::FOREACH, &name)?;
            let mut launch = kernel.builder();
            launch.arg(&table.rows).arg(&table.count);
            // SAFETY: the arguments are those of the kernel; it writes the first of each pair,
            // and all of the table's tensors have as many elements as their row says.
            unsafe { launch.launch(table.grid()?) }?;
            Ok(())
        })?;
    }
    let known = |to: &Tensor, from: &Tensor| CONVERSIONS.contains(&[to.dtype(), from.dtype()]);
    match pairs.iter().find(|(to, from)| !known(to, from)) {
        Some((to, from)) => {
            candle_core::bail!("no CUDA kernel from {:?} to {:?}", from.dtype(), to.dtype())
        }
        None => Ok(()),
    }
}

/// The conversions that have kernels: to, and from.
const CONVERSIONS: [[DType; 2]; 8] = [
    [DType::F32, DType::F32],
    [DType::F16, DType::F32],
    [DType::BF16, DType::F32],
    [DType::F32, DType::F16],
    [DType::F32, DType::BF16],
    [DType::F64, DType::F32],
    [DType::F64, DType::F64],
    [DType::F64, DType::U32],
];

/// Copies of `tensors`, if any, as `dtype` (see [`convert`]), in one new allocation, which is there
/// until the last of them is dropped. Without graphs.
///
/// # Errors
/// As [`convert`].
pub fn converted(tensors: &[&Tensor], dtype: DType) -> Result<Vec<Tensor>> {
    /// Each begins at a multiple of so many elements, so that four can be loaded at once.
    const UNIT: usize = 8;
    if tensors.is_empty() {
        return Ok(Vec::new());
    }
    Ok(copies(tensors, dtype, UNIT)?.1)
}

/// All elements of `tensors` as `dtype` (see [`convert`]), one tensor after the other:
/// `[n]`, without a graph.
///
/// # Errors
/// As [`convert`].
pub fn concatenated(tensors: &[&Tensor], dtype: DType) -> Result<Tensor> {
    Ok(copies(tensors, dtype, 1)?.0)
}

/// Copies that begin at multiples of `unit` elements of a new tensor, and that tensor.
fn copies(tensors: &[&Tensor], dtype: DType, unit: usize) -> Result<(Tensor, Vec<Tensor>)> {
    let Some(first) = tensors.first() else { candle_core::bail!("copies of no tensors") };
    let room = |tensor: &Tensor| tensor.elem_count().next_multiple_of(unit);
    let total = tensors.iter().map(|tensor| room(tensor)).sum::<usize>();
    // SAFETY: conversions write all of it but for gaps, which nobody reads.
    let buffer = unsafe { Tensor::empty(total.max(1), dtype, first.device())? };
    let buffer = buffer.narrow(0, 0, total)?;
    let mut made = Vec::with_capacity(tensors.len());
    let mut start = 0;
    for tensor in tensors {
        let part = buffer.narrow(0, start, tensor.elem_count())?;
        made.push(part.reshape(tensor.shape())?);
        start += room(tensor);
    }
    let pairs: Vec<_> = made.iter().zip(tensors.iter().copied()).collect();
    convert(&pairs)?;
    Ok((buffer, made))
}

/// The same values without gaps; what has none is left as it is.
fn contiguous<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Vec<Tensor>> {
    let contiguous = |tensor: &Tensor| match tensor.elem_count() {
        0 => Ok(tensor.clone()),
        _ => tensor.contiguous(),
    };
    tensors.into_iter().map(contiguous).collect()
}
