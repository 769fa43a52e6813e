// Linear layers over a few rows, each weight read once, with the norm before them and
// what becomes of their outputs; and these two by themselves, for more rows.
#include "common.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;

// Of a norm: the numbers are those of `cuda/model.rs`.
enum NormKind { NO_NORM = 0, LAYER_NORM = 1, RMS_NORM = 2 };

// What a norm subtracts from a row's elements, and multiplies them with.
struct Centre {
    float mean, scale;
};

// That of a row, by `NEIGHBOURS` threads of which this is number `own`; `total` adds up over
// them. `width` is a multiple of 4.
template <int NEIGHBOURS, typename SUM>
__device__ __forceinline__ Centre centre(const float *x, int width, int kind, float eps, int own,
                                         SUM total) {
    constexpr int AT_ONCE = 8, STEP = 4 * NEIGHBOURS;
    auto sum = [&](auto of) {
        float sum = 0.0f;
        for (int begin = 4 * own; begin < width; begin += AT_ONCE * STEP) {
            float4 some[AT_ONCE];
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n)
                if (begin + n * STEP < width)
                    some[n] = *reinterpret_cast<const float4 *>(x + begin + n * STEP);
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n)
                if (begin + n * STEP < width) sum = of(some[n], sum);
        }
        return total(sum);
    };
    float mean = 0.0f;
    if (kind == LAYER_NORM)
        mean = sum([](float4 v, float sum) { return sum + ((v.x + v.y) + (v.z + v.w)); }) / width;
    const float squares = sum([&](float4 v, float sum) {
        v = make_float4(v.x - mean, v.y - mean, v.z - mean, v.w - mean);
        return dot(v, v, sum);
    });
    return {mean, 1.0f / sqrtf(squares / width + eps)};
}

// A norm of four neighbours.
template <typename T>
__device__ __forceinline__ float4 normed(float4 x, Centre c, const T *weight, const T *bias) {
    const float4 w = load_four(weight);
    x = make_float4((x.x - c.mean) * c.scale * w.x, (x.y - c.mean) * c.scale * w.y,
                    (x.z - c.mean) * c.scale * w.z, (x.w - c.mean) * c.scale * w.w);
    if (bias == nullptr) return x;
    const float4 b = load_four(bias);
    return make_float4(x.x + b.x, x.y + b.y, x.z + b.z, x.w + b.w);
}

// Rows `[rows, in]`, normed first where `kind` says so, times up to three matrices
// `[out, in]`: one for each of the grid's rows, or with GATE two of them together. An
// output for each warp, which finds out for itself what the norm is. `in` is a multiple of 4.
template <typename T, int ROWS, int THEN>
__device__ __forceinline__ void linear_few(
    const float *x, int rows, int in, int out, int kind, const T *norm_weight,
    const T *norm_bias, float eps, const T *w0, const T *w1, const T *w2, const T *b0,
    const T *b1, const T *b2, float *y
) {
    constexpr int MATRICES = THEN == GATE ? 2 : 1;
    // Weights that a thread has asked for, four neighbours each.
    constexpr int AT_ONCE = sizeof(T) == 4 ? 4 : 8, STEP = 128;
    const int lane = threadIdx.x % 32;
    const int wanted = blockIdx.x * WARPS + threadIdx.x / 32, column = min(wanted, out - 1);
    const T *weights[2] = {blockIdx.y == 0 ? w0 : blockIdx.y == 1 ? w1 : w2, w1};
    const T *bias = blockIdx.y == 0 ? b0 : blockIdx.y == 1 ? b1 : b2;
    Four<T> some[MATRICES][AT_ONCE];
    auto ask = [&](int begin) {
#pragma unroll
        for (int matrix = 0; matrix < MATRICES; ++matrix)
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n)
                if (begin + n * STEP < in)
                    some[matrix][n] = *reinterpret_cast<const Four<T> *>(
                        weights[matrix] + (int64_t)column * in + begin + n * STEP);
    };
    // The first are on their way while the kernel before still runs, and so are those behind
    // them, as far as the L2 cache.
    ask(4 * lane);
    for (int matrix = 0; matrix < MATRICES; ++matrix)
        for (int i = AT_ONCE * STEP + lane * (128 / (int)sizeof(T)); i < in;
             i += 32 * (128 / (int)sizeof(T)))
            prefetch(weights[matrix] + (int64_t)column * in + i);
    after_others();

    Centre centres[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
        if (kind != NO_NORM && r < rows)
            centres[r] = centre<32>(x + (int64_t)r * in, in, kind, eps, lane,
                                    [](float sum) { return warp_total(sum, Add()); });
    float sums[MATRICES][ROWS] = {};
    for (int begin = 4 * lane; begin < in; begin += AT_ONCE * STEP) {
        if (begin != 4 * lane) ask(begin);
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n) {
            const int i = begin + n * STEP;
            if (i >= in) continue;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                if (r >= rows) continue;
                float4 v = *reinterpret_cast<const float4 *>(x + (int64_t)r * in + i);
                if (kind != NO_NORM)
                    v = normed(v, centres[r], norm_weight + i,
                               norm_bias == nullptr ? nullptr : norm_bias + i);
#pragma unroll
                for (int matrix = 0; matrix < MATRICES; ++matrix)
                    sums[matrix][r] = dot(to_floats(some[matrix][n]), v, sums[matrix][r]);
            }
        }
    }
    const int width = out * gridDim.y;
    const int place = blockIdx.y * out + column;
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        float value = warp_total(sums[0][r], Add());
        const float other = THEN == GATE ? warp_total(sums[MATRICES - 1][r], Add()) : 0.0f;
        if (lane != r || r >= rows || wanted >= out) continue;
        if (bias != nullptr) value += to_float(bias[column]);
        float *to = y + (int64_t)r * width + place;
        if (THEN == GELU) value = gelu(value);
        if (THEN == GATE) value = silu(value) * other;
        if (THEN == ADD) value += *to;
        *to = value;
    }
}

// `x` `[rows, width]` and what a layer made, with its bias, added to it; then the norm, in
// the weights' format, for the next product. `made` may be null. A block for each row.
template <typename T>
__device__ __forceinline__ void add_and_norm(float *x, int width, const float *made,
                                             const T *bias, int kind, const T *norm_weight,
                                             const T *norm_bias, float eps, T *to) {
    __shared__ float of_warp[WARPS];
    after_others();
    const int64_t start = (int64_t)blockIdx.x * width;
    float *own = x + start;
    if (made != nullptr) {
        // What a thread adds to is what it reads below.
        for (int i = 4 * threadIdx.x; i < width; i += 4 * THREADS) {
            float4 sum = *reinterpret_cast<const float4 *>(own + i);
            const float4 more = *reinterpret_cast<const float4 *>(made + start + i);
            float4 b = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (bias != nullptr) b = load_four(bias + i);
            sum = make_float4(sum.x + (more.x + b.x), sum.y + (more.y + b.y),
                              sum.z + (more.z + b.z), sum.w + (more.w + b.w));
            *reinterpret_cast<float4 *>(own + i) = sum;
        }
    }
    const Centre c = centre<THREADS>(own, width, kind, eps, threadIdx.x, [&](float sum) {
        return block_total(sum, Add(), of_warp);
    });
#pragma unroll 4
    for (int i = 4 * threadIdx.x; i < width; i += 4 * THREADS) {
        const float4 v = normed(*reinterpret_cast<const float4 *>(own + i), c, norm_weight + i,
                                norm_bias == nullptr ? nullptr : norm_bias + i);
        *reinterpret_cast<Four<T> *>(to + start + i) = {from_float<T>(v.x), from_float<T>(v.y),
                                                        from_float<T>(v.z), from_float<T>(v.w)};
    }
}

// What is between the two halves of the feed-forward part: `gelu(made + bias)`, or with
// `up` `silu(made) * up`. A thread for each of `count` elements.
template <typename T>
__device__ __forceinline__ void activate(const float *made, const T *bias, const float *up,
                                         int width, int64_t count, T *y) {
    after_others();
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
        float *x, int width, const float *made, const T *bias, int kind,                      \
        const T *norm_weight, const T *norm_bias, float eps, T *normed                        \
    ) {                                                                                       \
        add_and_norm<T>(x, width, made, bias, kind, norm_weight, norm_bias, eps, normed);     \
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
