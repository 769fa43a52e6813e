// What the kernels of `src/cuda` need beside blocks and their threads.
#pragma once
#include "contexts.h"

template <typename T> T __ldcg(const T *from) { return *from; }
inline uint4 load_weights(const void *from) { return *static_cast<const uint4 *>(from); }

inline float number(uint16_t bits, __half) { return std::bit_cast<_Float16>(bits); }
inline float number(uint16_t bits, __nv_bfloat16) {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// PTX's mma.m16n8k16: which lane has which elements is from its documentation.
template <typename T> void multiply(float (&sums)[4], uint4 left, uint2 right, T format) {
    static uint32_t lefts[1024][4], rights[1024][2];
    const unsigned thread = threadIdx.x, lane = thread % 32;
    std::memcpy(lefts[thread], &left, sizeof(left));
    std::memcpy(rights[thread], &right, sizeof(right));
    __syncwarp();
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; ++k) {
            const unsigned group = k % 8 / 2, half = k % 2 * 16;
            const uint32_t x =
                lefts[own_warp() + row % 8 * 4 + group][row / 8 + k / 8 * 2] >> half;
            const uint32_t y = rights[own_warp() + column * 4 + group][k / 8] >> half;
            sums[i] += number(static_cast<uint16_t>(x), format)
                * number(static_cast<uint16_t>(y), format);
        }
    }
    __syncwarp();
}
