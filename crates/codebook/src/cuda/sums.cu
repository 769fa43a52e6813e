// Sums and counts of the vectors of each code, the same in every run: sums in fixed point
// do not depend on the order in which threads get there, those in floating point would.
#include <cstdint>

// Magnitudes are below 2^40 in fixed point, so that 2^23 of them have room in 64 bits;
// what is lost is 2^-41 of the largest magnitude, less than f32 loses.
__device__ __forceinline__ int fixed_exponent(uint32_t largest) {
    int exponent = (int)(largest >> 23) - 126;
    return largest == 0 ? 0 : 40 - exponent;
}

extern "C" __global__ void __launch_bounds__(256) add_to_codes(
    const float* vectors, const uint32_t* codes, int64_t rows, int len, int dim,
    const uint32_t* largest, unsigned long long* sums
) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * (dim + 1)) return;
    int64_t row = i / (dim + 1);
    int k = (int)(i % (dim + 1));
    uint32_t code = codes[row];
    if (code >= len) return;
    double fixed = k == dim ? 1.0 : ldexp((double)vectors[row * dim + k], fixed_exponent(*largest));
    long long whole = __double2ll_rn(fixed);
    if (whole != 0)
        atomicAdd(&sums[(int64_t)code * (dim + 1) + k], (unsigned long long)whole);
}

// `[len, dim + 1]`: the sums, and behind them the counts.
extern "C" __global__ void __launch_bounds__(256) sums_to_floats(
    const long long* sums, int64_t values, int dim, const uint32_t* largest, float* out
) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= values) return;
    bool count = i % (dim + 1) == dim;
    bool finite = *largest < 0x7f800000u;
    double sum = (double)sums[i];
    if (count) out[i] = (float)sum;
    else out[i] = finite ? (float)ldexp(sum, -fixed_exponent(*largest)) : NAN;
}
