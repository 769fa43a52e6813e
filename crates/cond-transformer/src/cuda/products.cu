// Linear layers of half precision over more rows than `linear.cu` is for, on tensor cores:
// as there each weight is read once for up to 32 rows, straight into the registers that the
// tensor cores take it from.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
// Of a block, which are the rows of the tensor cores' left factor.
constexpr int OUTPUTS = 16;
// Inputs that a warp takes at a time, eight neighbours a thread: all four that belong
// together have 64 bytes of a row of weights.
constexpr int INPUTS = 32;

#ifdef __CUDACC__ // elsewhere they are tests/kernels_on_host's
// `sums` `[16, 8]` gets `left` `[16, 16]` times `right` `[16, 8]`, in the registers' order of
// PTX's mma.m16n8k16.
__device__ __forceinline__ void multiply(float (&sums)[4], uint4 left, uint2 right, __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "r"(right.x),
                   "r"(right.y));
}

__device__ __forceinline__ void multiply(float (&sums)[4], uint4 left, uint2 right,
                                         __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "r"(right.x),
                   "r"(right.y));
}

// Eight neighbours of a weight, which nobody in this block reads again.
__device__ __forceinline__ uint4 load_weights(const void *from) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from));
    return x;
}
#endif

// Rows `[rows, in]` times up to three matrices `[out, in]`: one for each of the grid's rows,
// or with GATE two of them together. `y` is f32 with KEEP and ADD, and else `T`, for the next
// product. A block has 16 outputs of 8 `TILES` rows; its warps share the inputs. `in` is a
// multiple of 8, and all rows begin at multiples of 16 bytes.
template <typename T, int TILES, int THEN>
__device__ __forceinline__ void product(
    const T *x, int rows, int in, int out, const T *w0, const T *w1, const T *w2, const T *b0,
    const T *b1, const T *b2, void *y
) {
    constexpr int MATRICES = THEN == GATE ? 2 : 1;
    constexpr int ROWS = 8 * TILES;
    // One more than there are rows: threads next to each other read different banks.
    __shared__ float partial[MATRICES][WARPS][OUTPUTS][ROWS + 1];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Groups of rows are neighbours among blocks: their weights come from the L2 cache.
    const int groups = (rows + ROWS - 1) / ROWS;
    const int first_row = blockIdx.x % groups * ROWS;
    const int first = blockIdx.x / groups * OUTPUTS;
    const T *weight = blockIdx.y == 0 ? w0 : blockIdx.y == 1 ? w1 : w2;
    const T *bias = blockIdx.y == 0 ? b0 : blockIdx.y == 1 ? b1 : b2;

    const int64_t upper = (int64_t)min(first + lane / 4, out - 1) * in;
    const int64_t lower = (int64_t)min(first + lane / 4 + 8, out - 1) * in;
    const T *row[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
        row[tile] = x + (int64_t)min(first_row + 8 * tile + lane / 4, rows - 1) * in;
    // Steps whose loads are under way together, in the registers that there are.
    constexpr int AT_ONCE = TILES * MATRICES <= 2 ? 4 : TILES * MATRICES <= 4 ? 3 : 2;
    constexpr int STEP = WARPS * INPUTS;
    const int own = warp * INPUTS + lane % 4 * 8;
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    uint4 weights[AT_ONCE][MATRICES][2];
    auto ask = [&](int begin) {
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n)
#pragma unroll
            for (int matrix = 0; matrix < MATRICES; ++matrix) {
                const T *of = matrix == 0 ? weight : w1;
                const int at = begin + n * STEP;
                weights[n][matrix][0] = at < in ? load_weights(of + upper + at) : nothing;
                weights[n][matrix][1] = at < in ? load_weights(of + lower + at) : nothing;
            }
    };
    // The first are on their way while the kernel before still runs, and so are those behind
    // them, as far as the L2 cache.
    ask(own);
    constexpr int LINE = 128 / sizeof(T);
    for (int r = warp; r < OUTPUTS && blockIdx.x % groups == 0; r += WARPS)
        for (int i = AT_ONCE * STEP + lane * LINE; i < in; i += 32 * LINE) {
            const int64_t at = (int64_t)min(first + r, out - 1) * in + i;
            prefetch(weight + at);
            if (THEN == GATE) prefetch(w1 + at);
        }
    after_others();

    float sums[MATRICES][TILES][4] = {};
    for (int begin = own; begin - own < in; begin += AT_ONCE * STEP) {
        if (begin != own) ask(begin);
        uint4 right[AT_ONCE][TILES];
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n)
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                const int at = begin + n * STEP;
                right[n][tile] =
                    at < in ? *reinterpret_cast<const uint4 *>(row[tile] + at) : nothing;
            }
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n)
#pragma unroll
            for (int matrix = 0; matrix < MATRICES; ++matrix) {
                const uint4 a = weights[n][matrix][0], b = weights[n][matrix][1];
                // Which inputs a product takes is all the same, as long as both factors agree.
                const uint4 half[2] = {make_uint4(a.x, b.x, a.y, b.y),
                                       make_uint4(a.z, b.z, a.w, b.w)};
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile) {
                    const uint4 r = right[n][tile];
                    multiply(sums[matrix][tile], half[0], make_uint2(r.x, r.y), T());
                    multiply(sums[matrix][tile], half[1], make_uint2(r.z, r.w), T());
                }
            }
    }
#pragma unroll
    for (int matrix = 0; matrix < MATRICES; ++matrix)
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                partial[matrix][warp][lane / 4 + i / 2 * 8][8 * tile + lane % 4 * 2 + i % 2] =
                    sums[matrix][tile][i];
    __syncthreads();

    const int width = out * gridDim.y;
    for (int i = threadIdx.x; i < OUTPUTS * ROWS; i += THREADS) {
        const int output = i % OUTPUTS, own = i / OUTPUTS;
        const int column = first + output;
        if (column >= out || first_row + own >= rows) continue;
        float value = bias == nullptr ? 0.0f : to_float(bias[column]), other = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            value += partial[0][w][output][own];
            if (THEN == GATE) other += partial[MATRICES - 1][w][output][own];
        }
        const int64_t place =
            (int64_t)(first_row + own) * width + (int)blockIdx.y * out + column;
        if (THEN == KEEP) static_cast<float *>(y)[place] = value;
        if (THEN == ADD) static_cast<float *>(y)[place] += value;
        if (THEN == GELU) static_cast<T *>(y)[place] = from_float<T>(gelu(value));
        if (THEN == GATE) static_cast<T *>(y)[place] = from_float<T>(silu(value) * other);
    }
}

#define PRODUCT(T, SUFFIX, TILES, ROWS, THEN, NAME)                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) product_##NAME##_##ROWS##_##SUFFIX( \
        const T *x, int rows, int in, int out, const T *w0, const T *w1, const T *w2,         \
        const T *b0, const T *b1, const T *b2, void *y                                        \
    ) {                                                                                       \
        product<T, TILES, THEN>(x, rows, in, out, w0, w1, w2, b0, b1, b2, y);                 \
    }

#define PRODUCTS(T, SUFFIX, TILES, ROWS)                                                      \
    PRODUCT(T, SUFFIX, TILES, ROWS, KEEP, keep)                                               \
    PRODUCT(T, SUFFIX, TILES, ROWS, GELU, gelu)                                               \
    PRODUCT(T, SUFFIX, TILES, ROWS, ADD, add)                                                 \
    PRODUCT(T, SUFFIX, TILES, ROWS, GATE, gate)

PRODUCTS(__half, f16, 1, 8)
PRODUCTS(__half, f16, 2, 16)
PRODUCTS(__half, f16, 4, 32)
PRODUCTS(__nv_bfloat16, bf16, 1, 8)
PRODUCTS(__nv_bfloat16, bf16, 2, 16)
PRODUCTS(__nv_bfloat16, bf16, 4, 32)
