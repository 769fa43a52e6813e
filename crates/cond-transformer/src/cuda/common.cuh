// What the kernels share: numbers in three formats, what they wait for, totals of a block, and
// what becomes of a layer's outputs.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#ifdef __CUDACC__ // elsewhere it is tests/kernels_on_host's
#define DYNAMIC_SHARED(T, NAME) extern __shared__ T NAME[]
#endif

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

// Four neighbours that begin at a multiple of four.
template <typename T> struct alignas(4 * sizeof(T)) Four {
    T at[4];
};

template <typename T> __device__ __forceinline__ float4 to_floats(const Four<T> &x) {
    return make_float4(to_float(x.at[0]), to_float(x.at[1]), to_float(x.at[2]),
                       to_float(x.at[3]));
}

template <typename T> __device__ __forceinline__ float4 load_four(const T *from) {
    return to_floats(*reinterpret_cast<const Four<T> *>(from));
}

__device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

// Has the L2 cache fetch what will be read.
__device__ __forceinline__ void prefetch(const void *line) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
#endif
}

// Kernels may begin while the one before still runs (`launch.rs`): each has to call this
// before it reads or writes what another one writes or reads, and lets the next one begin.
// So only the one before can still be at work when a kernel begins.
__device__ __forceinline__ void after_others() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct Add {
    template <typename V> __device__ __forceinline__ V operator()(V a, V b) const {
        return a + b;
    }
};

struct Larger {
    template <typename V> __device__ __forceinline__ V operator()(V a, V b) const {
        return a < b ? b : a;
    }
};

template <typename V, typename F> __device__ __forceinline__ V warp_total(V value, F combine) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = combine(value, __shfl_xor_sync(~0u, value, distance));
    return value;
}

// The total over a block of 32 times a power of two threads, for all of them; in one order,
// whatever runs first. `scratch`: room for a value of each warp.
template <typename V, typename F>
__device__ __forceinline__ V block_total(V value, F combine, V *scratch) {
    const unsigned warps = blockDim.x / 32;
    value = warp_total(value, combine);
    // What is in `scratch` was used.
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    // A load for each warp: all of them reading all values keep each other waiting.
    V total = scratch[threadIdx.x % warps];
    for (unsigned distance = warps / 2; distance > 0; distance /= 2)
        total = combine(total, __shfl_xor_sync(~0u, total, distance));
    return total;
}

// What becomes of a layer's outputs.
enum Then { KEEP = 0, GELU = 1, ADD = 2, GATE = 3 };

__device__ __forceinline__ float gelu(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }
