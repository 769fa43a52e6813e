// One launch for many tensors: steps of an optimiser, averages, norms, conversions.
//
// A model has hundreds of parameters, most of them small. A launch for each costs more than
// its work, so a table of rows, one for each tensor (or for each group of tensors of one
// shape), goes to the device, and every block takes a part of one row. Rows are not empty.
#include "common.cuh"

// Elements of a block, as in `foreach/table.rs`.
constexpr uint64_t PART = 8192;

// As `Row` of `foreach/table.rs` has it.
struct Row {
    // The first block that is for it.
    uint64_t block;
    uint64_t len;
    // Of the tensors' first elements.
    uint64_t address[4];
    // A number of its own.
    float own;
    uint32_t unused;
};

// Elements of a row that a block goes through.
struct Part {
    const Row *row;
    uint64_t begin, end;

    template <typename T> __device__ __forceinline__ T *tensor(int i) const {
        return reinterpret_cast<T *>(row->address[i]);
    }
    // Whether N neighbours of tensor i can be loaded at once.
    template <typename T, int N> __device__ __forceinline__ bool packed(int i) const {
        return row->address[i] % (sizeof(T) * N) == 0;
    }
};

// That of this block: of the last row that begins with it or before. Grid: all parts.
__device__ __forceinline__ Part part_of(const Row *rows, uint32_t count) {
    const uint64_t block = blockIdx.x;
    uint32_t low = 0, high = count;
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (rows[middle].block <= block) low = middle;
        else high = middle;
    }
    const Row *row = rows + low;
    const uint64_t begin = (block - row->block) * PART, rest = row->len - begin;
    return {row, begin, begin + (rest < PART ? rest : PART)};
}

template <int N> struct Count {
    static constexpr int value = N;
};

// Calls `visit(Count<N>, at)` for N elements from `at` on, until all of the part have had
// their turn: four at a time where they are `packed`, and the others one by one.
template <typename F>
__device__ __forceinline__ void each(const Part &part, bool packed, const F &visit) {
    const uint64_t rest = packed ? part.end - (part.end - part.begin) % 4 : part.begin;
    for (uint64_t at = part.begin + 4 * threadIdx.x; at < rest; at += 4 * blockDim.x)
        visit(Count<4>{}, at);
    for (uint64_t at = rest + threadIdx.x; at < part.end; at += blockDim.x) visit(Count<1>{}, at);
}

// Adam on parameter, first moment, second moment and gradient; a row's own number is what
// weight decay multiplies the parameter by. Every operation is rounded by itself (the
// compiler fuses none of these), as on the CPU: `Rates::apply_in_place` of `training`.
// `gate`, where there is one, is the scale; nothing happens where that is NaN.
extern "C" __global__ void __launch_bounds__(THREADS)
    adam(const Row *rows, uint32_t count, float scale, float gain1, float beta2, float gain2,
         float size, float root, float eps, const float *gate) {
    if (gate != nullptr) scale = *gate;
    if (isnan(scale)) return;
    const Part part = part_of(rows, count);
    float *p = part.tensor<float>(0), *m = part.tensor<float>(1), *v = part.tensor<float>(2);
    const float *g = part.tensor<const float>(3);
    const float shrink = part.row->own;
    bool packed = true;
    for (int i = 0; i < 4; ++i) packed = packed && part.packed<float, 4>(i);
    each(part, packed, [&](auto n, uint64_t at) {
        constexpr int N = decltype(n)::value;
        float parameter[N], first[N], second[N], gradient[N];
        load(p + at, parameter);
        load(m + at, first);
        load(v + at, second);
        load(g + at, gradient);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float scaled = __fmul_rn(gradient[j], scale);
            first[j] = __fadd_rn(first[j], __fmul_rn(gain1, __fsub_rn(scaled, first[j])));
            second[j] = __fadd_rn(__fmul_rn(beta2, second[j]),
                                  __fmul_rn(__fmul_rn(gain2, scaled), scaled));
            const float spread = __fadd_rn(__fdiv_rn(__fsqrt_rn(second[j]), root), eps);
            const float step = __fmul_rn(size, __fdiv_rn(first[j], spread));
            parameter[j] = __fsub_rn(__fmul_rn(shrink, parameter[j]), step);
        }
        store(p + at, parameter);
        store(m + at, first);
        store(v + at, second);
    });
}

// `mean + gain (x - mean)`, rounded as on the CPU: `Average::follow` of `training`.
extern "C" __global__ void __launch_bounds__(THREADS)
    follow(const Row *rows, uint32_t count, float gain) {
    const Part part = part_of(rows, count);
    float *means = part.tensor<float>(0);
    const float *values = part.tensor<const float>(1);
    const bool packed = part.packed<float, 4>(0) && part.packed<float, 4>(1);
    each(part, packed, [&](auto n, uint64_t at) {
        constexpr int N = decltype(n)::value;
        float mean[N], x[N];
        load(means + at, mean);
        load(values + at, x);
#pragma unroll
        for (int j = 0; j < N; ++j)
            mean[j] = __fadd_rn(mean[j], __fmul_rn(gain, __fsub_rn(x[j], mean[j])));
        store(means + at, mean);
    });
}

// A sum.
struct Sum {
    double value;
};
__device__ __forceinline__ Sum combine(Sum x, Sum y) { return {x.value + y.value}; }
__device__ __forceinline__ Sum from_lane(Sum x, int distance) {
    return {__shfl_xor_sync(~0u, x.value, distance)};
}

// The sum of squares of every part.
extern "C" __global__ void __launch_bounds__(THREADS)
    squares(const Row *rows, uint32_t count, double *sums) {
    const Part part = part_of(rows, count);
    const float *values = part.tensor<const float>(0);
    Sum sum = {0.0};
    each(part, part.packed<float, 4>(0), [&](auto n, uint64_t at) {
        constexpr int N = decltype(n)::value;
        float x[N];
        load(values + at, x);
#pragma unroll
        // Products of two floats are exact in a double.
        for (int j = 0; j < N; ++j) sum.value += (double)x[j] * (double)x[j];
    });
    sum = block_total(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum.value;
}

// The root of the sum of the sums of all parts. Grid: one block.
extern "C" __global__ void __launch_bounds__(THREADS)
    root_of_sums(const double *sums, uint64_t count, double *root) {
    Sum sum = {0.0};
#pragma unroll 8
    for (uint64_t at = threadIdx.x; at < count; at += blockDim.x) sum.value += sums[at];
    sum = block_total(sum);
    if (threadIdx.x == 0) *root = sqrt(sum.value);
}

// What gradients are multiplied by so that their norm, which is the value number `norm`, is at
// most `limit` (0: no limit; NaN: there is nothing to update); NaN where one of the first
// `terms` of all values is not finite, a code behind them is none, or `before` is NaN. Grid:
// one block.
extern "C" __global__ void __launch_bounds__(THREADS)
    gate(const double *values, uint64_t terms, uint64_t count, uint64_t norm, double limit,
         const float *before, float *scale) {
    Sum broken = {0.0};
#pragma unroll 4
    for (uint64_t at = threadIdx.x; at < count; at += blockDim.x) {
        const double value = values[at];
        broken.value += at < terms ? !isfinite(value) : value == 4294967295.0;
    }
    broken = block_total(broken);
    if (threadIdx.x != 0) return;
    if (isnan(limit) || (before != nullptr && isnan(*before))) broken.value = 1.0;
    const double factor = limit > 0.0 ? fmin(limit / (values[norm] + 1e-6), 1.0) : 1.0;
    *scale = broken.value > 0.0 ? NAN : (float)factor;
}

// From one type to another, rounded to nearest: half precision by way of f32.
template <typename T> struct To {
    template <typename S> __device__ static T from(S x) { return from_float<T>(to_float(x)); }
};
template <> struct To<double> {
    template <typename S> __device__ static double from(S x) { return x; }
};

template <typename S, typename T> __device__ void convert(const Row *rows, uint32_t count) {
    const Part part = part_of(rows, count);
    T *to = part.tensor<T>(0);
    const S *from = part.tensor<const S>(1);
    const bool packed = part.packed<T, 4>(0) && part.packed<S, 4>(1);
    each(part, packed, [&](auto n, uint64_t at) {
        constexpr int N = decltype(n)::value;
        const Pack<S, N> given = *reinterpret_cast<const Pack<S, N> *>(from + at);
        Pack<T, N> made;
#pragma unroll
        for (int j = 0; j < N; ++j) made.at[j] = To<T>::from(given.at[j]);
        *reinterpret_cast<Pack<T, N> *>(to + at) = made;
    });
}

#define CONVERT(S, T, SUFFIX)                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) convert_##SUFFIX(                   \
        const Row *rows, uint32_t count) {                                                    \
        convert<S, T>(rows, count);                                                           \
    }

CONVERT(float, float, f32_f32)
CONVERT(float, __half, f32_f16)
CONVERT(float, __nv_bfloat16, f32_bf16)
CONVERT(__half, float, f16_f32)
CONVERT(__nv_bfloat16, float, bf16_f32)
CONVERT(float, double, f32_f64)
CONVERT(double, double, f64_f64)
CONVERT(uint32_t, double, u32_f64)
