// Linear layers over a few rows, each weight read once, with the norm before them and
// what becomes of their outputs; and these two by themselves, for many rows, whose
// products are cuBLAS's.
#include "common.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;

// Of a norm: the numbers are those of `cuda/model.rs`.
enum NormKind { NO_NORM = 0, LAYER_NORM = 1, RMS_NORM = 2 };
// What becomes of an output.
enum Then { KEEP = 0, GELU = 1, ADD = 2, GATE = 3 };

__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// The norm of a row, by the `threads` neighbours of which this is number `own`; `total` adds
// up over them, and `take(i, y)` gets the row's elements.
template <typename T, typename SUM, typename F>
__device__ __forceinline__ void norm_row(const float *x, int width, int kind, const T *weight,
                                         const T *bias, float eps, int own, int threads,
                                         SUM total, F take) {
    float mean = 0.0f;
    if (kind == LAYER_NORM) {
#pragma unroll 4
        for (int i = own; i < width; i += threads) mean += x[i];
        mean = total(mean) / width;
    }
    float squares = 0.0f;
#pragma unroll 4
    for (int i = own; i < width; i += threads) squares = fmaf(x[i] - mean, x[i] - mean, squares);
    const float scale = 1.0f / sqrtf(total(squares) / width + eps);
#pragma unroll 4
    for (int i = own; i < width; i += threads) {
        const float y = (x[i] - mean) * scale * to_float(weight[i]);
        take(i, bias == nullptr ? y : y + to_float(bias[i]));
    }
}

// Has the L2 cache fetch what will be read.
__device__ __forceinline__ void prefetch(const void *line) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
#endif
}

// Rows `[rows, in]`, normed first where `kind` says so, times up to three matrices
// `[out, in]`: one for each of the grid's rows, or with GATE two of them together. An
// output for each warp. `in` is a multiple of 4; a norm's rows have to fit into the
// dynamic shared memory.
template <typename T, int ROWS, int THEN>
__device__ __forceinline__ void linear_few(
    const float *x, int rows, int in, int out, int kind, const T *norm_weight,
    const T *norm_bias, float eps, const T *w0, const T *w1, const T *w2, const T *b0,
    const T *b1, const T *b2, float *y
) {
    extern __shared__ float4 normed[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int wanted = blockIdx.x * WARPS + warp, column = min(wanted, out - 1);
    const T *weight = (blockIdx.y == 0 ? w0 : blockIdx.y == 1 ? w1 : w2) + (int64_t)column * in;
    const T *second = w1 + (int64_t)column * in;
    const T *bias = blockIdx.y == 0 ? b0 : blockIdx.y == 1 ? b1 : b2;
    const float *source = x;
    if (kind != NO_NORM) {
        // On its way while the rows are normed.
        constexpr int LINE = 128 / sizeof(T);
        for (int i = lane * LINE; i < in; i += 32 * LINE) {
            prefetch(weight + i);
            if (THEN == GATE) prefetch(second + i);
        }
        __shared__ float scratch[WARPS];
        float *to = reinterpret_cast<float *>(normed);
        auto of_warp = [](float sum) { return warp_total(sum, Add()); };
        auto of_block = [&](float sum) { return block_total(sum, Add(), scratch); };
        if (rows < WARPS) {
            for (int row = 0; row < rows; ++row)
                norm_row(x + (int64_t)row * in, in, kind, norm_weight, norm_bias, eps,
                         threadIdx.x, THREADS, of_block,
                         [&](int i, float value) { to[row * in + i] = value; });
        } else {
            for (int row = warp; row < rows; row += WARPS)
                norm_row(x + (int64_t)row * in, in, kind, norm_weight, norm_bias, eps, lane, 32,
                         of_warp, [&](int i, float value) { to[row * in + i] = value; });
        }
        __syncthreads();
        source = to;
    }
    if (wanted >= out) return;
    float sums[ROWS], others[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) sums[r] = others[r] = 0.0f;
#pragma unroll 4
    for (int i = lane * 4; i < in; i += 128) {
        const float4 w = load_four(weight + i);
        float4 u;
        if (THEN == GATE) u = load_four(second + i);
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            const float4 v =
                *reinterpret_cast<const float4 *>(source + (int64_t)min(r, rows - 1) * in + i);
            sums[r] = dot(w, v, sums[r]);
            if (THEN == GATE) others[r] = dot(u, v, others[r]);
        }
    }
    const int width = out * gridDim.y;
    const int place = blockIdx.y * out + column;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        float value = warp_total(sums[r], Add());
        const float other = THEN == GATE ? warp_total(others[r], Add()) : 0.0f;
        if (lane != r || r >= rows) continue;
        if (bias != nullptr) value += to_float(bias[column]);
        float *to = y + (int64_t)r * width + place;
        if (THEN == GELU) value = gelu(value);
        if (THEN == GATE) value = silu(value) * other;
        if (THEN == ADD) value += *to;
        *to = value;
    }
}

// `x` `[rows, width]` and what a layer made, with its bias, added to it; then the norm, in
// the weights' format, for the next product. `made` may be null. A warp for each row.
template <typename T>
__device__ __forceinline__ void add_and_norm(float *x, int rows, int width, const float *made,
                                             const T *bias, int kind, const T *norm_weight,
                                             const T *norm_bias, float eps, T *normed) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    float *own = x + (int64_t)row * width;
    if (made != nullptr) {
        for (int i = threadIdx.x % 32; i < width; i += 32) {
            const float more = bias == nullptr ? 0.0f : to_float(bias[i]);
            own[i] += made[(int64_t)row * width + i] + more;
        }
    }
    T *to = normed + (int64_t)row * width;
    norm_row(own, width, kind, norm_weight, norm_bias, eps, threadIdx.x % 32, 32,
             [](float sum) { return warp_total(sum, Add()); },
             [&](int i, float value) { to[i] = from_float<T>(value); });
}

// What is between the two halves of the feed-forward part: `gelu(made + bias)`, or with
// `up` `silu(made) * up`. A thread for each of `count` elements.
template <typename T>
__device__ __forceinline__ void activate(const float *made, const T *bias, const float *up,
                                         int width, int64_t count, T *y) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float x = made[i] + (bias == nullptr ? 0.0f : to_float(bias[i % width]));
    y[i] = from_float<T>(up == nullptr ? gelu(x) : silu(x) * up[i]);
}

#define LINEAR(T, SUFFIX, ROWS, THEN, NAME)                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) linear_##NAME##_##ROWS##_##SUFFIX(  \
        const float *x, int rows, int in, int out, int kind, const T *norm_weight,            \
        const T *norm_bias, float eps, const T *w0, const T *w1, const T *w2, const T *b0,    \
        const T *b1, const T *b2, float *y                                                    \
    ) {                                                                                       \
        linear_few<T, ROWS, THEN>(x, rows, in, out, kind, norm_weight, norm_bias, eps, w0,    \
                                  w1, w2, b0, b1, b2, y);                                     \
    }

#define LINEARS(T, SUFFIX, ROWS)                                                              \
    LINEAR(T, SUFFIX, ROWS, KEEP, keep)                                                       \
    LINEAR(T, SUFFIX, ROWS, GELU, gelu)                                                       \
    LINEAR(T, SUFFIX, ROWS, ADD, add)                                                         \
    LINEAR(T, SUFFIX, ROWS, GATE, gate)

#define KERNELS(T, SUFFIX)                                                                    \
    LINEARS(T, SUFFIX, 1)                                                                     \
    LINEARS(T, SUFFIX, 2)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) add_and_norm_##SUFFIX(              \
        float *x, int rows, int width, const float *made, const T *bias, int kind,            \
        const T *norm_weight, const T *norm_bias, float eps, T *normed                        \
    ) {                                                                                       \
        add_and_norm<T>(x, rows, width, made, bias, kind, norm_weight, norm_bias, eps,        \
                        normed);                                                              \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) activate_##SUFFIX(                  \
        const float *made, const T *bias, const float *up, int width, int64_t count, T *y     \
    ) {                                                                                       \
        activate<T>(made, bias, up, width, count, y);                                         \
    }

KERNELS(float, f32)
LINEARS(float, f32, 4)
LINEARS(float, f32, 8)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)
