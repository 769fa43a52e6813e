// What the kernels share: numbers in three formats, and totals of a block.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

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

template <typename T> __device__ __forceinline__ float4 load_four(const T *from) {
    const Four<T> x = *reinterpret_cast<const Four<T> *>(from);
    return make_float4(to_float(x.at[0]), to_float(x.at[1]), to_float(x.at[2]),
                       to_float(x.at[3]));
}

__device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
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

// The total over a block, for all of its threads; in one order, whatever runs first.
// `scratch`: room for a value of each warp.
template <typename V, typename F>
__device__ __forceinline__ V block_total(V value, F combine, V *scratch) {
    value = warp_total(value, combine);
    // What is in `scratch` was used.
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    V total = scratch[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp)
        total = combine(total, scratch[warp]);
    return total;
}
