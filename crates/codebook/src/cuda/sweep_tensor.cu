// The sweep on Hopper's tensor cores. Vectors and codes are rounded to f16, which the
// bound on errors accounts for: what may be the nearest code goes to `resolve`.
//
// A block has its vectors in shared memory for good. One warp has the copy engine bring
// tiles of codes, 64 dimensions at a time, which lie in memory as they will lie here
// (prepare.cu), as far ahead as there is room; two warpgroups multiply them with half of
// the vectors each and look at the scores in registers: no score is ever written.
//
// Every block reads the whole codebook, at large sizes faster than the L2 cache can give
// it. So blocks of many vectors have 256 of them and tiles of 128 codes, which is half the
// traffic of 128 vectors and 256 codes at as many registers.
#include "facts.cuh"
#include "hopper.cuh"
#include "products.cuh"

constexpr int HALF = 64;               // vectors of a product
constexpr int IMAGE_ROWS = 128;        // vectors of a block of their image
constexpr int CHUNK = 64;              // dimensions at a time
constexpr int CONSUMERS = 2;           // warpgroups that multiply
constexpr int STAGES = 8;              // at most
constexpr int START_BUFFERS = 10;      // more tiles than can be in flight
constexpr uint32_t ROW_BYTES = CHUNK * 2;
constexpr uint32_t IMAGE_BYTES = IMAGE_ROWS * ROW_BYTES;

// Of a block of `BLOCKS` times 128 vectors.
template <int BLOCKS> struct Sizes {
    static constexpr int rows = BLOCKS * IMAGE_ROWS;
    static constexpr int codes = TILE / BLOCKS;
    static constexpr int sums = codes / 2; // of a thread, for each of its `BLOCKS`
    static constexpr uint32_t codes_bytes = codes * ROW_BYTES;
    static constexpr uint32_t starts_bytes = codes * 4;
};

template <int BLOCKS> struct Control {
    uint64_t full[STAGES], empty[STAGES], vectors;
    uint32_t count[Sizes<BLOCKS>::rows];
};

// `chunks`: dimensions / 64, rounded up. `stages`: as many as the shared memory that it
// was launched with has room for. `STEPS`: of 16 dimensions in a chunk.
template <int BLOCKS, int STEPS>
__device__ __forceinline__ void sweep(
    const uint8_t* vectors, const Facts* facts, const uint8_t* codes, const float* starts,
    const float2* tiles, const uint32_t* largest, int64_t rows, int len, int dim, int chunks,
    int stages, int parts, Candidate* candidates, uint32_t* counts, float* limits
) {
    using S = Sizes<BLOCKS>;
    if (!usable(*largest)) return;
    extern __shared__ uint8_t unaligned[];
    __shared__ Control<BLOCKS> control;
    // The swizzle goes by address bits: 1024 bytes.
    uint32_t vectors_here = (shared_address(unaligned) + 1023) & ~1023u;
    uint32_t codes_here = vectors_here + BLOCKS * chunks * IMAGE_BYTES;
    uint32_t starts_here = codes_here + stages * S::codes_bytes;
    uint32_t full = shared_address(control.full), empty = shared_address(control.empty);
    uint32_t vectors_full = shared_address(&control.vectors);
    int part = blockIdx.y;
    int64_t block = blockIdx.x;
    int all = (len + S::codes - 1) / S::codes;
    int first = (int)((int64_t)all * part / parts), last = (int)((int64_t)all * (part + 1) / parts);

    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, CONSUMERS);
        }
        barrier_init(vectors_full, 1);
        // The copy engine has to see the barriers.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    for (int i = threadIdx.x; i < S::rows; i += blockDim.x) control.count[i] = 0;
    __syncthreads();

    int group = threadIdx.x / 128;
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 0) return;
        uint32_t bytes = BLOCKS * chunks * IMAGE_BYTES;
        barrier_expect(vectors_full, bytes);
        for (uint32_t at = 0; at < bytes; at += IMAGE_BYTES)
            bulk_copy(vectors_here + at, vectors + block * bytes + at, IMAGE_BYTES, vectors_full);
        int stage = 0;
        uint32_t parity = 1; // the first wait is for nothing
        for (int tile = first; tile < last; tile++) {
            // Blocks of the image have TILE codes.
            int64_t image = tile / BLOCKS;
            const uint8_t* from = codes + image * chunks * TILE * ROW_BYTES
                + tile % BLOCKS * S::codes_bytes;
            for (int chunk = 0; chunk < chunks; chunk++) {
                barrier_wait(empty + 8 * stage, parity);
                uint32_t ready = full + 8 * stage;
                barrier_expect(ready, S::codes_bytes + (chunk == 0 ? S::starts_bytes : 0));
                bulk_copy(
                    codes_here + stage * S::codes_bytes, from + chunk * TILE * ROW_BYTES,
                    S::codes_bytes, ready
                );
                if (chunk == 0)
                    bulk_copy(
                        starts_here + tile % START_BUFFERS * S::starts_bytes,
                        starts + (int64_t)tile * S::codes, S::starts_bytes, ready
                    );
                if (++stage == stages) {
                    stage = 0;
                    parity ^= 1;
                }
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int thread = threadIdx.x % 128;
    int lane_column = thread % 4 * 2;
    int row_here = (group - 1) * HALF + thread / 32 * 16 + thread % 32 / 4;
    uint32_t own_vectors = vectors_here + (group - 1) * HALF * ROW_BYTES;
    Bound bound(dim, (dim + 32) * 4.0f * UNIT);
    float codes_inverse = 1.0f / scale_for(*largest);
    // A thread has two rows of each of its products: r of block m.
    auto row_of = [&](int m, int r) { return m * IMAGE_ROWS + row_here + 8 * r; };
    Facts of[BLOCKS][2];
    float limit[BLOCKS][2], inverse[BLOCKS][2];
#pragma unroll
    for (int m = 0; m < BLOCKS; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int64_t row = block * S::rows + row_of(m, r);
            of[m][r] = row < rows ? facts[row] : Facts{0.0f, 0.0f, 0.0f, 0.0f};
            inverse[m][r] = of[m][r].inverse * codes_inverse;
            limit[m][r] = -INFINITY;
        }
    float sums[BLOCKS][S::sums];
    // With a tile's chunks all on their way, one warpgroup multiplies a whole tile while the
    // other looks at its scores.
    bool turns = chunks > 1 && chunks <= stages, wait = group != 1;
    barrier_wait(vectors_full, 0);
    int stage = 0, before = -1;
    uint32_t parity = 0;
    for (int tile = first; tile < last; tile++) {
        float2 norms = __ldg(&tiles[tile / BLOCKS]);
        if (turns) {
            if (wait) turn_take(group);
            wait = true;
        }
        for (int chunk = 0; chunk < chunks; chunk++) {
            barrier_wait(full + 8 * stage, parity);
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) pin(sums[m]);
            products_begin();
            uint32_t b = codes_here + stage * S::codes_bytes;
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) {
                uint32_t a = own_vectors + (m * chunks + chunk) * IMAGE_BYTES;
#pragma unroll
                for (int k = 0; k < STEPS; k++)
                    multiply(sums[m], operand(a + k * 32), operand(b + k * 32), chunk + k);
            }
            products_commit();
            // The products of the chunk before are done: its place can be filled.
            products_wait<1>();
            if (before >= 0 && thread == 0) barrier_arrive(empty + 8 * before);
            before = stage;
            if (++stage == stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        // The second warpgroup's last turn is followed by none.
        if (turns && !(group == 2 && tile == last - 1)) turn_give(3 - group);
        products_wait<0>();
        if (thread == 0) barrier_arrive(empty + 8 * before);
        before = -1;
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) pin(sums[m]);

        uint32_t start = starts_here + tile % START_BUFFERS * S::starts_bytes + lane_column * 4;
        float best[BLOCKS][2];
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) best[m][0] = best[m][1] = -INFINITY;
#pragma unroll
        for (int i = 0; i < S::codes / 8; i++) {
            float2 s = load_shared(start + i * 32);
#pragma unroll
            for (int m = 0; m < BLOCKS; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float& low = sums[m][4 * i + 2 * r];
                    float& high = sums[m][4 * i + 2 * r + 1];
                    low = fmaf(low, inverse[m][r], s.x);
                    high = fmaf(high, inverse[m][r], s.y);
                    best[m][r] = fmaxf(best[m][r], fmaxf(low, high));
                }
        }
#pragma unroll
        for (int m = 0; m < BLOCKS; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float error = bound.of(of[m][r], norms.x, norms.y);
                float own = best[m][r], most = own;
                // The four threads of a row are neighbours.
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
                limit[m][r] = fmaxf(limit[m][r], most - error);
                int64_t row = block * S::rows + row_of(m, r);
                if (own + error >= limit[m][r] && row < rows) {
                    Candidate* list = candidates + (row * parts + part) * CANDIDATES;
                    uint32_t* count = &control.count[row_of(m, r)];
                    uint32_t base = tile * S::codes + lane_column;
                    float least = limit[m][r] - error;
                    // First which, without a branch for each: some row of a block gets here
                    // in nearly every tile, and all wait for it.
                    uint32_t low = 0, high = 0;
#pragma unroll
                    for (int i = 0; i < S::codes / 8; i++) {
                        if (sums[m][4 * i + 2 * r] >= least) low |= 1u << i;
                        if (sums[m][4 * i + 2 * r + 1] >= least) high |= 1u << i;
                    }
                    // None has a higher score than the best of them.
                    for (; low; low &= low - 1)
                        keep(count, list, base + 8 * (__ffs(low) - 1), own + error);
                    for (; high; high &= high - 1)
                        keep(count, list, base + 8 * (__ffs(high) - 1) + 1, own + error);
                }
            }
    }
    // The counts of a warp's rows are its own.
    __syncwarp();
#pragma unroll
    for (int m = 0; m < BLOCKS; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int64_t row = block * S::rows + row_of(m, r);
            if (thread % 4 == 0 && row < rows) {
                counts[row * parts + part] = control.count[row_of(m, r)];
                limits[row * parts + part] = limit[m][r];
            }
        }
}

#define SWEEP(BLOCKS, STEPS)                                                                    \
    extern "C" __global__ void __launch_bounds__(128 * (CONSUMERS + 1), 1)                      \
        sweep_tensor_##BLOCKS##_##STEPS(                                                        \
            const uint8_t* vectors, const Facts* facts, const uint8_t* codes,                   \
            const float* starts, const float2* tiles, const uint32_t* largest, int64_t rows,    \
            int len, int dim, int chunks, int stages, int parts, Candidate* candidates,         \
            uint32_t* counts, float* limits                                                     \
        ) {                                                                                     \
        sweep<BLOCKS, STEPS>(                                                                   \
            vectors, facts, codes, starts, tiles, largest, rows, len, dim, chunks, stages,      \
            parts, candidates, counts, limits                                                   \
        );                                                                                      \
    }

SWEEP(1, 1)
SWEEP(1, 4)
SWEEP(2, 1)
SWEEP(2, 4)
