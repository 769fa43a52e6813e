// Norms of vectors and codes, and their values in f16 in the order in which the tensor
// cores read them. One warp for each row.
#include "facts.cuh"
#include <cuda_fp16.h>

constexpr int CHUNK = 64;   // dimensions of a block of the image
constexpr int CACHED = 512; // dimensions that a warp keeps in registers

__device__ __forceinline__ float sum_of_warp(float x) {
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}

// Where the image has dimension `k` of row `row`: blocks of `tile` rows and 64
// dimensions, each row of a block 128 bytes, whose 16-byte pieces are swapped about by
// the row's number (the 128-byte swizzle of wgmma).
__device__ __forceinline__ size_t place(int64_t row, int k, int tile, int chunks) {
    int64_t block = row / tile * chunks + k / CHUNK;
    int inside = (int)(row % tile);
    int piece = (k % CHUNK / 8) ^ (inside & 7);
    return ((size_t)block * tile + inside) * CHUNK + piece * 8 + k % 8;
}

// `scale`: a number to multiply with before rounding to f16, or 0 to find one.
// Writes the image where there is one.
__device__ Facts write_row(
    const float* values, int64_t row, bool real, int dim, int padded, int tile, float scale,
    __half* image, float* squares_out
) {
    int lane = threadIdx.x % 32;
    const float* source = values + row * dim;
    float cached[CACHED / 32];
    bool fits = dim <= CACHED;
    float squares = 0.0f;
    uint32_t largest = 0;
    auto take = [&](float x) {
        squares = fmaf(x, x, squares);
        largest = max(largest, __float_as_uint(fabsf(x)));
    };
    if (fits) {
#pragma unroll
        for (int i = 0; i < CACHED / 32; i++) {
            int k = i * 32 + lane;
            cached[i] = real && k < dim ? source[k] : 0.0f;
            take(cached[i]);
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
        for (int i = 0; i < CACHED / 32; i++) {
            int k = i * 32 + lane;
            if (k < padded) {
                float scaled = good ? cached[i] * scale : 0.0f;
                __half rounded = __float2half_rn(scaled);
                float difference = scaled - __half2float(rounded);
                lost = fmaf(difference, difference, lost);
                image[place(row, k, tile, padded / CHUNK)] = rounded;
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
