//! cuDNN's convolutions, for tensors that lie in memory without gaps.
//!
//! Handles may not leave their thread, so each thread has its own, and with it the
//! algorithms that cuDNN's heuristics chose for the problems it has met.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda::DeviceId;
use candle_core::cuda_backend::cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t as DataAlgorithm,
    cudnnConvolutionBwdFilterAlgo_t as FilterAlgorithm,
    cudnnConvolutionFwdAlgo_t as ForwardAlgorithm, cudnnConvolutionMode_t as Mode,
    cudnnMathType_t as MathType, cudnnTensorFormat_t as Format,
};
use candle_core::cuda_backend::cudarc::cudnn::{
    ConvBackwardData, ConvBackwardFilter, ConvDescriptor, ConvForward, Cudnn, CudnnError,
    FilterDescriptor, TensorDescriptor,
};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaView, CudaViewMut};
use candle_core::{CudaDevice, Error};

use crate::cuda::{Element, tf32_is_allowed};

type Result<T, E = Error> = std::result::Result<T, E>;

/// More workspace than an algorithm may have, in bytes: those that want it (FFTs of large
/// pictures) are hardly faster than those that do without.
const MOST_WORKSPACE: usize = 1 << 30;

/// A convolution with the same padding on opposite sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    /// `[B, in, H, W]`.
    pub input: [usize; 4],
    /// `[out, in, kh, kw]`.
    pub weight: [usize; 4],
    /// `[B, out, H', W']`.
    pub output: [usize; 4],
    /// Rows and columns on each side.
    pub padding: [usize; 2],
    pub stride: usize,
}

/// What an algorithm is chosen for: the problem, the element type, TF32 or not.
type Key = (Problem, &'static str, bool);

/// A thread's handle on a device, with the algorithms and bytes of workspace it chose.
struct Handle {
    cudnn: Arc<Cudnn>,
    forward: HashMap<Key, (ForwardAlgorithm, usize)>,
    data: HashMap<Key, (DataAlgorithm, usize)>,
    filter: HashMap<Key, (FilterAlgorithm, usize)>,
}

thread_local! {
    static HANDLES: RefCell<HashMap<DeviceId, Handle>> = RefCell::default();
}

/// Calls `f` with this thread's handle on `device`.
fn with_handle<T>(
    device: &CudaDevice,
    problem: &Problem,
    f: impl FnOnce(&mut Handle) -> Result<T>,
) -> Result<T> {
    HANDLES.with(|handles| {
        let mut handles = handles.borrow_mut();
        let handle = match handles.entry(device.id()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let cudnn = Cudnn::new(device.cuda_stream())?;
                let (forward, data, filter) = Default::default();
                entry.insert(Handle { cudnn, forward, data, filter })
            }
        };
        f(handle).map_err(|error| Error::Msg(format!("cuDNN, {problem:?}: {error}")))
    })
}

/// Descriptions of a problem's tensors.
struct Descriptors<T> {
    conv: ConvDescriptor<f32>,
    input: TensorDescriptor<T>,
    weight: FilterDescriptor<T>,
    output: TensorDescriptor<T>,
    key: Key,
}

impl<T: Element> Descriptors<T> {
    fn new(cudnn: &Arc<Cudnn>, problem: &Problem) -> Result<Self> {
        let number = |size: usize| {
            let too_large =
                |_| Error::Msg(format!("cuDNN takes no tensor as large as {problem:?}"));
            i32::try_from(size).map_err(too_large)
        };
        let four = |sizes: [usize; 4]| -> Result<[i32; 4]> {
            let [a, b, c, d] = sizes.map(number);
            Ok([a?, b?, c?, d?])
        };
        let [padding_y, padding_x] = problem.padding.map(number);
        let (padding, stride) = ([padding_y?, padding_x?], number(problem.stride)?);
        let mode = Mode::CUDNN_CROSS_CORRELATION;
        // Sums in f32 for every type.
        let mut conv = cudnn.create_conv2d::<f32>(padding, [stride; 2], [1; 2], mode)?;
        let tensor_cores = T::SUFFIX != f32::SUFFIX || tf32_is_allowed();
        conv.set_math_type(if tensor_cores {
            MathType::CUDNN_TENSOR_OP_MATH
        } else {
            // Anything else may round f32 to TF32.
            MathType::CUDNN_FMA_MATH
        })?;
        let format = Format::CUDNN_TENSOR_NCHW;
        Ok(Self {
            conv,
            input: cudnn.create_4d_tensor(format, four(problem.input)?)?,
            weight: cudnn.create_4d_filter(format, four(problem.weight)?)?,
            output: cudnn.create_4d_tensor(format, four(problem.output)?)?,
            key: (*problem, T::SUFFIX, tensor_cores),
        })
    }
}

/// Memory that an algorithm works in.
fn workspace(device: &CudaDevice, bytes: usize) -> Result<Option<CudaSlice<u8>>> {
    // SAFETY: cuDNN reads no more of it than it has written.
    (bytes > 0).then(|| unsafe { device.alloc::<u8>(bytes) }).transpose()
}

/// What heuristics `picked`, with the bytes of workspace it takes, or the `other` where that
/// one does not add in a fixed order or wants too much, if the other can do it.
fn choose<A: Copy>(
    picked: A,
    other: A,
    ordered: bool,
    bytes: impl Fn(A) -> Result<usize, CudnnError>,
) -> Result<(A, usize), CudnnError> {
    let own = bytes(picked)?;
    if ordered && own <= MOST_WORKSPACE {
        return Ok((picked, own));
    }
    match bytes(other) {
        Ok(others) if !ordered || others < own => Ok((other, others)),
        _ => Ok((picked, own)),
    }
}

/// The convolution of `x` with `weight`, written to `y`.
pub(super) fn forward<T: Element>(
    device: &CudaDevice,
    problem: &Problem,
    x: &CudaView<T>,
    weight: &CudaView<T>,
    y: &mut CudaViewMut<T>,
) -> Result<()> {
    with_handle(device, problem, |handle| {
        let d = Descriptors::<T>::new(&handle.cudnn, problem)?;
        let op = ConvForward { conv: &d.conv, x: &d.input, w: &d.weight, y: &d.output };
        let (algorithm, bytes) = match handle.forward.get(&d.key) {
            Some(&chosen) => chosen,
            None => {
                let other = ForwardAlgorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
                let picked = op.pick_algorithm()?;
                let chosen = choose(picked, other, true, |a| op.get_workspace_size(a))?;
                handle.forward.insert(d.key, chosen);
                chosen
            }
        };
        let mut space = workspace(device, bytes)?;
        // SAFETY: the descriptors are those of the views, see `check`.
        unsafe {
            check(problem, x.len(), weight.len(), y.len())?;
            op.launch(algorithm, space.as_mut(), (T::ONE, T::ZERO), x, weight, y)?;
        }
        Ok(())
    })
}

/// The gradient to the input for that of the output, `dy`, written to `dx`.
pub(super) fn input_gradient<T: Element>(
    device: &CudaDevice,
    problem: &Problem,
    dx: &mut CudaViewMut<T>,
    weight: &CudaView<T>,
    dy: &CudaView<T>,
) -> Result<()> {
    with_handle(device, problem, |handle| {
        let d = Descriptors::<T>::new(&handle.cudnn, problem)?;
        let op = ConvBackwardData { conv: &d.conv, dx: &d.input, w: &d.weight, dy: &d.output };
        let (algorithm, bytes) = match handle.data.get(&d.key) {
            Some(&chosen) => chosen,
            None => {
                use DataAlgorithm as A;
                let picked = op.pick_algorithm()?;
                // Algorithm 0 adds in whatever order.
                let ordered = picked != A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0;
                let other = A::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
                let chosen = choose(picked, other, ordered, |a| op.get_workspace_size(a))?;
                handle.data.insert(d.key, chosen);
                chosen
            }
        };
        let mut space = workspace(device, bytes)?;
        // SAFETY: the descriptors are those of the views, see `check`.
        unsafe {
            check(problem, dx.len(), weight.len(), dy.len())?;
            op.launch(algorithm, space.as_mut(), (T::ONE, T::ZERO), dx, weight, dy)?;
        }
        Ok(())
    })
}

/// The gradient to the weight for that of the output, `dy`, written to `dw` or, where it
/// `adds`, added to it.
pub(super) fn weight_gradient<T: Element>(
    device: &CudaDevice,
    problem: &Problem,
    x: &CudaView<T>,
    dw: &mut CudaSlice<T>,
    dy: &CudaView<T>,
    adds: bool,
) -> Result<()> {
    with_handle(device, problem, |handle| {
        let d = Descriptors::<T>::new(&handle.cudnn, problem)?;
        let op = ConvBackwardFilter { conv: &d.conv, x: &d.input, dw: &d.weight, dy: &d.output };
        let (algorithm, bytes) = match handle.filter.get(&d.key) {
            Some(&chosen) => chosen,
            None => {
                use FilterAlgorithm as A;
                let picked = op.pick_algorithm()?;
                // Algorithms 0 and 3 add in whatever order.
                let ordered = picked != A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0
                    && picked != A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3;
                let other = A::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
                let chosen = choose(picked, other, ordered, |a| op.get_workspace_size(a))?;
                handle.filter.insert(d.key, chosen);
                chosen
            }
        };
        let mut space = workspace(device, bytes)?;
        let blend = (T::ONE, if adds { T::ONE } else { T::ZERO });
        // SAFETY: the descriptors are those of the views, see `check`.
        unsafe {
            check(problem, x.len(), dw.len(), dy.len())?;
            op.launch(algorithm, space.as_mut(), blend, x, dw, dy)?;
        }
        Ok(())
    })
}

/// Whether there are as many elements as the descriptors say.
fn check(problem: &Problem, input: usize, weight: usize, output: usize) -> Result<()> {
    let count = |sizes: [usize; 4]| sizes.iter().product::<usize>();
    if [input, weight, output] != [problem.input, problem.weight, problem.output].map(count) {
        candle_core::bail!("conv2d: {input}, {weight} and {output} elements for {problem:?}")
    }
    Ok(())
}
