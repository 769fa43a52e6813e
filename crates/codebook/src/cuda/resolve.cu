// From candidates to the nearest code, by exact distances: sums in f64, of the same
// terms in the same order as on the CPU (plain.rs), so that the same code wins.
#include "facts.cuh"

constexpr uint32_t NO_CODE = 0xffffffffu;
constexpr int LANES = 8; // partial sums of the CPU's formula

template <typename T>
__device__ __forceinline__ double squared_distance(const T* a, const T* b, int dim) {
    // No fused multiply-add: the CPU has none there, and the last bit decides ties.
    auto square = [](T x, T y) {
        double difference = __dsub_rn((double)x, (double)y);
        return __dmul_rn(difference, difference);
    };
    double sums[LANES] = {};
    int k = 0;
    for (; k + LANES <= dim; k += LANES)
#pragma unroll
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] = __dadd_rn(sums[lane], square(a[k + lane], b[k + lane]));
    double sum = 0.0, rest = 0.0;
#pragma unroll
    for (int lane = 0; lane < LANES; lane++) sum = __dadd_rn(sum, sums[lane]);
    for (; k < dim; k++) rest = __dadd_rn(rest, square(a[k], b[k]));
    return __dadd_rn(sum, rest);
}

// The same by eight neighbouring lanes, one for each partial sum; all of them get it.
__device__ __forceinline__ double squared_distance_of_lanes(
    const float* a, const float* b, int dim
) {
    int lane = threadIdx.x % LANES, whole = dim / LANES * LANES;
    auto square = [](float x, float y) {
        double difference = __dsub_rn((double)x, (double)y);
        return __dmul_rn(difference, difference);
    };
    double own = 0.0;
    for (int k = lane; k < whole; k += LANES) own = __dadd_rn(own, square(a[k], b[k]));
    double sum = 0.0, rest = 0.0;
#pragma unroll
    for (int i = 0; i < LANES; i++) sum = __dadd_rn(sum, __shfl_sync(~0u, own, i, LANES));
    for (int k = whole; k < dim; k++) rest = __dadd_rn(rest, square(a[k], b[k]));
    return __dadd_rn(sum, rest);
}

struct Nearest {
    double distance;
    uint32_t code;
    __device__ __forceinline__ void take(double distance_, uint32_t code_) {
        if (distance_ < distance || (distance_ == distance && code_ < code)) {
            distance = distance_;
            code = code_;
        }
    }
};

__device__ Nearest of_warp(Nearest found) {
    for (int i = 16; i > 0; i /= 2) {
        double distance = __shfl_xor_sync(~0u, found.distance, i);
        uint32_t code = __shfl_xor_sync(~0u, found.code, i);
        found.take(distance, code);
    }
    return found;
}

// Compares with every code. Sets `failed` where a distance is not finite.
template <typename T>
__device__ uint32_t nearest_of_all(
    const T* vector, const T* codes, int len, int dim, uint32_t* failed
) {
    Nearest found{INFINITY, NO_CODE};
    bool finite = true;
    for (int code = threadIdx.x % 32; code < len; code += 32) {
        double distance = squared_distance(vector, codes + (int64_t)code * dim, dim);
        finite &= isfinite(distance);
        found.take(distance, code);
    }
    if (!__all_sync(~0u, finite)) {
        if (threadIdx.x % 32 == 0) atomicOr(failed, 1u);
        return NO_CODE;
    }
    return of_warp(found).code;
}

template <typename T>
__device__ void all_codes(
    const T* vectors, const T* codes, int64_t rows, int len, int dim, uint32_t* nearest,
    uint32_t* failed
) {
    int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= rows) return;
    uint32_t code = nearest_of_all(vectors + row * dim, codes, len, dim, failed);
    if (threadIdx.x % 32 == 0) nearest[row] = code;
}

// Without a sweep before: the whole search, exactly as the formula says it.
extern "C" __global__ void __launch_bounds__(128) all_codes_f64(
    const double* vectors, const double* codes, int64_t rows, int len, int dim,
    uint32_t* nearest, uint32_t* failed
) {
    all_codes(vectors, codes, rows, len, dim, nearest, failed);
}

extern "C" __global__ void __launch_bounds__(128) all_codes_f32(
    const float* vectors, const float* codes, int64_t rows, int len, int dim,
    uint32_t* nearest, uint32_t* failed
) {
    all_codes(vectors, codes, rows, len, dim, nearest, failed);
}

// One warp for each vector. `failed` is set where a vector has no finite distance to
// some code: its code is NO_CODE then.
extern "C" __global__ void __launch_bounds__(128) resolve(
    const float* vectors, const Facts* facts, const float* codes, const uint32_t* largest,
    const Candidate* candidates, const uint32_t* counts, const float* limits, int64_t rows,
    int len, int dim, int parts, uint32_t* nearest, uint32_t* failed
) {
    int64_t row = (int64_t)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= rows) return;
    int lane = threadIdx.x % 32;
    const float* vector = vectors + row * dim;
    bool swept = usable(*largest) && facts[row].usable > 0.0f;
    float limit = -INFINITY;
    if (swept) {
        for (int part = lane; part < parts; part += 32) {
            swept &= counts[row * parts + part] <= CANDIDATES;
            limit = fmaxf(limit, limits[row * parts + part]);
        }
        for (int i = 16; i > 0; i /= 2) limit = fmaxf(limit, __shfl_xor_sync(~0u, limit, i));
    }
    if (!__all_sync(~0u, swept)) {
        uint32_t code = nearest_of_all(vector, codes, len, dim, failed);
        if (lane == 0) nearest[row] = code;
        return;
    }
    // Mostly there is one candidate, and no distance to compute.
    int mine = 0;
    uint32_t only = NO_CODE;
    for (int part = 0; part < parts; part++) {
        const Candidate* list = candidates + (row * parts + part) * CANDIDATES;
        int count = counts[row * parts + part];
        if (lane < count && list[lane].highest >= limit) {
            mine++;
            only = list[lane].code;
        }
    }
    int all = __reduce_add_sync(~0u, (unsigned)mine);
    if (all == 1) {
        if (mine == 1) nearest[row] = only;
        return;
    }
    // Four at a time: eight lanes for each.
    Nearest found{INFINITY, NO_CODE};
    for (int part = 0; part < parts; part++) {
        const Candidate* list = candidates + (row * parts + part) * CANDIDATES;
        int count = counts[row * parts + part];
        Candidate own = lane < count ? list[lane] : Candidate{NO_CODE, -INFINITY};
        uint32_t left = __ballot_sync(~0u, lane < count && own.highest >= limit);
        while (left) {
            // The lane that has the candidate of this lane's group; the last one again
            // where there are no more.
            for (int i = 0; i < lane / LANES && (left & (left - 1)); i++) left &= left - 1;
            int from = __ffs(left) - 1;
            uint32_t code = __shfl_sync(~0u, own.code, from);
            found.take(squared_distance_of_lanes(vector, codes + (int64_t)code * dim, dim), code);
            // What the last group had was the last to be looked at.
            left &= left - 1;
            left = __shfl_sync(~0u, left, 31);
        }
    }
    found = of_warp(found);
    if (lane == 0) nearest[row] = found.code;
}
