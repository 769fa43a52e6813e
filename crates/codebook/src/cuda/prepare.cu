// Norms of vectors and codes, and their values in f16 in the order in which the tensor
// cores read them. One warp for each row.
#include "facts.cuh"
#include <cuda_fp16.h>

constexpr int CHUNK = 64;   // dimensions of a block of the image
constexpr int PIECE = 8;    // neighbours that a lane has, 16 bytes of the image
constexpr int PIECES = 2;   // of a lane: 512 dimensions that a warp keeps in registers
constexpr int CACHED = 32 * PIECES * PIECE;

__device__ __forceinline__ float sum_of_warp(float x) {
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}

// Where the image has piece `piece` of row `row`: blocks of `tile` rows and 64 dimensions,
// each row of a block 128 bytes, whose pieces are swapped about by the row's number (the
// 128-byte swizzle of wgmma).
__device__ __forceinline__ size_t place(int64_t row, int piece, int tile, int chunks) {
    int64_t block = row / tile * chunks + piece / (CHUNK / PIECE);
    int inside = (int)(row % tile);
    int swapped = (piece % (CHUNK / PIECE)) ^ (inside & 7);
    return ((size_t)block * tile + inside) * CHUNK + swapped * PIECE;
}

// The piece of a row that begins at dimension `k`; zeros behind the row's end.
__device__ __forceinline__ void load_piece(
    const float* source, int k, int dim, bool aligned, float (&piece)[PIECE]
) {
    if (aligned && k + PIECE <= dim) {
        float4 low = *reinterpret_cast<const float4*>(source + k);
        float4 high = *reinterpret_cast<const float4*>(source + k + 4);
        piece[0] = low.x, piece[1] = low.y, piece[2] = low.z, piece[3] = low.w;
        piece[4] = high.x, piece[5] = high.y, piece[6] = high.z, piece[7] = high.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < PIECE; i++) piece[i] = k + i < dim ? source[k + i] : 0.0f;
}

// `scale`: a number to multiply with before rounding to f16, or 0 to find one.
// Writes the image where there is one.
__device__ Facts write_row(
    const float* values, int64_t row, bool real, int dim, int padded, int tile, float scale,
    __half* image, float* squares_out
) {
    int lane = threadIdx.x % 32;
    const float* source = values + row * dim;
    bool aligned = dim % 4 == 0 && (uintptr_t)values % 16 == 0;
    float cached[PIECES][PIECE];
    bool fits = dim <= CACHED;
    float squares = 0.0f;
    uint32_t largest = 0;
    auto take = [&](float x) {
        squares = fmaf(x, x, squares);
        largest = max(largest, __float_as_uint(fabsf(x)));
    };
    if (fits) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            load_piece(source, (i * 32 + lane) * PIECE, real ? dim : 0, aligned, cached[i]);
#pragma unroll
            for (int j = 0; j < PIECE; j++) take(cached[i][j]);
        }
    } else if (real) {
        for (int k = lane; k < dim; k += 32) take(source[k]);
    }
    squares = sum_of_warp(squares);
    largest = __reduce_max_sync(~0u, largest);
    *squares_out = squares;
    bool good = usable(largest);
    if (scale == 0.0f) scale = good ? scale_for(largest) : 1.0f;
    float lost = 0.0f;
    if (image && fits) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            int piece = i * 32 + lane;
            if (piece * PIECE < padded) {
                alignas(16) __half rounded[PIECE];
#pragma unroll
                for (int j = 0; j < PIECE; j++) {
                    float scaled = good ? cached[i][j] * scale : 0.0f;
                    rounded[j] = __float2half_rn(scaled);
                    float difference = scaled - __half2float(rounded[j]);
                    lost = fmaf(difference, difference, lost);
                }
                *reinterpret_cast<uint4*>(image + place(row, piece, tile, padded / CHUNK)) =
                    *reinterpret_cast<const uint4*>(rounded);
            }
        }
        lost = sum_of_warp(lost);
    }
    float inverse = 1.0f / scale;
    // What is lost is in scaled units up to here.
    float lost_limit = image ? sqrtf(MARGIN * lost) * inverse + sqrtf((float)dim) * SMALLEST : 0.0f;
    return Facts{norm_limit(squares, dim), lost_limit, inverse, good ? 1.0f : 0.0f};
}

// For each of `padded_rows` rows, of which the first `rows` are real.
extern "C" __global__ void __launch_bounds__(256) prepare_vectors(
    const float* values, int64_t rows, int64_t padded_rows, int dim, int padded, int tile,
    __half* image, Facts* facts
) {
    int64_t row = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= padded_rows) return;
    float squares;
    Facts found =
        write_row(values, row, row < rows, dim, padded, tile, 0.0f, image, &squares);
    if (threadIdx.x % 32 == 0 && row < rows) facts[row] = found;
}

// The largest magnitude in the codebook, as bits; `largest` starts at 0.
extern "C" __global__ void __launch_bounds__(256) largest_magnitude(
    const float* values, int64_t len, uint32_t* largest
) {
    uint32_t found = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < len;
         i += (int64_t)gridDim.x * blockDim.x)
        found = max(found, __float_as_uint(fabsf(values[i])));
    found = __reduce_max_sync(~0u, found);
    if (threadIdx.x % 32 == 0) atomicMax(largest, found);
}

// `starts`: -|e|^2 / 2, and minus infinity behind the last code. `tiles`: for each 256
// codes the limits to norms and to losses, which start at 0.
extern "C" __global__ void __launch_bounds__(256) prepare_codes(
    const float* values, int64_t rows, int64_t padded_rows, int dim, int padded, int tile,
    const uint32_t* largest, __half* image, float* starts, float2* tiles
) {
    int64_t row = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    if (row >= padded_rows || !usable(*largest)) return;
    bool real = row < rows;
    float squares;
    Facts found =
        write_row(values, row, real, dim, padded, tile, scale_for(*largest), image, &squares);
    if (threadIdx.x % 32 != 0) return;
    if (!real) {
        starts[row] = -INFINITY;
        return;
    }
    starts[row] = -0.5f * squares;
    // Numbers that are not negative are ordered as their bits are.
    int* limits = reinterpret_cast<int*>(&tiles[row / TILE]);
    atomicMax(&limits[0], __float_as_int(found.norm));
    atomicMax(&limits[1], __float_as_int(found.lost));
}
