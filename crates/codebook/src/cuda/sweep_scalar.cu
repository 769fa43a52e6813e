// Sweeps over the codes in f32: for few dimensions, where tensor cores would mostly
// multiply zeros, and for GPUs and dimensions that the tensor-core sweep is not for.
//
// A sweep leaves for each vector, in each part of the codebook, the codes that may be
// the nearest (an upper limit to the score reaches `limits`, a score that the nearest
// has at least). More than CANDIDATES of them: the vector is compared with all codes.
#include "facts.cuh"

constexpr int THREADS = 128;
constexpr int GROUP = 8; // codes between two looks at the limit

// Each thread has PER vectors in registers; codes come through shared memory.
template <int DIM, int PER>
__device__ void sweep_few(
    const float* vectors, const Facts* facts, const float* codes, const float* starts,
    const float2* tiles, const uint32_t* largest, int64_t rows, int len, int dim, int parts,
    Candidate* candidates, uint32_t* counts, float* limits
) {
    if (!usable(*largest)) return;
    __shared__ float4 rows_of_tile[TILE * DIM / 4];
    __shared__ float starts_of_tile[TILE];
    float z[PER][DIM], limit[PER];
    Facts of[PER];
    uint32_t count[PER];
    int part = blockIdx.y;
#pragma unroll
    for (int r = 0; r < PER; r++) {
        int64_t row = ((int64_t)blockIdx.x * PER + r) * THREADS + threadIdx.x;
        bool real = row < rows;
        of[r] = real ? facts[row] : Facts{0.0f, 0.0f, 0.0f, 0.0f};
        limit[r] = -INFINITY;
        count[r] = 0;
#pragma unroll
        for (int k = 0; k < DIM; k++)
            z[r][k] = real && k < dim && of[r].usable > 0.0f ? vectors[row * dim + k] : 0.0f;
    }
    Bound bound(dim, (dim + 8) * UNIT);
    int all = (len + TILE - 1) / TILE;
    int first = (int)((int64_t)all * part / parts), last = (int)((int64_t)all * (part + 1) / parts);
    for (int tile = first; tile < last; tile++) {
        int base = tile * TILE, here = min(TILE, len - base);
        __syncthreads();
        float* flat = reinterpret_cast<float*>(rows_of_tile);
        for (int i = threadIdx.x; i < TILE * DIM; i += THREADS) {
            int code = i / DIM, k = i % DIM;
            flat[i] = code < here && k < dim ? codes[(int64_t)(base + code) * dim + k] : 0.0f;
        }
        for (int i = threadIdx.x; i < TILE; i += THREADS) starts_of_tile[i] = starts[base + i];
        __syncthreads();
        float2 norms = tiles[tile];
        float error[PER];
#pragma unroll
        for (int r = 0; r < PER; r++) error[r] = bound.of(of[r], norms.x, 0.0f);
        for (int group = 0; group < here; group += GROUP) {
            float best[PER];
#pragma unroll
            for (int r = 0; r < PER; r++) best[r] = -INFINITY;
            auto score = [&](int r, int code) {
                float sum = starts_of_tile[code];
#pragma unroll
                for (int k = 0; k < DIM / 4; k++) {
                    float4 e = rows_of_tile[code * (DIM / 4) + k];
                    sum = fmaf(z[r][4 * k], e.x, sum);
                    sum = fmaf(z[r][4 * k + 1], e.y, sum);
                    sum = fmaf(z[r][4 * k + 2], e.z, sum);
                    sum = fmaf(z[r][4 * k + 3], e.w, sum);
                }
                return sum;
            };
#pragma unroll
            for (int c = 0; c < GROUP; c++)
#pragma unroll
                for (int r = 0; r < PER; r++) best[r] = fmaxf(best[r], score(r, group + c));
#pragma unroll
            for (int r = 0; r < PER; r++) {
                if (best[r] + error[r] < limit[r]) continue;
                limit[r] = fmaxf(limit[r], best[r] - error[r]);
                int64_t row = ((int64_t)blockIdx.x * PER + r) * THREADS + threadIdx.x;
                if (row >= rows) continue;
                Candidate* list = candidates + (row * parts + part) * CANDIDATES;
                for (int c = 0; c < GROUP; c++) {
                    float highest = score(r, group + c) + error[r];
                    if (highest >= limit[r]) {
                        if (count[r] < CANDIDATES)
                            list[count[r]] = Candidate{(uint32_t)(base + group + c), highest};
                        count[r]++;
                    }
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < PER; r++) {
        int64_t row = ((int64_t)blockIdx.x * PER + r) * THREADS + threadIdx.x;
        if (row < rows) {
            counts[row * parts + part] = count[r];
            limits[row * parts + part] = limit[r];
        }
    }
}

#define SWEEP_FEW(DIM, PER)                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) sweep_few_##DIM(                   \
        const float* vectors, const Facts* facts, const float* codes, const float* starts,   \
        const float2* tiles, const uint32_t* largest, int64_t rows, int len, int dim,        \
        int parts, Candidate* candidates, uint32_t* counts, float* limits                    \
    ) {                                                                                      \
        sweep_few<DIM, PER>(                                                                 \
            vectors, facts, codes, starts, tiles, largest, rows, len, dim, parts,            \
            candidates, counts, limits                                                       \
        );                                                                                   \
    }

SWEEP_FEW(4, 4)
SWEEP_FEW(8, 4)
SWEEP_FEW(16, 4)
SWEEP_FEW(32, 2)

// Any dimension: blocks of 64 vectors and 64 codes, 4 x 4 of them in a thread.
constexpr int SIDE = 64;
constexpr int DEPTH = 16;

extern "C" __global__ void __launch_bounds__(256) sweep_many(
    const float* vectors, const Facts* facts, const float* codes, const float* starts,
    const float2* tiles, const uint32_t* largest, int64_t rows, int len, int dim, int parts,
    Candidate* candidates, uint32_t* counts, float* limits
) {
    if (!usable(*largest)) return;
    // A column more, against conflicts of banks when rows are written.
    __shared__ float z[DEPTH][SIDE + 4], e[DEPTH][SIDE + 4];
    __shared__ uint32_t count[SIDE];
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16, part = blockIdx.y;
    int64_t row0 = (int64_t)blockIdx.x * SIDE;
    if (threadIdx.x < SIDE) count[threadIdx.x] = 0;
    Bound bound(dim, (dim + 8) * UNIT);
    Facts of[4];
    float limit[4];
    for (int i = 0; i < 4; i++) {
        int64_t row = row0 + ty * 4 + i;
        of[i] = row < rows ? facts[row] : Facts{0.0f, 0.0f, 0.0f, 0.0f};
        limit[i] = -INFINITY;
    }
    int all = (len + TILE - 1) / TILE;
    int first = (int)((int64_t)all * part / parts) * TILE;
    int last = min((int)((int64_t)all * (part + 1) / parts) * TILE, len);
    for (int base = first; base < last; base += SIDE) {
        float sum[4][4] = {};
        for (int k0 = 0; k0 < dim; k0 += DEPTH) {
            __syncthreads();
            for (int i = threadIdx.x; i < SIDE * DEPTH; i += 256) {
                int side = i / DEPTH, k = i % DEPTH;
                int64_t row = row0 + side;
                bool in = k0 + k < dim;
                float x = in && row < rows ? vectors[row * dim + k0 + k] : 0.0f;
                // A vector of an infinity would make NaNs, which is fine: it is flagged.
                z[k][side] = x;
                e[k][side] =
                    in && base + side < len ? codes[(int64_t)(base + side) * dim + k0 + k] : 0.0f;
            }
            __syncthreads();
#pragma unroll
            for (int k = 0; k < DEPTH; k++) {
                float a[4], b[4];
#pragma unroll
                for (int i = 0; i < 4; i++) a[i] = z[k][ty * 4 + i];
#pragma unroll
                for (int j = 0; j < 4; j++) b[j] = e[k][tx * 4 + j];
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
            }
        }
        float2 norms = tiles[base / TILE];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float best = -INFINITY;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                // `starts` is padded to whole tiles with minus infinity.
                sum[i][j] += starts[base + tx * 4 + j];
                best = fmaxf(best, sum[i][j]);
            }
            // The 16 threads of a row are neighbours in a warp.
            for (int other = 8; other > 0; other /= 2)
                best = fmaxf(best, __shfl_xor_sync(~0u, best, other));
            float error = bound.of(of[i], norms.x, 0.0f);
            limit[i] = fmaxf(limit[i], best - error);
            int64_t row = row0 + ty * 4 + i;
            if (row >= rows || !(best + error >= limit[i])) continue;
            Candidate* list = candidates + (row * parts + part) * CANDIDATES;
            for (int j = 0; j < 4; j++)
                if (sum[i][j] + error >= limit[i])
                    keep(&count[ty * 4 + i], list, base + tx * 4 + j, sum[i][j] + error);
        }
    }
    __syncthreads();
    for (int i = 0; i < 4; i++) {
        int64_t row = row0 + ty * 4 + i;
        if (row < rows && tx == 0) {
            counts[row * parts + part] = count[ty * 4 + i];
            limits[row * parts + part] = limit[i];
        }
    }
}
