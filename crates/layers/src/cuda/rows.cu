// Rows of a matrix: layer norm and RMS norm, biases, sums of columns.
#include "common.cuh"

// Mean (0 where the norm does not centre) and reciprocal standard deviation of a row.
template <typename T>
__device__ __forceinline__ float2 row_stats(const T *row, uint32_t width, bool centred,
                                            float eps) {
    constexpr int ITEMS = 8;
    Moments total = {0.0f, 0.0f, 0.0f};
    for (uint32_t tile = 0; tile < width; tile += blockDim.x * ITEMS) {
        float values[ITEMS];
        Moments own = {0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const uint32_t at = tile + i * blockDim.x + threadIdx.x;
            if (at < width) {
                values[i] = to_float(row[at]);
                own.n += 1.0f;
                own.mean += values[i];
            }
        }
        own.mean = own.n > 0.0f ? own.mean / own.n : 0.0f;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            if (tile + i * blockDim.x + threadIdx.x < width) {
                const float distance = values[i] - own.mean;
                own.m2 += distance * distance;
            }
        }
        total = combine(total, own);
    }
    total = block_total(total);
    const float variance = total.m2 / width;
    if (centred) return make_float2(total.mean, rsqrtf(variance + eps));
    return make_float2(0.0f, rsqrtf(variance + total.mean * total.mean + eps));
}

// The norm; `bias` is null where it does not centre. Grid: rows.
template <typename T>
__device__ void row_norm(const T *x, const T *weight, const T *bias, uint32_t width, float eps,
                         float2 *stats, T *y) {
    const T *row = x + (size_t)blockIdx.x * width;
    const float2 stat = row_stats(row, width, bias != nullptr, eps);
    if (threadIdx.x == 0) stats[blockIdx.x] = stat;
    T *to = y + (size_t)blockIdx.x * width;
    for (uint32_t at = threadIdx.x; at < width; at += blockDim.x) {
        float value = (to_float(row[at]) - stat.x) * stat.y * to_float(weight[at]);
        if (bias != nullptr) value += to_float(bias[at]);
        to[at] = from_float<T>(value);
    }
}

// The gradient to the input, with `plus` added where it is not null. Grid: rows.
template <typename T>
__device__ void row_norm_back(const T *x, const T *dy, const T *plus, const T *weight,
                              const float2 *stats, uint32_t width, uint32_t centred, T *dx) {
    const size_t start = (size_t)blockIdx.x * width;
    const float2 stat = stats[blockIdx.x];
    Pair sums = {0.0f, 0.0f};
    for (uint32_t at = threadIdx.x; at < width; at += blockDim.x) {
        const float g = to_float(dy[start + at]) * to_float(weight[at]);
        sums.a += g;
        sums.b += g * ((to_float(x[start + at]) - stat.x) * stat.y);
    }
    sums = block_total(sums);
    const float mean = centred ? sums.a / width : 0.0f, along = sums.b / width;
    for (uint32_t at = threadIdx.x; at < width; at += blockDim.x) {
        const float g = to_float(dy[start + at]) * to_float(weight[at]);
        const float normed = (to_float(x[start + at]) - stat.x) * stat.y;
        float value = stat.y * (g - mean - normed * along);
        if (plus != nullptr) value += to_float(plus[start + at]);
        dx[start + at] = from_float<T>(value);
    }
}

// Sums over each part of the rows, of every column of `dy`, and where `x` is not null of
// `dy` times the normed input. Grid: blocks of columns x parts; a thread for each column.
template <typename T>
__device__ void column_sums(const T *dy, const T *x, const float2 *stats, uint32_t rows,
                            uint32_t part, uint32_t width, float *sums, float *products) {
    const uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const uint32_t first = blockIdx.y * part, end = min(first + part, rows);
    float sum = 0.0f, product = 0.0f;
    for (uint32_t row = first; row < end; ++row) {
        const size_t at = (size_t)row * width + column;
        const float gradient = to_float(dy[at]);
        sum += gradient;
        if (x != nullptr) {
            const float2 stat = stats[row];
            product += gradient * ((to_float(x[at]) - stat.x) * stat.y);
        }
    }
    const size_t to = (size_t)blockIdx.y * width + column;
    sums[to] = sum;
    if (x != nullptr) products[to] = product;
}

// The sums of all parts. Grid: blocks of columns.
template <typename T>
__device__ void sum_parts(const float *sums, uint32_t parts, uint32_t width, T *to) {
    const uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    double sum = 0.0;
    for (uint32_t part = 0; part < parts; ++part) sum += sums[(size_t)part * width + column];
    to[column] = from_float<T>(sum);
}

// `x` with `bias` in every row and `residual` added, each where it is not null.
// Grid: rows x blocks of columns.
template <typename T>
__device__ void add_row(const T *x, const T *bias, const T *residual, uint32_t width, T *y) {
    const uint32_t column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const size_t at = (size_t)blockIdx.x * width + column;
    float value = to_float(x[at]);
    if (residual != nullptr) value += to_float(residual[at]);
    if (bias != nullptr) value += to_float(bias[column]);
    y[at] = from_float<T>(value);
}

#define KERNELS(T, SUFFIX)                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) row_norm_##SUFFIX(                  \
        const T *x, const T *weight, const T *bias, uint32_t width, float eps, float2 *stats, \
        T *y) {                                                                               \
        row_norm<T>(x, weight, bias, width, eps, stats, y);                                   \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) row_norm_back_##SUFFIX(             \
        const T *x, const T *dy, const T *plus, const T *weight, const float2 *stats,         \
        uint32_t width, uint32_t centred, T *dx) {                                            \
        row_norm_back<T>(x, dy, plus, weight, stats, width, centred, dx);                     \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) column_sums_##SUFFIX(               \
        const T *dy, const T *x, const float2 *stats, uint32_t rows, uint32_t part,           \
        uint32_t width, float *sums, float *products) {                                       \
        column_sums<T>(dy, x, stats, rows, part, width, sums, products);                      \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) sum_parts_##SUFFIX(                 \
        const float *sums, uint32_t parts, uint32_t width, T *to) {                           \
        sum_parts<T>(sums, parts, width, to);                                                 \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) add_row_##SUFFIX(                   \
        const T *x, const T *bias, const T *residual, uint32_t width, T *y) {                 \
        add_row<T>(x, bias, residual, width, y);                                              \
    }

KERNELS(float, f32)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)
