// What goes before and after a convolution: padding and cropping, bias and residual, the
// bias's gradient; and nearest upsampling. All on `[planes, h, w]`, a block or more for
// each plane.
#include "common.cuh"

// `to[plane, y, x] = from[plane, y + dy, x + dx]`, 0 outside: with negative distances it
// pads, with positive ones it crops. Grid: rows of planes, times blocks of columns.
template <typename T>
__device__ void shift(const T *from, uint32_t h, uint32_t w, int dy, int dx, uint32_t to_h,
                      uint32_t to_w, T *to) {
    const uint32_t plane = blockIdx.x / to_h;
    const int64_t y = (int64_t)(blockIdx.x % to_h) + dy;
    const bool inside = y >= 0 && y < h;
    const T *row = from + ((size_t)plane * h + (inside ? y : 0)) * w;
    T *target = to + (size_t)blockIdx.x * to_w;
    for (uint32_t at = threadIdx.x; at < to_w; at += blockDim.x) {
        const int64_t x = (int64_t)at + dx;
        target[at] = inside && x >= 0 && x < w ? row[x] : from_float<T>(0.0f);
    }
}

// `y += bias[channel]`, and `+= residual` where it is not null. Grid: planes x parts.
template <typename T, int VEC>
__device__ void add_bias(T *y, const T *bias, const T *residual, uint32_t channels,
                         uint32_t pixels, uint32_t part) {
    const float shift = bias == nullptr ? 0.0f : to_float(bias[blockIdx.x % channels]);
    const size_t start = (size_t)blockIdx.x * pixels;
    const uint32_t first = blockIdx.y * part, end = min(first + part, pixels);
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        float values[VEC];
        load(y + start + at, values);
        if (residual != nullptr) {
            float others[VEC];
            load(residual + start + at, others);
#pragma unroll
            for (int j = 0; j < VEC; ++j) values[j] += others[j];
        }
#pragma unroll
        for (int j = 0; j < VEC; ++j) values[j] += shift;
        store(y + start + at, values);
    }
}

// Sums over each part of each plane. Grid: planes x parts.
template <typename T, int VEC>
__device__ void sums(const T *x, uint32_t pixels, uint32_t part, float *partial) {
    const size_t start = (size_t)blockIdx.x * pixels;
    const uint32_t first = blockIdx.y * part, end = min(first + part, pixels);
    Pair total = {0.0f, 0.0f};
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        float values[VEC];
        load(x + start + at, values);
#pragma unroll
        for (int j = 0; j < VEC; ++j) total.a += values[j];
    }
    total = block_total(total);
    if (threadIdx.x == 0) partial[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = total.a;
}

// The sum over pictures and parts of each channel. Grid: channels.
template <typename T>
__device__ void channel_sums(const float *partial, uint32_t batch, uint32_t channels,
                             uint32_t parts, T *to) {
    Pair total = {0.0f, 0.0f};
    const uint32_t count = batch * parts;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
        const size_t plane = (size_t)(i / parts) * channels + blockIdx.x;
        total.a += partial[plane * parts + i % parts];
    }
    total = block_total(total);
    if (threadIdx.x == 0) to[blockIdx.x] = from_float<T>(total.a);
}

// Every pixel four times. Grid: rows of the input; a thread writes two neighbours.
template <typename T>
__device__ void upsample(const T *x, uint32_t w, T *y) {
    const T *from = x + (size_t)blockIdx.x * w;
    T *above = y + (size_t)blockIdx.x * 4 * w, *below = above + 2 * (size_t)w;
    for (uint32_t at = threadIdx.x; at < w; at += blockDim.x) {
        const T value = from[at];
        const Pack<T, 2> twice = {{value, value}};
        *reinterpret_cast<Pack<T, 2> *>(above + 2 * (size_t)at) = twice;
        *reinterpret_cast<Pack<T, 2> *>(below + 2 * (size_t)at) = twice;
    }
}

// Sums of 2x2 blocks, with `plus` added where it is not null. Grid: rows of the output.
// `dy` starts at a multiple of two elements.
template <typename T>
__device__ void upsample_gradient(const T *dy, uint32_t w, const T *plus, T *dx) {
    const T *above = dy + (size_t)blockIdx.x * 4 * w, *below = above + 2 * (size_t)w;
    const size_t start = (size_t)blockIdx.x * w;
    for (uint32_t at = threadIdx.x; at < w; at += blockDim.x) {
        float a[2], b[2];
        load(above + 2 * (size_t)at, a);
        load(below + 2 * (size_t)at, b);
        float sum = (a[0] + a[1]) + (b[0] + b[1]);
        if (plus != nullptr) sum += to_float(plus[start + at]);
        dx[start + at] = from_float<T>(sum);
    }
}

#define KERNELS(T, VEC, SUFFIX)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) add_bias_##SUFFIX(                  \
        T *y, const T *bias, const T *residual, uint32_t channels, uint32_t pixels,           \
        uint32_t part) {                                                                      \
        add_bias<T, VEC>(y, bias, residual, channels, pixels, part);                          \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) plane_sums_##SUFFIX(                \
        const T *x, uint32_t pixels, uint32_t part, float *partial) {                         \
        sums<T, VEC>(x, pixels, part, partial);                                               \
    }

FOR_ALL_TYPES(KERNELS)

#define ROWS(T, SUFFIX)                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) shift_##SUFFIX(                     \
        const T *from, uint32_t h, uint32_t w, int dy, int dx, uint32_t to_h, uint32_t to_w,  \
        T *to) {                                                                              \
        shift<T>(from, h, w, dy, dx, to_h, to_w, to);                                         \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) channel_sums_##SUFFIX(              \
        const float *partial, uint32_t batch, uint32_t channels, uint32_t parts, T *to) {     \
        channel_sums<T>(partial, batch, channels, parts, to);                                 \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) upsample_##SUFFIX(                  \
        const T *x, uint32_t w, T *y) {                                                       \
        upsample<T>(x, w, y);                                                                 \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) upsample_gradient_##SUFFIX(         \
        const T *dy, uint32_t w, const T *plus, T *dx) {                                      \
        upsample_gradient<T>(dy, w, plus, dx);                                                \
    }

ROWS(float, f32)
ROWS(__half, f16)
ROWS(__nv_bfloat16, bf16)
