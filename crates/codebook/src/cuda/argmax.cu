// The first of the largest of each row; `failed` is set, and the code is NO_CODE, where a
// row has a NaN. One block for each row.
#include <cstdint>

constexpr uint32_t NO_CODE = 0xffffffffu;

template <typename T>
__device__ void argmax_rows(const T* scores, int64_t len, uint32_t* codes, uint32_t* failed) {
    __shared__ T best_of[32];
    __shared__ uint32_t code_of[32];
    const T* row = scores + (int64_t)blockIdx.x * len;
    T best = -INFINITY;
    uint32_t code = NO_CODE;
    bool nan = false;
    auto take = [&](T score, uint32_t of) {
        // A row of nothing but minus infinity has a first code too.
        if (score > best || (score == best && of < code)) {
            best = score;
            code = of;
        }
    };
    for (int64_t i = threadIdx.x; i < len; i += blockDim.x) {
        T score = row[i];
        nan |= isnan(score);
        take(score, (uint32_t)i);
    }
    nan = __syncthreads_or(nan);
    auto reduce = [&] {
        for (int i = 16; i > 0; i /= 2) {
            T score = __shfl_xor_sync(~0u, best, i);
            uint32_t of = __shfl_xor_sync(~0u, code, i);
            take(score, of);
        }
    };
    reduce();
    if (threadIdx.x % 32 == 0) {
        best_of[threadIdx.x / 32] = best;
        code_of[threadIdx.x / 32] = code;
    }
    __syncthreads();
    if (threadIdx.x >= 32) return;
    bool used = threadIdx.x < blockDim.x / 32;
    best = used ? best_of[threadIdx.x] : (T)-INFINITY;
    code = used ? code_of[threadIdx.x] : NO_CODE;
    reduce();
    if (threadIdx.x != 0) return;
    if (nan) atomicOr(failed, 1u);
    codes[blockIdx.x] = nan ? NO_CODE : code;
}

extern "C" __global__ void __launch_bounds__(256) argmax_f32(
    const float* scores, int64_t len, uint32_t* codes, uint32_t* failed
) {
    argmax_rows(scores, len, codes, failed);
}

extern "C" __global__ void __launch_bounds__(256) argmax_f64(
    const double* scores, int64_t len, uint32_t* codes, uint32_t* failed
) {
    argmax_rows(scores, len, codes, failed);
}
