// Batch norm by the statistics of a batch, with a leaky ReLU, in f32: planes of `pixels`,
// each channel with one plane in every picture.
#include "common.cuh"

// Statistics of channels from those of parts of planes, which `group_moments` finds: mean
// and reciprocal deviation in `stats`; mean, and variance by the number of values less
// one, for whoever learns them. Grid: channels.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_stats(const float2 *partial, uint32_t batch, uint32_t channels, uint32_t pixels,
                uint32_t parts, uint32_t part, float eps, float2 *stats, float *means,
                float *variances) {
    Moments total = {0.0f, 0.0f, 0.0f};
    for (uint32_t i = threadIdx.x; i < batch * parts; i += blockDim.x) {
        const size_t plane = (size_t)(i / parts) * channels + blockIdx.x;
        const uint32_t which = i % parts;
        const float2 own = partial[plane * parts + which];
        total = combine(total, Moments{(float)min(part, pixels - which * part), own.x, own.y});
    }
    total = block_total(total);
    if (threadIdx.x == 0) {
        stats[blockIdx.x] = make_float2(total.mean, rsqrtf(total.m2 / total.n + eps));
        means[blockIdx.x] = total.mean;
        variances[blockIdx.x] = total.m2 / (total.n - 1.0f);
    }
}

// The norm and what follows it. Grid: planes x parts.
template <int VEC>
__device__ void apply(const float *x, const float *weight, const float *bias,
                      const float2 *stats, uint32_t channels, uint32_t pixels, uint32_t part,
                      float slope, float *y) {
    const uint32_t channel = blockIdx.x % channels;
    const float2 stat = stats[channel];
    const float scale = stat.y * weight[channel], shift = bias[channel];
    const size_t start = (size_t)blockIdx.x * pixels;
    const uint32_t first = blockIdx.y * part, end = min(first + part, pixels);
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        float values[VEC];
        load(x + start + at, values);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float z = (values[j] - stat.x) * scale + shift;
            values[j] = z > 0.0f ? z : z * slope;
        }
        store(y + start + at, values);
    }
}

// Sums over each part of each plane, of the gradient to the affine map's output times the
// normalised input, and alone. Grid: planes x parts.
template <int VEC>
__device__ void plane_sums(const float *x, const float *dy, const float *weight,
                           const float *bias, const float2 *stats, uint32_t channels,
                           uint32_t pixels, uint32_t part, float slope, float2 *partial) {
    const uint32_t channel = blockIdx.x % channels;
    const float2 stat = stats[channel];
    const float w = weight[channel], shift = bias[channel];
    const size_t start = (size_t)blockIdx.x * pixels;
    const uint32_t first = blockIdx.y * part, end = min(first + part, pixels);
    Pair sums = {0.0f, 0.0f};
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        float values[VEC], gradients[VEC];
        load(x + start + at, values);
        load(dy + start + at, gradients);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float normed = (values[j] - stat.x) * stat.y;
            const float dz =
                normed * w + shift > 0.0f ? gradients[j] : gradients[j] * slope;
            sums.a += dz * normed;
            sums.b += dz;
        }
    }
    sums = block_total(sums);
    if (threadIdx.x == 0)
        partial[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = make_float2(sums.a, sums.b);
}

// The gradients to weight and bias: sums over pictures and parts. Grid: channels.
extern "C" __global__ void __launch_bounds__(THREADS)
    batch_parameters(const float2 *partial, uint32_t batch, uint32_t channels, uint32_t parts,
                     float *dweight, float *dbias) {
    Pair total = {0.0f, 0.0f};
    for (uint32_t i = threadIdx.x; i < batch * parts; i += blockDim.x) {
        const size_t plane = (size_t)(i / parts) * channels + blockIdx.x;
        const float2 own = partial[plane * parts + i % parts];
        total = combine(total, Pair{own.x, own.y});
    }
    total = block_total(total);
    if (threadIdx.x == 0) {
        dweight[blockIdx.x] = total.a;
        dbias[blockIdx.x] = total.b;
    }
}

// The gradient to the input, with `plus` added where it is not null; `count` values are in
// a channel. Grid: planes x parts.
template <int VEC>
__device__ void input_gradient(const float *x, const float *dy, const float *plus,
                               const float *weight, const float *bias, const float2 *stats,
                               const float *dweight, const float *dbias, uint32_t channels,
                               uint32_t pixels, uint32_t part, float slope, float count,
                               float *dx) {
    const uint32_t channel = blockIdx.x % channels;
    const float2 stat = stats[channel];
    const float w = weight[channel], shift = bias[channel];
    const float along = dweight[channel] / count, mean = dbias[channel] / count;
    const size_t start = (size_t)blockIdx.x * pixels;
    const uint32_t first = blockIdx.y * part, end = min(first + part, pixels);
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        float values[VEC], gradients[VEC];
        load(x + start + at, values);
        load(dy + start + at, gradients);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float normed = (values[j] - stat.x) * stat.y;
            const float dz =
                normed * w + shift > 0.0f ? gradients[j] : gradients[j] * slope;
            values[j] = stat.y * w * (dz - mean - normed * along);
        }
        if (plus != nullptr) {
            load(plus + start + at, gradients);
#pragma unroll
            for (int j = 0; j < VEC; ++j) values[j] += gradients[j];
        }
        store(dx + start + at, values);
    }
}

#define KERNELS(VEC)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_apply_##VEC(             \
        const float *x, const float *weight, const float *bias, const float2 *stats,          \
        uint32_t channels, uint32_t pixels, uint32_t part, float slope, float *y) {           \
        apply<VEC>(x, weight, bias, stats, channels, pixels, part, slope, y);                 \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_plane_sums_##VEC(        \
        const float *x, const float *dy, const float *weight, const float *bias,              \
        const float2 *stats, uint32_t channels, uint32_t pixels, uint32_t part, float slope,  \
        float2 *partial) {                                                                    \
        plane_sums<VEC>(x, dy, weight, bias, stats, channels, pixels, part, slope, partial);  \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) batch_norm_input_gradient_##VEC(    \
        const float *x, const float *dy, const float *plus, const float *weight,              \
        const float *bias, const float2 *stats, const float *dweight, const float *dbias,     \
        uint32_t channels, uint32_t pixels, uint32_t part, float slope, float count,          \
        float *dx) {                                                                          \
        input_gradient<VEC>(x, dy, plus, weight, bias, stats, dweight, dbias, channels,       \
                            pixels, part, slope, count, dx);                                  \
    }

KERNELS(1)
KERNELS(4)
