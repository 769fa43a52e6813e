// As much of CUDA as `foreach.cu` needs, for a C++ compiler: a block's threads are threads.
#pragma once
#include <barrier>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "half_types.h"

using std::fmin, std::isfinite, std::isnan;

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)
// Blocks run one after the other.
#define __shared__ static

struct Index {
    unsigned x;
};
constexpr unsigned BLOCK = 256;
constexpr Index blockDim = {BLOCK};
inline thread_local Index threadIdx, blockIdx;
inline Index gridDim;

inline std::barrier block_barrier(BLOCK);
inline void __syncthreads() { block_barrier.arrive_and_wait(); }

// All of a block's threads call it together.
template <typename T> T __shfl_xor_sync(unsigned, T value, int distance) {
    static T values[BLOCK];
    values[threadIdx.x] = value;
    __syncthreads();
    const T other = values[threadIdx.x ^ distance];
    __syncthreads();
    return other;
}

// Not to be fused: the compiler is told -ffp-contract=off.
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
using std::sqrt;

// Runs `kernel` on a grid of `blocks`.
template <typename K> void launch(unsigned blocks, K kernel) {
    gridDim = {blocks};
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < BLOCK; ++thread)
        threads.emplace_back([=] {
            threadIdx = {thread};
            for (unsigned block = 0; block < blocks; ++block) {
                blockIdx = {block};
                kernel();
                __syncthreads();
            }
        });
    for (std::thread &thread : threads) thread.join();
}
