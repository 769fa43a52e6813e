// Group norm, alone or with SiLU behind it, forward and backward. A group is `len`
// neighbouring elements, `group_channels` planes of `pixels`; grids have a row of blocks
// for each group of each picture, because few large groups must still fill the device.
#include "common.cuh"

// Mean and squared distances of each part of each group. Grid: groups x parts.
template <typename T, int VEC>
__device__ void moments(const T *x, uint32_t len, uint32_t part, float2 *partial) {
    // Elements that a thread holds at a time, to go over them twice.
    constexpr int ITEMS = 16 / VEC;
    const T *group = x + (size_t)blockIdx.x * len;
    const uint32_t first = blockIdx.y * part, end = min(first + part, len);
    Moments total = {0.0f, 0.0f, 0.0f};
    for (uint32_t tile = first; tile < end; tile += blockDim.x * VEC * ITEMS) {
        float values[ITEMS][VEC];
        Moments own = {0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const uint32_t at = tile + (i * blockDim.x + threadIdx.x) * VEC;
            if (at < end) {
                load(group + at, values[i]);
                own.n += VEC;
#pragma unroll
                for (int j = 0; j < VEC; ++j) own.mean += values[i][j];
            }
        }
        own.mean = own.n > 0.0f ? own.mean / own.n : 0.0f;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const uint32_t at = tile + (i * blockDim.x + threadIdx.x) * VEC;
            if (at < end) {
#pragma unroll
                for (int j = 0; j < VEC; ++j) {
                    const float distance = values[i][j] - own.mean;
                    own.m2 += distance * distance;
                }
            }
        }
        total = combine(total, own);
    }
    total = block_total(total);
    if (threadIdx.x == 0)
        partial[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = make_float2(total.mean, total.m2);
}

// Mean and reciprocal standard deviation of this block's group, from its parts, of which
// there are at most as many as threads. All threads must take part.
__device__ __forceinline__ float2 whole(const float2 *partial, uint32_t parts, uint32_t part,
                                        uint32_t len, float eps) {
    Moments total = {0.0f, 0.0f, 0.0f};
    if (threadIdx.x < parts) {
        const float2 own = partial[(size_t)blockIdx.x * parts + threadIdx.x];
        total = {(float)min(part, len - threadIdx.x * part), own.x, own.y};
    }
    total = block_total(total);
    return make_float2(total.mean, rsqrtf(total.m2 / total.n + eps));
}

// The norm. `parts` 0: `partial` has mean and reciprocal deviation of each group of any
// picture. Otherwise the block of each group's first part leaves them in `stats`.
// Grid: groups x parts.
template <typename T, int VEC, bool SILU>
__device__ void apply(const T *x, const T *weight, const T *bias, const float2 *partial,
                      uint32_t parts, uint32_t part, uint32_t len, uint32_t pixels,
                      uint32_t group_channels, uint32_t groups, float eps, float2 *stats, T *y) {
    const uint32_t group = blockIdx.x % groups;
    const float2 stat =
        parts == 0 ? partial[group] : whole(partial, parts, part, len, eps);
    if (parts != 0 && blockIdx.y == 0 && threadIdx.x == 0) stats[blockIdx.x] = stat;
    const size_t start = (size_t)blockIdx.x * len;
    const uint32_t first = blockIdx.y * part, end = min(first + part, len);
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        const uint32_t channel = group * group_channels + at / pixels;
        const float scale = stat.y * to_float(weight[channel]), shift = to_float(bias[channel]);
        float values[VEC];
        load(x + start + at, values);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float z = (values[j] - stat.x) * scale + shift;
            values[j] = SILU ? z * sigmoid(z) : z;
        }
        store(y + start + at, values);
    }
}

// The gradient to the affine map's output, from that to what is behind SiLU.
template <bool SILU> __device__ __forceinline__ float through_silu(float dy, float z) {
    if (!SILU) return dy;
    const float s = sigmoid(z);
    return dy * s * (1.0f + z * (1.0f - s));
}

// Sums over each part of each plane, of the gradient to the affine map's output times the
// normalised input, and alone. Grid: planes x parts.
template <typename T, int VEC, bool SILU>
__device__ void plane_sums(const T *x, const T *dy, const T *weight, const T *bias,
                           const float2 *stats, uint32_t pixels, uint32_t part,
                           uint32_t group_channels, uint32_t channels, float2 *partial) {
    const float2 stat = stats[blockIdx.x / group_channels];
    const uint32_t channel = blockIdx.x % channels;
    const float scale = stat.y * to_float(weight[channel]), shift = to_float(bias[channel]);
    const size_t start = (size_t)blockIdx.x * pixels;
    const uint32_t first = blockIdx.y * part, end = min(first + part, pixels);
    Pair sums = {0.0f, 0.0f};
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        float values[VEC], gradients[VEC];
        load(x + start + at, values);
        load(dy + start + at, gradients);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float centred = values[j] - stat.x;
            const float dz = through_silu<SILU>(gradients[j], centred * scale + shift);
            sums.a += dz * (centred * stat.y);
            sums.b += dz;
        }
    }
    sums = block_total(sums);
    if (threadIdx.x == 0)
        partial[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = make_float2(sums.a, sums.b);
}

// The sums of whole planes, and per group what mean and variance pass on: the means over
// the group of the gradient to the normalised input, and of that times this input.
// Grid: groups; one warp.
template <typename T>
__device__ void group_sums(const float2 *partial, uint32_t parts, const T *weight,
                           uint32_t group_channels, uint32_t groups, uint32_t len,
                           float2 *planes, float2 *through) {
    double through_mean = 0.0, through_variance = 0.0;
    for (uint32_t i = threadIdx.x; i < group_channels; i += 32) {
        const size_t plane = (size_t)blockIdx.x * group_channels + i;
        double a = 0.0, b = 0.0;
        for (uint32_t p = 0; p < parts; ++p) {
            const float2 own = partial[plane * parts + p];
            a += own.x;
            b += own.y;
        }
        planes[plane] = make_float2(a, b);
        const double w = to_float(weight[blockIdx.x % groups * group_channels + i]);
        through_variance += w * a;
        through_mean += w * b;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        through_variance += __shfl_xor_sync(~0u, through_variance, distance);
        through_mean += __shfl_xor_sync(~0u, through_mean, distance);
    }
    if (threadIdx.x == 0)
        through[blockIdx.x] = make_float2(through_mean / len, through_variance / len);
}

// The gradients to weight and bias: sums of planes over pictures, in order.
// Grid: a thread for each channel.
template <typename T>
__device__ void parameters(const float2 *planes, uint32_t batch, uint32_t channels, T *dweight,
                           T *dbias) {
    const uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels) return;
    double a = 0.0, b = 0.0;
    for (uint32_t picture = 0; picture < batch; ++picture) {
        const float2 own = planes[(size_t)picture * channels + channel];
        a += own.x;
        b += own.y;
    }
    dweight[channel] = from_float<T>(a);
    dbias[channel] = from_float<T>(b);
}

// The gradient to the input, with `plus` added where it is not null.
// Grid: groups x parts.
template <typename T, int VEC, bool SILU>
__device__ void input_gradient(const T *x, const T *dy, const T *plus, const T *weight,
                               const T *bias, const float2 *stats, const float2 *through,
                               uint32_t part, uint32_t len, uint32_t pixels,
                               uint32_t group_channels, uint32_t groups, T *dx) {
    const float2 stat = stats[blockIdx.x], passed = through[blockIdx.x];
    const size_t start = (size_t)blockIdx.x * len;
    const uint32_t first = blockIdx.y * part, end = min(first + part, len);
    for (uint32_t at = first + threadIdx.x * VEC; at < end; at += blockDim.x * VEC) {
        const uint32_t channel = blockIdx.x % groups * group_channels + at / pixels;
        const float w = to_float(weight[channel]), shift = to_float(bias[channel]);
        float values[VEC], gradients[VEC];
        load(x + start + at, values);
        load(dy + start + at, gradients);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float normed = (values[j] - stat.x) * stat.y;
            const float dz = through_silu<SILU>(gradients[j], normed * w + shift);
            values[j] = stat.y * (dz * w - passed.x - normed * passed.y);
        }
        if (plus != nullptr) {
            load(plus + start + at, gradients);
#pragma unroll
            for (int j = 0; j < VEC; ++j) values[j] += gradients[j];
        }
        store(dx + start + at, values);
    }
}

#define KERNELS(T, VEC, SUFFIX)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) group_moments_##SUFFIX(             \
        const T *x, uint32_t len, uint32_t part, float2 *partial) {                           \
        moments<T, VEC>(x, len, part, partial);                                               \
    }                                                                                         \
    WITH_SILU(T, VEC, SUFFIX, group_norm_, false)                                             \
    WITH_SILU(T, VEC, SUFFIX, group_norm_silu_, true)

#define WITH_SILU(T, VEC, SUFFIX, NAME, SILU)                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME##apply_##SUFFIX(               \
        const T *x, const T *weight, const T *bias, const float2 *partial, uint32_t parts,    \
        uint32_t part, uint32_t len, uint32_t pixels, uint32_t group_channels,                \
        uint32_t groups, float eps, float2 *stats, T *y) {                                    \
        apply<T, VEC, SILU>(x, weight, bias, partial, parts, part, len, pixels,               \
                            group_channels, groups, eps, stats, y);                           \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME##plane_sums_##SUFFIX(          \
        const T *x, const T *dy, const T *weight, const T *bias, const float2 *stats,         \
        uint32_t pixels, uint32_t part, uint32_t group_channels, uint32_t channels,           \
        float2 *partial) {                                                                    \
        plane_sums<T, VEC, SILU>(x, dy, weight, bias, stats, pixels, part, group_channels,    \
                                 channels, partial);                                          \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME##input_gradient_##SUFFIX(      \
        const T *x, const T *dy, const T *plus, const T *weight, const T *bias,               \
        const float2 *stats, const float2 *through, uint32_t part, uint32_t len,              \
        uint32_t pixels, uint32_t group_channels, uint32_t groups, T *dx) {                   \
        input_gradient<T, VEC, SILU>(x, dy, plus, weight, bias, stats, through, part, len,    \
                                     pixels, group_channels, groups, dx);                     \
    }

FOR_ALL_TYPES(KERNELS)

#define SUMS(T, SUFFIX)                                                                       \
    extern "C" __global__ void group_sums_##SUFFIX(                                           \
        const float2 *partial, uint32_t parts, const T *weight, uint32_t group_channels,      \
        uint32_t groups, uint32_t len, float2 *planes, float2 *through) {                     \
        group_sums<T>(partial, parts, weight, group_channels, groups, len, planes, through);  \
    }                                                                                         \
    extern "C" __global__ void group_parameters_##SUFFIX(                                     \
        const float2 *planes, uint32_t batch, uint32_t channels, T *dweight, T *dbias) {      \
        parameters<T>(planes, batch, channels, dweight, dbias);                               \
    }

SUMS(float, f32)
SUMS(__half, f16)
SUMS(__nv_bfloat16, bf16)
