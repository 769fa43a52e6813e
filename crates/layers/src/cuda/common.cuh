// What the kernels share: loads and stores of several elements at once, with arithmetic
// in f32 whatever the storage, and sums over a block in a fixed order.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#ifdef __CUDACC__ // elsewhere it is golden's `host/contexts.h`
#define DYNAMIC_SHARED(T, NAME) extern __shared__ T NAME[]
#endif

// Most threads of a block; every kernel here takes any multiple of 32 up to it.
constexpr int THREADS = 256;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) {
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// N neighbours, loaded and stored by one instruction: their address is a multiple of
// their size, which the host has seen to.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

template <typename T, int N>
__device__ __forceinline__ void load(const T *from, float (&to)[N]) {
    const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = to_float(pack.at[i]);
}

template <typename T, int N>
__device__ __forceinline__ void store(T *to, const float (&from)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = from_float<T>(from[i]);
    *reinterpret_cast<Pack<T, N> *>(to) = pack;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Two sums.
struct Pair {
    float a, b;
};
__device__ __forceinline__ Pair combine(Pair x, Pair y) { return {x.a + y.a, x.b + y.b}; }
__device__ __forceinline__ Pair from_lane(Pair x, int distance) {
    return {__shfl_xor_sync(~0u, x.a, distance), __shfl_xor_sync(~0u, x.b, distance)};
}

// Count, mean and sum of squared distances from it (Chan et al. 1979).
struct Moments {
    float n, mean, m2;
};
__device__ __forceinline__ Moments combine(Moments x, Moments y) {
    if (y.n == 0.0f) return x;
    if (x.n == 0.0f) return y;
    const float n = x.n + y.n, distance = y.mean - x.mean, share = y.n / n;
    return {n, x.mean + distance * share, x.m2 + y.m2 + distance * distance * x.n * share};
}
__device__ __forceinline__ Moments from_lane(Moments x, int distance) {
    return {__shfl_xor_sync(~0u, x.n, distance), __shfl_xor_sync(~0u, x.mean, distance),
            __shfl_xor_sync(~0u, x.m2, distance)};
}

// The largest value, NaN if there is one.
struct Largest {
    float value;
};
__device__ __forceinline__ Largest combine(Largest x, Largest y) {
    // `!(x >= y)` is true if either is not a number; a NaN in x stays.
    return (x.value >= y.value || x.value != x.value) ? x : y;
}
__device__ __forceinline__ Largest from_lane(Largest x, int distance) {
    return {__shfl_xor_sync(~0u, x.value, distance)};
}

// The combination of what all threads of a block have, the same for every thread, in an
// order that depends on nothing but the block's size. All threads must take part.
template <typename V> __device__ __forceinline__ V block_total(V value) {
    __shared__ V warps[THREADS / 32];
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = combine(value, from_lane(value, distance));
    // Nobody may still be reading what an earlier call left here.
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warps[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) value = combine(value, warps[warp]);
    return value;
}

// Declares NAME_TYPE_VECTOR for every storage type, one element or four at a time:
// `KERNEL(T, VEC, SUFFIX)` must expand to one `extern "C" __global__` function.
#define FOR_ALL_TYPES(KERNEL)                                                                 \
    KERNEL(float, 1, f32_1)                                                                   \
    KERNEL(float, 4, f32_4)                                                                   \
    KERNEL(__half, 1, f16_1)                                                                  \
    KERNEL(__half, 4, f16_4)                                                                  \
    KERNEL(__nv_bfloat16, 1, bf16_1)                                                          \
    KERNEL(__nv_bfloat16, 4, bf16_4)
