// Functions of single elements of tensors of one shape, in f32 whatever the storage.
#include "common.cuh"

// x Phi(x), and its derivative.
__device__ __forceinline__ float normal_cdf(float x) {
    return 0.5f + 0.5f * erff(x * 0.70710678f);
}

struct Leaky {
    __device__ static float of(float x, float slope) { return x > 0.0f ? x : x * slope; }
};
struct LeakyBack {
    __device__ static float of(float x, float dy, float slope) {
        return x > 0.0f ? dy : dy * slope;
    }
};
struct Gelu {
    __device__ static float of(float x, float) { return x * normal_cdf(x); }
};
struct GeluBack {
    __device__ static float of(float x, float dy, float) {
        return dy * (normal_cdf(x) + x * (0.3989423f * expf(-0.5f * x * x)));
    }
};
struct Gate {
    __device__ static float of(float a, float b, float) { return a * sigmoid(a) * b; }
};

// Elements of this thread: every so many vectors, beginning at its own.
#define EACH(VEC, N)                                                                          \
    for (uint64_t at = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) * VEC; at < N;       \
         at += (uint64_t)gridDim.x * blockDim.x * VEC)

template <typename T, int VEC, typename F>
__device__ void map1(const T *x, float scalar, uint64_t n, T *y) {
    EACH(VEC, n) {
        float values[VEC];
        load(x + at, values);
#pragma unroll
        for (int j = 0; j < VEC; ++j) values[j] = F::of(values[j], scalar);
        store(y + at, values);
    }
}

template <typename T, int VEC, typename F>
__device__ void map2(const T *a, const T *b, float scalar, uint64_t n, T *y) {
    EACH(VEC, n) {
        float left[VEC], right[VEC];
        load(a + at, left);
        load(b + at, right);
#pragma unroll
        for (int j = 0; j < VEC; ++j) left[j] = F::of(left[j], right[j], scalar);
        store(y + at, left);
    }
}

// The gradients of silu(a) * b.
template <typename T, int VEC>
__device__ void gate_back(const T *a, const T *b, const T *dy, uint64_t n, T *da, T *db) {
    EACH(VEC, n) {
        float gate[VEC], value[VEC], gradient[VEC];
        load(a + at, gate);
        load(b + at, value);
        load(dy + at, gradient);
#pragma unroll
        for (int j = 0; j < VEC; ++j) {
            const float share = sigmoid(gate[j]), slope = share * (1.0f + gate[j] * (1.0f - share));
            value[j] *= gradient[j] * slope;
            gradient[j] *= gate[j] * share;
        }
        store(da + at, value);
        store(db + at, gradient);
    }
}

#define ONE(T, VEC, NAME, F)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                               \
        const T *x, float scalar, uint64_t n, T *y) {                                         \
        map1<T, VEC, F>(x, scalar, n, y);                                                     \
    }
#define TWO(T, VEC, NAME, F)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                               \
        const T *a, const T *b, float scalar, uint64_t n, T *y) {                             \
        map2<T, VEC, F>(a, b, scalar, n, y);                                                  \
    }

#define KERNELS(T, VEC, SUFFIX)                                                               \
    ONE(T, VEC, leaky_##SUFFIX, Leaky)                                                        \
    TWO(T, VEC, leaky_back_##SUFFIX, LeakyBack)                                               \
    ONE(T, VEC, gelu_##SUFFIX, Gelu)                                                          \
    TWO(T, VEC, gelu_back_##SUFFIX, GeluBack)                                                 \
    TWO(T, VEC, gate_##SUFFIX, Gate)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) gate_back_##SUFFIX(                 \
        const T *a, const T *b, const T *dy, float, uint64_t n, T *da, T *db) {               \
        gate_back<T, VEC>(a, b, dy, n, da, db);                                               \
    }

FOR_ALL_TYPES(KERNELS)
