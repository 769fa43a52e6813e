// What is known of rows before they are compared, and the bound on errors of scores.
// The score of code e for a vector z is z.e - |e|^2 / 2, as on the CPU (bound.rs).
#pragma once
#include <cstdint>

// Values of a larger magnitude could overflow f32 on the way: such rows are compared
// exactly.
constexpr float LARGEST = 1e16f;
constexpr float MARGIN = 1.1f;
constexpr float UNIT = 5.9604645e-8f;      // 2^-24, the unit roundoff of f32
constexpr float SMALLEST = 1.1754944e-38f; // the smallest normal f32
// Candidates that are kept for a vector in one part of the codebook.
constexpr int CANDIDATES = 32;
// Codes of a tile, whose norms have one limit.
constexpr int TILE = 256;

// Of a vector.
struct Facts {
    float norm;    // no less than the norm
    float lost;    // no less than the norm of what rounding to f16 takes away
    float inverse; // undoes the scale of the values in f16
    float usable;  // 0: compare exactly
};

struct Candidate {
    uint32_t code;
    float highest; // its exact score is not above this
};

// A power of two that brings a magnitude near 2^13, where f16 has room for it and for
// what is 2^37 times smaller.
__device__ __forceinline__ float scale_for(uint32_t bits) {
    int exponent = 13 - ((int)(bits >> 23) - 127);
    exponent = min(max(exponent, -100), 100);
    return __int_as_float((exponent + 127) << 23);
}

__device__ __forceinline__ float norm_limit(float squares, int dim) {
    return sqrtf(MARGIN * (squares + dim * SMALLEST));
}

// How far a score may be from the exact one, for the sums in f32 (`sum_error` is their
// relative error) and for rounding of z and e before.
struct Bound {
    float sums, squares, underflow, f64;
    __device__ Bound(int dim, float sum_error) {
        sums = MARGIN * sum_error;
        squares = MARGIN * (dim + 8) * UNIT;
        underflow = MARGIN * (dim + 8) * SMALLEST;
        f64 = MARGIN * (dim + 8) * 1.2e-16f;
    }
    __device__ __forceinline__ float of(Facts z, float e, float e_lost) const {
        float both = z.norm + e;
        return MARGIN * (z.lost * e + (z.norm + z.lost) * e_lost)
            + sums * (z.norm + z.lost) * (e + e_lost) + squares * (e * both)
            + f64 * (both * both) + underflow;
    }
};

__device__ __forceinline__ bool usable(uint32_t largest_bits) {
    // A NaN or an infinity has larger bits than any number.
    return largest_bits <= __float_as_uint(LARGEST);
}

__device__ __forceinline__ void keep(
    uint32_t* count, Candidate* list, uint32_t code, float highest
) {
    uint32_t slot = atomicAdd(count, 1u);
    if (slot < CANDIDATES) list[slot] = Candidate{code, highest};
}
