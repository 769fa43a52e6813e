// Tiles of attention in shared memory, and products of them in registers.
#pragma once
#include "common.cuh"

// Threads of a block: `DOWN` rows of `ACROSS`.
constexpr int ATTENTION_THREADS = 128, ACROSS = 16, DOWN = ATTENTION_THREADS / ACROSS;
// Rows and columns of a whole tile of scores, and how many of them a thread has.
constexpr int TILE = 64, TALL = TILE / DOWN, WIDE = TILE / ACROSS;
// Floats behind each row of a tile, so that eight rows' fours are in different banks; rows
// still begin at multiples of 16 bytes.
constexpr int PAD = 4;

constexpr int larger(int a, int b) { return a > b ? a : b; }

// What is in shared memory, in floats, and how many blocks are to fit on a multiprocessor
// (of Hopper). `heads/cuda/flash.rs` has the same sums.
template <int DIM> struct Forward {
    static constexpr int QUERIES = TILE * (DIM + PAD);
    // Weights take their place.
    static constexpr int KEYS = larger(TILE * (DIM + PAD), TILE * (TILE + PAD));
    static constexpr int FLOATS = 2 * QUERIES + KEYS;
    static constexpr int BLOCKS = DIM > 64 ? 2 : 3;
};
template <int DIM> struct BackKeys {
    // Queries at a time.
    static constexpr int COUNT = DIM > 64 ? TILE / 2 : TILE;
    static constexpr int KEYS = TILE * (DIM + PAD), QUERIES = COUNT * (DIM + PAD);
    static constexpr int WEIGHTS = COUNT * (TILE + PAD);
    static constexpr int FLOATS = 2 * KEYS + 2 * QUERIES + WEIGHTS + 2 * COUNT;
    static constexpr int BLOCKS = DIM > 32 ? 2 : 3;
};
template <int DIM> struct BackQueries {
    // Keys at a time.
    static constexpr int COUNT = DIM > 64 ? TILE / 2 : TILE;
    static constexpr int QUERIES = TILE * (DIM + PAD), KEYS = COUNT * (DIM + PAD);
    // Gradients of scores take their place.
    static constexpr int VALUES = larger(KEYS, TILE * (COUNT + PAD));
    static constexpr int FLOATS = 2 * QUERIES + KEYS + VALUES + 2 * TILE;
    static constexpr int BLOCKS = DIM > 64 ? 2 : 3;
};

__device__ __forceinline__ float *attention_memory() {
    DYNAMIC_SHARED(float4, attention_shared);
    return reinterpret_cast<float *>(attention_shared);
}

__device__ __forceinline__ float4 four(const float *from) {
    return *reinterpret_cast<const float4 *>(from);
}

struct Max {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};

// The combination of what the threads of a row, half a warp, have.
template <typename F> __device__ __forceinline__ float across(float value, F combine) {
#pragma unroll
    for (int distance = ACROSS / 2; distance > 0; distance /= 2)
        value = combine(value, __shfl_xor_sync(~0u, value, distance));
    return value;
}

// Brings ROWS vectors of `dim` elements, `stride` apart, to a tile; zeros behind the last
// of `rows` and behind `dim`.
template <typename T, int DIM, int ROWS>
__device__ __forceinline__ void fetch(const T *from, size_t stride, uint32_t rows, uint32_t dim,
                                      bool aligned, float *to) {
    constexpr int FOURS = DIM / 4, EACH = ROWS * FOURS / ATTENTION_THREADS;
    // As many loads at once as there are registers for.
#pragma unroll 4
    for (int n = 0; n < EACH; ++n) {
        const uint32_t at = n * ATTENTION_THREADS + threadIdx.x;
        const uint32_t row = at / FOURS, d = at % FOURS * 4;
        float own[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (row < rows && d < dim) {
            const T *source = from + row * stride + d;
            if (aligned) {
                load(source, own);
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (d + i < dim) own[i] = to_float(source[i]);
            }
        }
        *reinterpret_cast<float4 *>(to + row * (DIM + PAD) + d) = {own[0], own[1], own[2], own[3]};
    }
}

// The column of a tile of DIM columns that thread `x` of a row has as number `c`:
// neighbours, up to four of them.
template <int DIM> __device__ __forceinline__ uint32_t column(uint32_t x, int c) {
    constexpr int NEAR = DIM / ACROSS < 4 ? DIM / ACROSS : 4;
    return c / NEAR * (NEAR * ACROSS) + x * NEAR + c % NEAR;
}

// A thread's columns of a row of a tile.
template <int DIM>
__device__ __forceinline__ void own_columns(const float *row, float (&to)[DIM / ACROSS]) {
    const uint32_t x = threadIdx.x % ACROSS;
    if constexpr (DIM / ACROSS == 2) {
        const float2 two = *reinterpret_cast<const float2 *>(row + 2 * x);
        to[0] = two.x;
        to[1] = two.y;
    } else {
#pragma unroll
        for (int c = 0; c < DIM / ACROSS; c += 4) {
            const float4 values = four(row + column<DIM>(x, c));
            to[c] = values.x;
            to[c + 1] = values.y;
            to[c + 2] = values.z;
            to[c + 3] = values.w;
        }
    }
}

// Stores a thread's columns of a row, times `factor`.
template <typename T, int DIM>
__device__ __forceinline__ void put(const float (&from)[DIM / ACROSS], float factor,
                                    uint32_t dim, bool aligned, T *to) {
    const uint32_t x = threadIdx.x % ACROSS;
    constexpr int NEAR = DIM / ACROSS < 4 ? DIM / ACROSS : 4;
#pragma unroll
    for (int c = 0; c < DIM / ACROSS; c += NEAR) {
        const uint32_t d = column<DIM>(x, c);
        float own[NEAR];
#pragma unroll
        for (int i = 0; i < NEAR; ++i) own[i] = from[c + i] * factor;
        if (aligned) {
            // `dim` is a multiple of four: all of them exist, or none.
            if (d < dim) store(to + d, own);
        } else {
#pragma unroll
            for (int i = 0; i < NEAR; ++i)
                if (d + i < dim) to[d + i] = from_float<T>(own[i]);
        }
    }
}

// Products of rows y, y + DOWN, .. of one tile with rows x, x + ACROSS, .. of another.
template <int DIM, int M, int N>
__device__ __forceinline__ void products(const float *a, const float *b, float (&to)[M][N]) {
    constexpr int STRIDE = DIM + PAD;
    a += threadIdx.x / ACROSS * STRIDE;
    b += threadIdx.x % ACROSS * STRIDE;
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) to[i][j] = 0.0f;
#pragma unroll 2
    for (int d = 0; d < DIM; d += 4) {
        float4 right[N];
#pragma unroll
        for (int j = 0; j < N; ++j) right[j] = four(b + j * ACROSS * STRIDE + d);
#pragma unroll
        for (int i = 0; i < M; ++i) {
            const float4 left = four(a + i * DOWN * STRIDE + d);
#pragma unroll
            for (int j = 0; j < N; ++j) {
                to[i][j] = fmaf(left.x, right[j].x, to[i][j]);
                to[i][j] = fmaf(left.y, right[j].y, to[i][j]);
                to[i][j] = fmaf(left.z, right[j].z, to[i][j]);
                to[i][j] = fmaf(left.w, right[j].w, to[i][j]);
            }
        }
    }
}

// Adds up the COUNT rows of `b`, times the numbers of rows y, y + DOWN, .. of `a`.
template <int DIM, int COUNT>
__device__ __forceinline__ void add_rows(const float *a, const float *b,
                                         float (&to)[TALL][DIM / ACROSS]) {
    a += threadIdx.x / ACROSS * (COUNT + PAD);
#pragma unroll 2
    for (int r = 0; r < COUNT; r += 4) {
        float right[4][DIM / ACROSS];
#pragma unroll
        for (int e = 0; e < 4; ++e) own_columns<DIM>(b + (r + e) * (DIM + PAD), right[e]);
#pragma unroll
        for (int i = 0; i < TALL; ++i) {
            const float4 left = four(a + i * DOWN * (COUNT + PAD) + r);
#pragma unroll
            for (int c = 0; c < DIM / ACROSS; ++c) {
                to[i][c] = fmaf(left.x, right[0][c], to[i][c]);
                to[i][c] = fmaf(left.y, right[1][c], to[i][c]);
                to[i][c] = fmaf(left.z, right[2][c], to[i][c]);
                to[i][c] = fmaf(left.w, right[3][c], to[i][c]);
            }
        }
    }
}

// Adds up the COUNT rows of `b`, times the numbers of columns y TALL, y TALL + 1, .. of
// `a`, which has TILE of them.
template <int DIM, int COUNT>
__device__ __forceinline__ void add_columns(const float *a, const float *b,
                                            float (&to)[TALL][DIM / ACROSS]) {
    a += threadIdx.x / ACROSS * TALL;
#pragma unroll 4
    for (int r = 0; r < COUNT; ++r) {
        float right[DIM / ACROSS], left[TALL];
        own_columns<DIM>(b + r * (DIM + PAD), right);
#pragma unroll
        for (int i = 0; i < TALL; i += 4) {
            const float4 values = four(a + r * (TILE + PAD) + i);
            left[i] = values.x;
            left[i + 1] = values.y;
            left[i + 2] = values.z;
            left[i + 3] = values.w;
        }
#pragma unroll
        for (int i = 0; i < TALL; ++i)
#pragma unroll
            for (int c = 0; c < DIM / ACROSS; ++c)
                to[i][c] = fmaf(left[i], right[c], to[i][c]);
    }
}
